"""Generation of random tissue: cells, a nucleus, endoplasmic reticulum and textures."""

from __future__ import annotations

import numpy as np

from cellmap_pipeline.demo.placement import Placer
from cellmap_pipeline.demo.scene import LATTICE_NM, PLASMA_MEMBRANE_NM, Scene
from cellmap_pipeline.demo.shapes import (
    Array,
    Field,
    Vector,
    box_slices,
    cell_depth,
    ellipsoid_distance,
    points_of,
    random_direction,
    smooth_max,
    smooth_noise,
)

TEXTURE_GRAINS_NM = {
    "fine": 20, "coarse": 90, "ribosomes": 15, "er": 170, "chromatin": 48, "pores": 50,
    "crista_bend": 110, "crista_extent": 75,
}  # fmt: skip


def build_scene(
    rng: np.random.Generator,
    box: tuple[Vector, Vector],
    crop: tuple[Vector, Vector],
    nucleus: bool,
) -> Scene:
    """Build a random scene.

    The content of the crop is placed first: a cell border, mitochondria, vesicles and optionally
    part of a nucleus with its envelope.

    Parameters
    ----------
    rng
        Random generator.
    box
        Lower and upper corner of the scene, nm.
    crop
        Lower and upper corner of the crop within it, nm.
    nucleus
        Whether the crop contains part of a nucleus.
    """
    (low, high), (crop_low, crop_high) = box, crop
    shape = np.ceil((high - low) / LATTICE_NM).astype(int) + 1
    lattice = Field(np.zeros(shape, np.float32), low, LATTICE_NM)
    noise = {name: smooth_noise(rng, low, high, grain) for name, grain in TEXTURE_GRAINS_NM.items()}
    center, side = (crop_low + crop_high) / 2, float((crop_high - crop_low).min())
    to_nucleus = random_direction(rng)
    depth, own_depth = _cells(rng, lattice, center, side, to_nucleus if nucleus else None)
    nucleus_field = _nucleus(rng, lattice, center, side, to_nucleus, own_depth) if nucleus else None
    scene = Scene(depth, nucleus_field, _sheets(rng, lattice), noise)
    clearance = depth.values - np.float32(PLASMA_MEMBRANE_NM)
    if nucleus_field is not None:
        np.minimum(clearance, nucleus_field.values, out=clearance)
    inside = np.zeros(shape, bool)
    inside[box_slices(lattice.axes, crop_low, crop_high)] = True
    placer = Placer(rng, scene, lattice.axes, clearance)
    max_radius = float(np.clip(0.35 * side, 60, 215))
    placer.add_bodies(inside, "vesicle", (32, 42), 3, tight=True)
    for region in (inside, ~inside):
        placer.add_mitos(region, share=0.2, max_radius=max_radius)
        um3 = region.sum() * (LATTICE_NM / 1000) ** 3
        placer.add_vesicle_clusters(region, max(2, round(20 * um3)))
        placer.add_bodies(region, "vesicle", (32, 50), max(3, round(35 * um3)))
        placer.add_bodies(region, "lysosome", (65, 130), max(1, round(9 * um3)))
        placer.add_bodies(region, "droplet", (50, 100), max(1, round(7 * um3)))
        placer.add_bodies(region, "endosome", (70, 110), max(1, round(7 * um3)))
    return scene


def _cells(
    rng: np.random.Generator,
    lattice: Field,
    center: Vector,
    side: float,
    to_nucleus: Vector | None,
) -> tuple[Field, Array]:
    """Divide the lattice into cells.

    Parameters
    ----------
    rng
        Random generator.
    lattice
        Lattice of the result.
    center
        Center of the crop, nm.
    side
        Shortest side of the crop, nm.
    to_nucleus
        Direction of the nucleus from the center, if there is one.

    Returns
    -------
    depth
        Distance inwards from the border of the cell at each point, nm.
    own_depth
        The same for the cell around the center, negative outside of it.
    """
    seeds = [center]
    spread = max(side, 450)
    distances = [rng.uniform(0.2, 0.3) * side, *(rng.uniform(0.35, 1.0, 7) * spread)]
    while len(seeds) <= len(distances):
        direction = random_direction(rng)
        # No neighbors on the side of the nucleus.
        if to_nucleus is None or direction @ to_nucleus < -0.1:
            seeds.append(center + 2 * distances[len(seeds) - 1] * direction)
    low, high = lattice.bounds
    warp = [40 * smooth_noise(rng, low, high, 200).on(lattice.axes) for _ in range(3)]
    z, y, x = (p + w for p, w in zip(points_of(lattice.axes), warp, strict=True))
    owner, border = cell_depth((z, y, x), np.array(seeds))
    gap = np.clip(36 + 26 * smooth_noise(rng, low, high, 220).on(lattice.axes), 12, 120)
    depth = border - gap / 2
    own_depth = np.where(owner == 0, depth, -np.abs(depth) - gap)
    return Field(depth, low, LATTICE_NM), own_depth


def _nucleus(
    rng: np.random.Generator,
    lattice: Field,
    center: Vector,
    side: float,
    direction: Vector,
    own_depth: Array,
) -> Field:
    """Distance to a nucleus whose envelope crosses the crop.

    Parameters
    ----------
    rng
        Random generator.
    lattice
        Lattice of the result.
    center
        Center of the crop, nm.
    side
        Shortest side of the crop, nm.
    direction
        Unit vector from the center to the nucleus.
    own_depth
        Depth in the cell around the center, nm.
    """
    low, high = lattice.bounds
    radii = rng.uniform(480, 800, 3)
    radius = 1 / np.linalg.norm(direction / radii)  # in the direction of the crop's center
    nucleus_center = center + direction * (radius + rng.uniform(0.0, 0.08) * side)
    distance = ellipsoid_distance(points_of(lattice.axes), tuple(nucleus_center), tuple(radii))
    distance += 22 * smooth_noise(rng, low, high, 240).on(lattice.axes)
    min_cytosol = min(130, 0.2 * side)  # thickness around the nucleus
    return Field(smooth_max(distance, min_cytosol - own_depth, min_cytosol), low, LATTICE_NM)


def _sheets(rng: np.random.Generator, lattice: Field) -> Field:
    """Distance to the surface on which a smooth noise is zero."""
    low, high = lattice.bounds
    level = smooth_noise(rng, low, high, 260).on(lattice.axes)
    slope = np.sqrt(sum(g * g for g in np.gradient(level, LATTICE_NM)))
    return Field(np.clip(level / np.maximum(slope, 1e-3), -400, 400), low, LATTICE_NM)
