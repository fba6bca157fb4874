"""A piece of tissue for the demo: placed at random, then drawn on any grid.

A scene is described in world coordinates (nm): cells that touch, a nucleus, mitochondria, vesicles,
and what must not be mistaken for them (ER, lysosomes, lipid droplets, endosomes). Its size and
intensities follow FIB-SEM of resin-embedded cells: dark membranes on a lighter ground.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellmap_pipeline.demo.shapes import (
    Array,
    Axes,
    Field,
    Vector,
    axes_in,
    box_slices,
    cell_depth,
    ellipsoid_distance,
    path_distance,
    points_of,
    smooth_max,
    smooth_noise,
)

Mask = NDArray[np.bool_]
Spots = NDArray[np.intp]

LATTICE = 12.0  # spacing of the distance fields
PLASMA_MEMBRANE = 22.0
SLIM_MITO = 80.0
REACH = 60.0  # how far around an object its distance field goes


@dataclass(frozen=True)
class Mito:
    """A mitochondrion: distance to its surface and position along it."""

    distance: Field
    along: Field
    period: float  # of its cristae


@dataclass(frozen=True)
class Body:
    """A roundish object: an ellipsoid with axes along z, y, x."""

    kind: str  # vesicle, lysosome, droplet, endosome
    centre: Vector
    radii: Vector
    dense: bool = False


@dataclass
class Scene:
    """Everything in a box of tissue.

    `depth` is the distance from a cell's border inwards (negative in extracellular space),
    `er` the distance to the middle of a sheet, `noise` the textures by name.
    """

    depth: Field
    nucleus: Field | None
    er: Field
    noise: dict[str, Field]
    mitos: list[Mito] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)


# Grain of each texture.
TEXTURES = {
    "fine": 20, "coarse": 90, "ribosomes": 15, "er": 170, "chromatin": 48, "pores": 50,
    "crista_bend": 110, "crista_extent": 75,
}  # fmt: skip


def build_scene(
    rng: np.random.Generator,
    box: tuple[Vector, Vector],
    crop: tuple[Vector, Vector],
    nucleus: bool,
) -> Scene:
    """Fill `box` (lower and upper corner).

    What the `crop` in it is to show is placed there first: a cell border, mitochondria, vesicles
    and, if asked for, part of a nucleus with its envelope.
    """
    (low, high), (crop_low, crop_high) = box, crop
    shape = np.ceil((high - low) / LATTICE).astype(int) + 1
    lattice = Field(np.zeros(shape, np.float32), low, LATTICE)
    noise = {name: smooth_noise(rng, low, high, grain) for name, grain in TEXTURES.items()}
    centre, side = (crop_low + crop_high) / 2, float((crop_high - crop_low).min())
    towards = _direction(rng)
    depth, own = _cells(rng, lattice, centre, side, towards if nucleus else None)
    nucleus_field = _nucleus(rng, lattice, centre, side, towards, own) if nucleus else None
    scene = Scene(depth, nucleus_field, _sheets(rng, lattice), noise)
    room = depth.values - np.float32(PLASMA_MEMBRANE)
    if nucleus_field is not None:
        np.minimum(room, nucleus_field.values, out=room)
    inside = np.zeros(shape, bool)
    inside[box_slices(lattice.axes, crop_low, crop_high)] = True
    placer = _Placer(rng, scene, lattice.axes, room)
    widest = float(np.clip(0.35 * side, 60, 215))
    placer.bodies(inside, "vesicle", (32, 42), 3, snug=True)
    for where in (inside, ~inside):
        placer.mitos(where, share=0.2, widest=widest)
        volume = where.sum() * (LATTICE / 1000) ** 3  # µm³
        placer.vesicle_clusters(where, max(2, round(20 * volume)))
        placer.bodies(where, "vesicle", (32, 50), max(3, round(35 * volume)))
        placer.bodies(where, "lysosome", (65, 130), max(1, round(9 * volume)))
        placer.bodies(where, "droplet", (50, 100), max(1, round(7 * volume)))
        placer.bodies(where, "endosome", (70, 110), max(1, round(7 * volume)))
    return scene


def _cells(
    rng: np.random.Generator, lattice: Field, centre: Vector, side: float, nucleus: Vector | None
) -> tuple[Field, Array]:
    """Depth in the cell at each point, and the same signed for the cell around `centre`."""
    seeds = [centre]
    spread = max(side, 450)
    distances = [rng.uniform(0.2, 0.3) * side, *(rng.uniform(0.35, 1.0, 7) * spread)]
    while len(seeds) <= len(distances):
        way = _direction(rng)
        # Neighbours keep off the side where the nucleus lies.
        if nucleus is None or way @ nucleus < -0.1:
            seeds.append(centre + 2 * distances[len(seeds) - 1] * way)
    low, high = lattice.bounds
    warp = [40 * smooth_noise(rng, low, high, 200).on(lattice.axes) for _ in range(3)]
    z, y, x = (p + w for p, w in zip(points_of(lattice.axes), warp, strict=True))
    owner, border = cell_depth((z, y, x), np.array(seeds))
    gap = np.clip(36 + 26 * smooth_noise(rng, low, high, 220).on(lattice.axes), 12, 120)
    depth = border - gap / 2
    own = np.where(owner == 0, depth, -np.abs(depth) - gap)
    return Field(depth, low, LATTICE), own


def _nucleus(
    rng: np.random.Generator,
    lattice: Field,
    centre: Vector,
    side: float,
    towards: Vector,
    own: Array,
) -> Field:
    """Distance to a nucleus whose envelope crosses the crop around `centre`."""
    low, high = lattice.bounds
    radii = rng.uniform(480, 800, 3)
    reach = 1 / np.linalg.norm(towards / radii)  # the radius in the direction of the centre
    middle = centre + towards * (reach + rng.uniform(0.0, 0.08) * side)
    distance = ellipsoid_distance(points_of(lattice.axes), tuple(middle), tuple(radii))
    distance += 22 * smooth_noise(rng, low, high, 240).on(lattice.axes)
    rim = min(130, 0.2 * side)  # of cytosol around it at least
    return Field(smooth_max(distance, rim - own, rim), low, LATTICE)


def _sheets(rng: np.random.Generator, lattice: Field) -> Field:
    """Distance to the surface where a smooth noise is zero."""
    low, high = lattice.bounds
    level = smooth_noise(rng, low, high, 260).on(lattice.axes)
    slope = np.sqrt(sum(g * g for g in np.gradient(level, LATTICE)))
    return Field(np.clip(level / np.maximum(slope, 1e-3), -400, 400), low, LATTICE)


@dataclass
class _Placer:
    """Puts objects where there is room and takes the room away."""

    rng: np.random.Generator
    scene: Scene
    axes: Axes
    room: Array  # distance to the nearest object placed so far, on the scene's lattice

    def mitos(self, where: Mask, share: float, widest: float) -> None:
        """Fill `share` of `where` with mitochondria of radii up to `widest`.

        Where that is too wide, they are slimmer, but below `SLIM_MITO` only if there is hardly any.
        """
        spots, filled = np.flatnonzero(where), np.zeros(where.shape, bool)
        for _ in range(60):
            there = (filled & where).sum() / max(1, where.sum())
            if there >= share or (there > 0.03 and widest < SLIM_MITO):
                return
            radius = self.rng.uniform(0.65, 1) * widest
            gap = self.rng.choice([6.0, 14.0, 40.0])
            centre = self._pick(spots, radius + gap, snug=self.rng.random() < 0.6)
            if centre is None:
                widest *= 0.92
                continue
            path = self._path(centre, radius + gap)
            box, mito = self._mito(path, radius, gap)
            filled[box] |= mito.distance.values < 0
            self.scene.mitos.append(mito)

    def vesicle_clusters(self, where: Mask, count: int) -> None:
        """Put `count` heaps of vesicles that may touch."""
        spots = np.flatnonzero(where)
        for _ in range(count):
            seed = self._pick(spots, 55)
            if seed is None:
                return
            spread = self.rng.uniform(120, 190)
            box = box_slices(self.axes, seed - spread, seed + spread)
            heap = np.zeros(where.shape, bool)
            heap[box] = True
            near = np.flatnonzero(heap & where)
            for _ in range(self.rng.integers(12, 24)):
                self._body("vesicle", self.rng.uniform(32, 50), near, gap=2, snug=False)

    def bodies(
        self, where: Mask, kind: str, radii: tuple[float, float], count: int, snug: bool = False
    ) -> None:
        """Put `count` objects of one kind, radii between the two given, where there is room.

        `snug` ones lie close to something else.
        """
        spots = np.flatnonzero(where)
        for _ in range(count):
            self._body(kind, self.rng.uniform(*radii), spots, gap=12, snug=snug)

    def _body(self, kind: str, radius: float, spots: Spots, gap: float, snug: bool) -> None:
        centre = self._pick(spots, radius + gap, snug)
        if centre is None:
            return
        # Off the lattice point, so that vesicles do not stand in rows.
        centre += self.rng.uniform(-0.4, 0.4, 3) * LATTICE
        stretch = 1.0 if kind == "vesicle" else 1.25
        radii = radius * self.rng.uniform(0.92, stretch, 3)
        body = Body(kind, centre, radii, dense=self.rng.random() < 0.12)
        self.scene.bodies.append(body)
        box = box_slices(self.axes, centre - radius - REACH, centre + radius + REACH)
        points = points_of(axes_in(self.axes, box))
        distance = ellipsoid_distance(points, tuple(centre), tuple(radii))
        self.room[box] = np.minimum(self.room[box], distance)

    def _pick(self, spots: Spots, room: float, snug: bool = False) -> Vector | None:
        """A random one of `spots` with more than `room` around it; if `snug`, not much more."""
        if not spots.size:
            return None
        for tries in (200, 20_000):  # few do where there is much room
            tried = self.rng.choice(spots, tries)
            around = self.room.flat[tried]
            free = tried[around > room]
            if free.size:
                tight = tried[(around > room) & (around < room + 20)]
                chosen = self.rng.choice(tight if snug and tight.size else free)
                index = np.unravel_index(chosen, self.room.shape)
                return np.array([a[i] for a, i in zip(self.axes, index, strict=True)], float)
        return None

    def _path(self, centre: Vector, room: float) -> Vector:
        """The longest of some bent lines through `centre` that have `room` around them."""
        short = 8 * _direction(self.rng)
        best = np.array([centre - short, centre + short])
        for _ in range(8):
            length, bend = self.rng.uniform(250, 800), _direction(self.rng) * 0.25
            way = _direction(self.rng)
            s = np.linspace(-0.5, 0.5, 13)[:, None] * length
            points = centre + s * way + bend * s * np.abs(s) / length
            roomy = self._room_at(points) > room
            start = stop = 6
            while start > 0 and roomy[start - 1]:
                start -= 1
            while stop < 12 and roomy[stop + 1]:
                stop += 1
            if stop - start + 1 > len(best):
                best = points[start : stop + 1]
        return best

    def _room_at(self, points: Vector) -> Array:
        index = [
            np.clip(np.rint((p - a[0]) / LATTICE).astype(int), 0, len(a) - 1)
            for p, a in zip(points.T, self.axes, strict=True)
        ]
        return self.room[tuple(index)]

    def _mito(self, path: Vector, radius: float, gap: float) -> tuple[tuple[slice, ...], Mito]:
        box = box_slices(self.axes, path.min(0) - radius - REACH, path.max(0) + radius + REACH)
        axes = axes_in(self.axes, box)
        distance, along = path_distance(points_of(axes), path)
        bounds = [a[0] for a in axes], [a[-1] for a in axes]
        distance += 12 * smooth_noise(self.rng, *bounds, 110).on(axes) - np.float32(radius)
        # Yield to what is there already: surfaces in contact flatten.
        distance = smooth_max(distance, np.float32(gap) - self.room[box], 40)
        parts, count = ndimage.label(distance < 0)
        if count > 1:
            main = np.bincount(parts[parts > 0]).argmax()
            distance[(parts > 0) & (parts != main)] = LATTICE
        self.room[box] = np.minimum(self.room[box], distance)
        origin = np.array(bounds[0], float)
        period = self.rng.uniform(62, 85)
        mito = Mito(Field(distance, origin, LATTICE), Field(along, origin, LATTICE), period)
        return box, mito


def _direction(rng: np.random.Generator) -> Vector:
    way = rng.standard_normal(3)
    return way / np.linalg.norm(way)
