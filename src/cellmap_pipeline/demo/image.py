"""Drawing of a demo scene on a grid: electron micrograph and labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cellmap_pipeline.demo.scene import PLASMA_MEMBRANE_NM, Body, Mito, Scene
from cellmap_pipeline.demo.shapes import (
    Array,
    Axes,
    Field,
    axes_in,
    axes_of,
    band,
    blend,
    box_slices,
    ellipsoid_distance,
    points_of,
    step,
)
from cellmap_pipeline.geometry import Grid

LABELS = ("nuc", "mito", "ves", "pm", "ne", "mito_mem")

# Gray values.
CYTOSOL, RIBOSOME, MEMBRANE = 148.0, 96.0, 74.0
OUTSIDE, LUMEN = 166.0, 162.0
MATRIX, CRISTA = 124.0, 82.0
EUCHROMATIN, HETEROCHROMATIN, PORE = 153.0, 102.0, 112.0
LYSOSOME, DROPLET, DENSE_CORE = 98.0, 106.0, 92.0

# Thicknesses.
MITO_MEMBRANE_NM, CRISTA_HALF_NM, VESICLE_MEMBRANE_NM = 24.0, 9.0, 16.0
ENVELOPE_NM, LEAFLET_NM = 50.0, 17.0
ER_LUMEN_HALF_NM, ER_HALF_NM, ER_PERIOD_NM = 13.0, 29.0, 125.0

POINT_SPREAD_STD_NM = (6.0, 5.0, 5.0)
NOISE_STD = 13.0  # in gray values, for a voxel of 8 nm in cytosol


def draw_scene(
    scene: Scene, grid: Grid, rng: np.random.Generator, drift: tuple[Field, Field]
) -> tuple[NDArray[np.uint8], dict[str, NDArray]]:
    """Draw `scene` on `grid`.

    Parameters
    ----------
    scene
        Scene to draw.
    grid
        Grid to draw on; it must lie within the scene.
    rng
        Random generator of the acquisition noise only.
    drift
        Slow changes of contrast and of brightness over the dataset.

    Returns
    -------
    raw
        (z, y, x) uint8.
    labels
        (z, y, x) by name: nuc, mito and ves as uint16 ids, the others as uint8 0/1.
    """
    canvas = _Canvas(scene, axes_of(grid), grid.shape)
    for number, mito in enumerate(scene.mitos, 1):
        canvas.draw_mito(number, mito)
    for number, body in enumerate(scene.bodies, 1):
        canvas.draw_body(number, body)
    canvas.draw_er()
    if scene.nucleus is not None:
        canvas.draw_nucleus(scene.nucleus)
    canvas.draw_cell_border()
    return _acquire(canvas.image, grid, rng, drift), canvas.labels


class _Canvas:
    """The unfinished image, without blur and noise, and its labels."""

    def __init__(self, scene: Scene, axes: Axes, shape: tuple[int, int, int]) -> None:
        self.scene, self.axes = scene, axes
        self.labels: dict[str, NDArray] = {
            name: np.zeros(shape, np.uint16 if name in ("nuc", "mito", "ves") else np.uint8)
            for name in LABELS
        }
        self.depth = scene.depth.on(axes)
        # Distance to the nearest object drawn so far.
        self.clearance = self.depth - np.float32(PLASMA_MEMBRANE_NM)
        self.fine = scene.noise["fine"].on(axes)
        self.image = 7 * scene.noise["coarse"].on(axes)
        self.image += 8 * self.fine + np.float32(CYTOSOL)
        blend(self.image, RIBOSOME, step(scene.noise["ribosomes"].on(axes) - np.float32(1.5), 0.6))

    def draw_mito(self, number: int, mito: Mito) -> None:
        """Draw a mitochondrion: double membrane, matrix, and cristae across it."""
        box = box_slices(self.axes, *mito.distance.bounds)
        axes = axes_in(self.axes, box)
        if not all(a.size for a in axes):
            return
        distance = mito.distance.on(axes)
        noise = self.scene.noise
        phase = mito.along.on(axes) / np.float32(mito.period) + 0.35 * noise["crista_bend"].on(axes)
        sheet = np.abs(phase - np.rint(phase)) * np.float32(mito.period)
        crista = step(CRISTA_HALF_NM - sheet, 6) * step(noise["crista_extent"].on(axes) + 0.4, 0.3)
        inside = step(-distance, 6)
        image = self.image[box]
        blend(image, MATRIX + 7 * self.fine[box], inside)
        blend(image, CRISTA, crista * inside)
        blend(image, MEMBRANE, band(-distance, 0, MITO_MEMBRANE_NM))
        np.minimum(self.clearance[box], distance, out=self.clearance[box])
        self.labels["mito"][box][distance < 0] = number
        membrane = (distance < 0) & ((distance > -MITO_MEMBRANE_NM) | (crista > 0.5))
        self.labels["mito_mem"][box][membrane] = 1

    def draw_body(self, number: int, body: Body) -> None:
        """Draw a vesicle, or a roundish object that has no label."""
        reach = body.radii + 30
        box = box_slices(self.axes, body.center - reach, body.center + reach)
        axes = axes_in(self.axes, box)
        if not all(a.size for a in axes):
            return
        distance = ellipsoid_distance(points_of(axes), tuple(body.center), tuple(body.radii))
        image, fine = self.image[box], self.fine[box]
        inside = step(-distance, 5)
        if body.kind == "lysosome":
            grains = 14 * fine + 20 * self.scene.noise["chromatin"].on(axes)
            blend(image, LYSOSOME + grains, inside)
            blend(image, MEMBRANE, band(-distance, 0, VESICLE_MEMBRANE_NM))
        elif body.kind == "droplet":
            blend(image, DROPLET, inside)
        else:
            blend(image, LUMEN + 3 * fine, inside)
            blend(image, MEMBRANE, band(-distance, 0, VESICLE_MEMBRANE_NM, 5))
        if body.kind == "vesicle":
            if body.dense:
                blend(image, DENSE_CORE, step(-distance - np.float32(0.5 * body.radii.min()), 8))
            ids = self.labels["ves"][box]
            ids[(distance < 0) & (ids == 0)] = number
        np.minimum(self.clearance[box], distance, out=self.clearance[box])

    def draw_er(self) -> None:
        """Draw stacks of up to three sheets of endoplasmic reticulum in the free cytosol."""
        level = self.scene.er.on(self.axes)
        sheet = np.abs(level - ER_PERIOD_NM * np.clip(np.rint(level / ER_PERIOD_NM), -1, 1))
        weight = step(self.clearance - 16, 10)
        if self.scene.nucleus is not None:
            weight *= step(self.scene.nucleus.on(self.axes) - 20, 10)
        weight *= step(self.scene.noise["er"].on(self.axes) - 0.1, 0.2)
        blend(self.image, LUMEN, weight * step(ER_LUMEN_HALF_NM - sheet, 6))
        blend(self.image, MEMBRANE, weight * band(sheet, ER_LUMEN_HALF_NM, ER_HALF_NM))

    def draw_nucleus(self, nucleus: Field) -> None:
        """Draw an envelope of two membranes with pores, and chromatin that is denser next to it."""
        distance = nucleus.on(self.axes)
        noise = self.scene.noise
        dense = noise["chromatin"].on(self.axes) + np.exp(
            np.minimum(distance + ENVELOPE_NM, 0) / 60
        )
        chromatin = np.full_like(distance, EUCHROMATIN) + 5 * self.fine
        blend(chromatin, HETEROCHROMATIN + 5 * self.fine, step(dense - 1.0, 1.0))
        blend(self.image, chromatin, step(-distance, 6))
        inward = -distance
        blend(self.image, LUMEN, band(inward, 0, ENVELOPE_NM))
        blend(self.image, MEMBRANE, band(inward, 0, LEAFLET_NM))
        blend(self.image, MEMBRANE, band(inward, ENVELOPE_NM - LEAFLET_NM, ENVELOPE_NM))
        pore = step(noise["pores"].on(self.axes) - 1.7, 0.4)
        blend(self.image, PORE, pore * band(inward, -4, ENVELOPE_NM + 4))
        self.labels["nuc"][distance < 0] = 1
        self.labels["ne"][(distance < 0) & (inward < ENVELOPE_NM)] = 1

    def draw_cell_border(self) -> None:
        """Draw plasma membranes and the extracellular space between them."""
        blend(self.image, OUTSIDE + 5 * self.fine, step(-self.depth, 6))
        blend(self.image, MEMBRANE - 4, band(self.depth, 0, PLASMA_MEMBRANE_NM))
        self.labels["pm"][(self.depth > 0) & (self.depth < PLASMA_MEMBRANE_NM)] = 1


def _acquire(
    image: Array, grid: Grid, rng: np.random.Generator, drift: tuple[Field, Field]
) -> NDArray[np.uint8]:
    """Apply blur, drift of contrast and brightness, brightness jumps between slices, and noise."""
    image = gaussian_filter(
        image, [b / v for b, v in zip(POINT_SPREAD_STD_NM, grid.voxel_size, strict=True)]
    )
    axes = axes_of(grid)
    contrast, brightness = (f.on(axes) for f in drift)
    image = 128 + (image - 128) * (1 + 0.08 * contrast) + 7 * brightness
    image += 2 * rng.standard_normal((grid.shape[0], 1, 1), dtype=np.float32)
    # A smaller voxel collects fewer electrons, but not in proportion, as dwell times differ, too.
    noise_std = NOISE_STD * (8 / np.cbrt(np.prod(grid.voxel_size))) ** 0.5
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise *= np.float32(noise_std) * np.sqrt(np.clip(image, 20, 255) / np.float32(CYTOSOL))
    return np.clip(np.rint(image + noise), 1, 255).astype(np.uint8)
