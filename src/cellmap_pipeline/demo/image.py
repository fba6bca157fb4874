"""A scene of the demo drawn on a grid: electron micrograph and labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cellmap_pipeline.demo.scene import PLASMA_MEMBRANE, Body, Mito, Scene
from cellmap_pipeline.demo.shapes import (
    Array,
    Axes,
    Field,
    axes_in,
    axes_of,
    band,
    box_slices,
    ellipsoid_distance,
    mix,
    points_of,
    step,
)
from cellmap_pipeline.geometry import Grid

LABELS = ("nuc", "mito", "ves", "pm", "ne", "mito_mem")

# Grey values.
CYTOSOL, RIBOSOME, MEMBRANE = 148.0, 96.0, 74.0
OUTSIDE, LUMEN = 166.0, 162.0
MATRIX, CRISTA = 124.0, 82.0
EUCHROMATIN, HETEROCHROMATIN, PORE = 153.0, 102.0, 112.0
LYSOSOME, DROPLET, DENSE_CORE = 98.0, 106.0, 92.0

# Thicknesses, nm.
MITO_MEMBRANE, CRISTA_HALF, VESICLE_MEMBRANE = 24.0, 9.0, 16.0
ENVELOPE, LEAFLET = 50.0, 17.0
ER_LUMEN_HALF, ER_HALF, ER_PERIOD = 13.0, 29.0, 125.0

BLUR = (6.0, 5.0, 5.0)  # standard deviation of the point spread, nm
NOISE = 13.0  # of a voxel of 8 nm in cytosol


def draw(
    scene: Scene, grid: Grid, rng: np.random.Generator, drift: tuple[Field, Field]
) -> tuple[NDArray[np.uint8], dict[str, NDArray]]:
    """Draw `scene` on `grid`.

    Parameters
    ----------
    scene
        What to draw.
    grid
        Where; the scene holds all of it.
    rng
        Of the acquisition noise alone.
    drift
        Slow changes of contrast and of brightness over the dataset.

    Returns
    -------
    raw
        (z, y, x) uint8.
    labels
        By name, (z, y, x): nuc, mito and ves as uint16 ids, the others as uint8 0/1.
    """
    canvas = _Canvas(scene, axes_of(grid), grid.shape)
    for number, mito in enumerate(scene.mitos, 1):
        canvas.mito(number, mito)
    for number, body in enumerate(scene.bodies, 1):
        canvas.body(number, body)
    canvas.er()
    if scene.nucleus is not None:
        canvas.nucleus(scene.nucleus)
    canvas.cell_border()
    return _acquire(canvas.image, grid, rng, drift), canvas.labels


class _Canvas:
    """The image in the making, without blur and noise."""

    def __init__(self, scene: Scene, axes: Axes, shape: tuple[int, int, int]) -> None:
        self.scene, self.axes = scene, axes
        self.labels: dict[str, NDArray] = {
            name: np.zeros(shape, np.uint16 if name in ("nuc", "mito", "ves") else np.uint8)
            for name in LABELS
        }
        self.depth = scene.depth.on(axes)
        self.clear = self.depth - np.float32(PLASMA_MEMBRANE)  # distance to the nearest object
        self.fine = scene.noise["fine"].on(axes)
        self.image = 7 * scene.noise["coarse"].on(axes)
        self.image += 8 * self.fine + np.float32(CYTOSOL)
        mix(self.image, RIBOSOME, step(scene.noise["ribosomes"].on(axes) - np.float32(1.5), 0.6))

    def mito(self, number: int, mito: Mito) -> None:
        """Double membrane, matrix, and cristae across."""
        box = box_slices(self.axes, *mito.distance.bounds)
        axes = axes_in(self.axes, box)
        if not all(a.size for a in axes):
            return
        distance = mito.distance.on(axes)
        noise = self.scene.noise
        phase = mito.along.on(axes) / np.float32(mito.period) + 0.35 * noise["crista_bend"].on(axes)
        sheet = np.abs(phase - np.rint(phase)) * np.float32(mito.period)
        crista = step(CRISTA_HALF - sheet, 6) * step(noise["crista_extent"].on(axes) + 0.4, 0.3)
        inside = step(-distance, 6)
        image = self.image[box]
        mix(image, MATRIX + 7 * self.fine[box], inside)
        mix(image, CRISTA, crista * inside)
        mix(image, MEMBRANE, band(-distance, 0, MITO_MEMBRANE))
        np.minimum(self.clear[box], distance, out=self.clear[box])
        self.labels["mito"][box][distance < 0] = number
        membrane = (distance < 0) & ((distance > -MITO_MEMBRANE) | (crista > 0.5))
        self.labels["mito_mem"][box][membrane] = 1

    def body(self, number: int, body: Body) -> None:
        """A vesicle, or something round that has no label."""
        reach = body.radii + 30
        box = box_slices(self.axes, body.centre - reach, body.centre + reach)
        axes = axes_in(self.axes, box)
        if not all(a.size for a in axes):
            return
        distance = ellipsoid_distance(points_of(axes), tuple(body.centre), tuple(body.radii))
        image, fine = self.image[box], self.fine[box]
        inside = step(-distance, 5)
        if body.kind == "lysosome":
            grains = 14 * fine + 20 * self.scene.noise["chromatin"].on(axes)
            mix(image, LYSOSOME + grains, inside)
            mix(image, MEMBRANE, band(-distance, 0, VESICLE_MEMBRANE))
        elif body.kind == "droplet":
            mix(image, DROPLET, inside)
        else:
            mix(image, LUMEN + 3 * fine, inside)
            mix(image, MEMBRANE, band(-distance, 0, VESICLE_MEMBRANE, 5))
        if body.kind == "vesicle":
            if body.dense:
                mix(image, DENSE_CORE, step(-distance - np.float32(0.5 * body.radii.min()), 8))
            ids = self.labels["ves"][box]
            ids[(distance < 0) & (ids == 0)] = number
        np.minimum(self.clear[box], distance, out=self.clear[box])

    def er(self) -> None:
        """Stacks of up to three sheets where nothing else is."""
        level = self.scene.er.on(self.axes)
        sheet = np.abs(level - ER_PERIOD * np.clip(np.rint(level / ER_PERIOD), -1, 1))
        there = step(self.clear - 16, 10)
        if self.scene.nucleus is not None:
            there *= step(self.scene.nucleus.on(self.axes) - 20, 10)
        there *= step(self.scene.noise["er"].on(self.axes) - 0.1, 0.2)
        mix(self.image, LUMEN, there * step(ER_LUMEN_HALF - sheet, 6))
        mix(self.image, MEMBRANE, there * band(sheet, ER_LUMEN_HALF, ER_HALF))

    def nucleus(self, nucleus: Field) -> None:
        """Envelope of two membranes with pores, chromatin denser next to it."""
        distance = nucleus.on(self.axes)
        noise = self.scene.noise
        dense = noise["chromatin"].on(self.axes) + np.exp(np.minimum(distance + ENVELOPE, 0) / 60)
        chromatin = np.full_like(distance, EUCHROMATIN) + 5 * self.fine
        mix(chromatin, HETEROCHROMATIN + 5 * self.fine, step(dense - 1.0, 1.0))
        mix(self.image, chromatin, step(-distance, 6))
        inward = -distance
        mix(self.image, LUMEN, band(inward, 0, ENVELOPE))
        mix(self.image, MEMBRANE, band(inward, 0, LEAFLET))
        mix(self.image, MEMBRANE, band(inward, ENVELOPE - LEAFLET, ENVELOPE))
        pore = step(noise["pores"].on(self.axes) - 1.7, 0.4)
        mix(self.image, PORE, pore * band(inward, -4, ENVELOPE + 4))
        self.labels["nuc"][distance < 0] = 1
        self.labels["ne"][(distance < 0) & (inward < ENVELOPE)] = 1

    def cell_border(self) -> None:
        """Plasma membranes and what lies between them."""
        mix(self.image, OUTSIDE + 5 * self.fine, step(-self.depth, 6))
        mix(self.image, MEMBRANE - 4, band(self.depth, 0, PLASMA_MEMBRANE))
        self.labels["pm"][(self.depth > 0) & (self.depth < PLASMA_MEMBRANE)] = 1


def _acquire(
    image: Array, grid: Grid, rng: np.random.Generator, drift: tuple[Field, Field]
) -> NDArray[np.uint8]:
    """Blur, drift of contrast, brightness that jumps from slice to slice, and noise."""
    image = gaussian_filter(image, [b / v for b, v in zip(BLUR, grid.voxel_size, strict=True)])
    axes = axes_of(grid)
    contrast, brightness = (f.on(axes) for f in drift)
    image = 128 + (image - 128) * (1 + 0.08 * contrast) + 7 * brightness
    image += 2 * rng.standard_normal((grid.shape[0], 1, 1), dtype=np.float32)
    # A smaller voxel collects fewer electrons, but not in proportion: dwell times differ too.
    strength = NOISE * (8 / np.cbrt(np.prod(grid.voxel_size))) ** 0.5
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise *= np.float32(strength) * np.sqrt(np.clip(image, 20, 255) / np.float32(CYTOSOL))
    return np.clip(np.rint(image + noise), 1, 255).astype(np.uint8)
