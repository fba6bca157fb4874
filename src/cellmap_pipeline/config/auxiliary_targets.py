"""The auxiliary channels that a training learns for a class, beside the class itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter

from cellmap_pipeline.channels import (
    AFFINITY_SUFFIXES,
    AUXILIARY_SUFFIXES,
    DESCRIPTOR_SUFFIXES,
    long_range_suffix,
    output_channels,
)
from cellmap_pipeline.config.symmetries import canonical_offset, missing_offsets
from cellmap_pipeline.config.types import Name, Section
from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Shape, Vector, shape_of

NEAREST_OFFSETS: tuple[Shape, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
# Each takes memory and time in both methods that use affinities.
MAX_OFFSETS = 16
# The paper's sigma for neurons at 8 nm.
DEFAULT_SIGMA_NM = 80.0


class Affinities(Section):
    """Affinities between voxels at given offsets, those of the nearest neighbors among them."""

    affinities: list[tuple[float, float, float]] = Field(
        min_length=1,
        max_length=MAX_OFFSETS,
        description="offsets [z, y, x] between two voxels; [1, 0, 0], [0, 1, 0] and [0, 0, 1] are "
        "among them",
    )
    unit: Literal["voxels", "nm"] = Field(
        "voxels",
        description="unit of the offsets; those in nm are rounded to voxels of the training's "
        "`voxel_size`",
    )

    def offsets(self, voxel_size: Vector) -> list[Shape]:
        """Return the offsets in voxels; the first component that is not 0 is positive.

        Raises
        ------
        ValueError
            An offset is no whole number of voxels, 0, or repeated, or a nearest neighbor is
            missing.
        """
        found: list[Shape] = []
        for offset in self.affinities:
            voxels = self._in_voxels(offset, voxel_size)
            if voxels in found:
                raise ValueError(
                    f"affinities: {_text(offset)} {self.unit} is {list(voxels)} voxels, which is "
                    "listed already (opposite offsets are the same): remove one"
                )
            found.append(voxels)
        missing = [list(offset) for offset in NEAREST_OFFSETS if offset not in found]
        if missing:
            raise ValueError(
                f"affinities: the methods that use them need nearest neighbors, too: add "
                f"{', '.join(map(str, missing))} (in voxels)"
            )
        return found

    def rounded(self, voxel_size: Vector) -> Iterator[tuple[Vector, Vector]]:
        """Yield the offsets in nm that are no whole number of voxels, as given and as rounded."""
        for offset in self.affinities if self.unit == "nm" else ():
            voxels = [round(o / v) for o, v in zip(offset, voxel_size, strict=True)]
            used = _three(o * v for o, v in zip(voxels, voxel_size, strict=True))
            by_axis = zip(offset, used, voxel_size, strict=True)
            if any(abs(a - b) > TOLERANCE_VOXELS * v for a, b, v in by_axis):
                yield offset, used

    def _in_voxels(self, offset: Sequence[float], voxel_size: Vector) -> Shape:
        """Return the offset that stands for a pair of voxels."""
        steps = voxel_size if self.unit == "nm" else (1.0, 1.0, 1.0)
        lengths = [o / s for o, s in zip(offset, steps, strict=True)]
        if self.unit == "voxels" and any(not length.is_integer() for length in lengths):
            raise ValueError(
                f"affinities: {_text(offset)} is no whole number of voxels: round it, or set "
                "`unit: nm`"
            )
        voxels = shape_of(round(length) for length in lengths)
        if not any(voxels):
            raise ValueError(
                f"affinities: {_text(offset)} {self.unit} is no voxel away: give a longer offset"
            )
        return canonical_offset(voxels)[0]


class DescriptorOptions(Section):
    """Options of local shape descriptors."""

    sigma_nm: float = Field(
        DEFAULT_SIGMA_NM,
        gt=0,
        le=10_000,
        description="sigma of the Gaussian around a voxel that weights its object's voxels, nm: "
        "about the radius of the objects, such as 80 to 120 for neurites, 40 for vesicles",
    )


class Descriptors(Section):
    """Local shape descriptors with options."""

    descriptors: DescriptorOptions


def _branch(target: Any) -> str:
    """Tell which of the types below a target is, so that errors are about that one alone.

    Messages leave out parts of a key that are in brackets (`messages`).
    """
    if isinstance(target, Descriptors) or (isinstance(target, dict) and "descriptors" in target):
        return "(descriptors)"
    return "(affinities)" if isinstance(target, Affinities | dict) else "(name)"


Auxiliary = Annotated[
    Annotated[Literal["boundary", "distance", "affinities", "descriptors"], Tag("(name)")]
    | Annotated[Affinities, Tag("(affinities)")]
    | Annotated[Descriptors, Tag("(descriptors)")],
    Discriminator(_branch),
]
Targets = dict[Name, Annotated[list[Auxiliary], Field(max_length=8)]]


def auxiliary_suffixes(targets: Iterable[Auxiliary], voxel_size: Vector) -> list[str]:
    """List the suffixes of the channels of a class's auxiliary targets.

    Raises
    ------
    ValueError
        As for `Affinities.offsets`; or a channel is listed twice.
    """
    suffixes: list[str] = []
    for target in targets:
        if isinstance(target, Descriptors) or target == "descriptors":
            suffixes += DESCRIPTOR_SUFFIXES
        elif isinstance(target, Affinities):
            suffixes += (_affinity_suffix(o, voxel_size) for o in target.offsets(voxel_size))
        else:
            suffixes += AUXILIARY_SUFFIXES[target]
    repeated = {suffix for suffix in suffixes if suffixes.count(suffix) > 1}
    if repeated:
        raise ValueError(f"lists {', '.join(sorted(repeated))} twice: remove one")
    return suffixes


def descriptor_sigmas_nm(targets: Targets) -> dict[str, float]:
    """Return the sigma of the local shape descriptors of each class that has them, nm."""
    return {
        label: found.descriptors.sigma_nm
        for label, of_label in targets.items()
        for found in _descriptors(of_label)
    }


def _descriptors(targets: Iterable[Auxiliary]) -> Iterator[Descriptors]:
    """Yield the descriptors among the targets of a class, at most one of them."""
    for target in targets:
        if target == "descriptors":
            yield Descriptors(descriptors=DescriptorOptions())
        elif isinstance(target, Descriptors):
            yield target


def channels_of_settings(settings: Mapping[str, Any]) -> list[str]:
    """List the output channels that the settings of a training, as in its checkpoint, stand for."""
    targets = TypeAdapter(Targets).validate_python(settings["targets"])
    return training_channels(settings["classes"], targets, _three(settings["voxel_size"]))


def training_channels(classes: Sequence[str], targets: Targets, voxel_size: Vector) -> list[str]:
    """List the output channels of a network; errors are those of `auxiliary_suffixes`."""
    suffixes = {}
    for label, of_label in targets.items():
        try:
            suffixes[label] = auxiliary_suffixes(of_label, voxel_size)
        except ValueError as error:
            raise ValueError(f"`targets`: {label}: {error}") from None
    return output_channels(classes, suffixes)


def check_targets(targets: Targets, voxel_size: Vector, patch_size: Shape) -> None:
    """Check the targets, and that there are pairs of voxels of all affinities in a patch.

    Raises
    ------
    ValueError
        As for `auxiliary_suffixes`; or an offset is as long as a patch, or the sigma of
        descriptors shorter than a voxel.
    """
    training_channels([], targets, voxel_size)
    for label, of_label in targets.items():
        for found in _descriptors(of_label):
            if found.descriptors.sigma_nm < max(voxel_size):
                raise ValueError(
                    f"`targets`: {label}: descriptors: a Gaussian of `sigma_nm: "
                    f"{found.descriptors.sigma_nm:g}` reaches no neighbor at {max(voxel_size):g} "
                    "nm per voxel: raise it to that, or more"
                )
        for target in of_label:
            for offset in target.offsets(voxel_size) if isinstance(target, Affinities) else ():
                if any(abs(o) >= n for o, n in zip(offset, patch_size, strict=True)):
                    raise ValueError(
                        f"`targets`: {label}: affinities: no two voxels of a patch are "
                        f"{list(offset)} voxels apart (`patch_size: {list(patch_size)}`): give a "
                        "shorter offset"
                    )


def check_symmetries(targets: Targets, voxel_size: Vector, n_symmetries: int) -> None:
    """Check that symmetries exchange the affinities of a class with one another.

    Raises
    ------
    ValueError
        A symmetry makes an offset of another one that is not predicted.
    """
    for label, of_label in targets.items():
        for target in of_label:
            offsets = target.offsets(voxel_size) if isinstance(target, Affinities) else ()
            if missing := missing_offsets(offsets, n_symmetries):
                raise ValueError(
                    f"`inference.symmetries: {n_symmetries}` exchanges affinities with those of "
                    f"other offsets: add {', '.join(str(list(offset)) for offset in missing)} "
                    f"(voxels) to those of {label} in `targets`, or use fewer symmetries"
                )


def rounding_notes(targets: Targets, voxel_size: Vector) -> list[str]:
    """List a note on each affinity whose offset in nm is no whole number of voxels."""
    return [
        f"the affinity of {label} at {_text(given)} nm is that at {_text(used)} nm, a whole number "
        "of voxels"
        for label, of_label in targets.items()
        for target in of_label
        if isinstance(target, Affinities)
        for given, used in target.rounded(voxel_size)
    ]


def _affinity_suffix(offset: Shape, voxel_size: Vector) -> str:
    if offset in NEAREST_OFFSETS:
        return AFFINITY_SUFFIXES[NEAREST_OFFSETS.index(offset)]
    return long_range_suffix(_three(o * v for o, v in zip(offset, voxel_size, strict=True)))


def _three(lengths: Iterable[float]) -> Vector:
    z, y, x = lengths
    return z, y, x


def _text(offset: Sequence[float]) -> str:
    return f"[{', '.join(f'{o:g}' for o in offset)}]"
