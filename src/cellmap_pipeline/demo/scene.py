"""Description of a demo scene, independent of the grid on which it is drawn.

A scene is described in world coordinates (nm): cells in contact, a nucleus, mitochondria, vesicles,
and objects that are easily mistaken for them (ER, lysosomes, lipid droplets, endosomes). Sizes and
intensities follow FIB-SEM of resin-embedded cells: dark membranes on a lighter background.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cellmap_pipeline.demo.shapes import Field, Vector

BodyKind = Literal["vesicle", "lysosome", "droplet", "endosome"]

LATTICE_NM = 12.0  # spacing of the distance fields
PLASMA_MEMBRANE_NM = 22.0


@dataclass(frozen=True)
class Mito:
    """A mitochondrion.

    Attributes
    ----------
    distance
        Distance to its surface, nm.
    along
        Position along its axis, nm.
    period
        Distance between its cristae, nm.
    """

    distance: Field
    along: Field
    period: float


@dataclass(frozen=True)
class Body:
    """A roundish object: an ellipsoid with axes along z, y and x.

    Attributes
    ----------
    kind
        Kind of the object.
    center
        Position of its center, nm.
    radii
        Radii along z, y and x, nm.
    dense
        Whether a vesicle has a dense core.
    """

    kind: BodyKind
    center: Vector
    radii: Vector
    dense: bool = False


@dataclass
class Scene:
    """The content of a box of tissue.

    Attributes
    ----------
    depth
        Distance inwards from the border of a cell, nm; negative in extracellular space.
    nucleus
        Distance to the surface of a nucleus, nm, if there is one.
    er
        Distance to the middle of a sheet of endoplasmic reticulum, nm.
    noise
        Textures by name.
    mitos
        Mitochondria.
    bodies
        Roundish objects.
    """

    depth: Field
    nucleus: Field | None
    er: Field
    noise: dict[str, Field]
    mitos: list[Mito] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
