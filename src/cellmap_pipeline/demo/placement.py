"""Random placement of mitochondria and roundish objects in the free space of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellmap_pipeline.demo.scene import LATTICE_NM, Body, BodyKind, Mito, Scene
from cellmap_pipeline.demo.shapes import (
    Array,
    Axes,
    Field,
    Vector,
    axes_in,
    box_slices,
    ellipsoid_distance,
    path_distance,
    points_of,
    random_direction,
    smooth_max,
    smooth_noise,
)

Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]  # of points in the flattened lattice

SLIM_MITO_RADIUS_NM = 80.0
FIELD_MARGIN_NM = 60.0  # extent of a distance field beyond its object


@dataclass
class Placer:
    """Adds objects to a scene without overlap.

    Attributes
    ----------
    rng
        Random generator.
    scene
        Scene to fill.
    axes
        Axes of the scene's lattice.
    clearance
        Distance to the nearest object placed so far, on the scene's lattice, nm.
    """

    rng: np.random.Generator
    scene: Scene
    axes: Axes
    clearance: Array

    def add_mitos(self, region: Mask, share: float, max_radius: float) -> None:
        """Fill `share` of a region with mitochondria of radii up to `max_radius`.

        If there is no room for them, they become slimmer; slimmer than `SLIM_MITO_RADIUS_NM` only
        while hardly any of the region is filled.
        """
        points, filled = np.flatnonzero(region), np.zeros(region.shape, bool)
        for _ in range(60):
            filled_share = (filled & region).sum() / max(1, region.sum())
            if filled_share >= share or (filled_share > 0.03 and max_radius < SLIM_MITO_RADIUS_NM):
                return
            radius = self.rng.uniform(0.65, 1) * max_radius
            gap = self.rng.choice([6.0, 14.0, 40.0])
            center = self._choose_point(points, radius + gap, tight=self.rng.random() < 0.6)
            if center is None:
                max_radius *= 0.92
                continue
            path = self._longest_free_path(center, radius + gap)
            box, mito = self._make_mito(path, radius, gap)
            filled[box] |= mito.distance.values < 0
            self.scene.mitos.append(mito)

    def add_vesicle_clusters(self, region: Mask, count: int) -> None:
        """Add up to `count` clusters of vesicles that may touch."""
        points = np.flatnonzero(region)
        for _ in range(count):
            seed = self._choose_point(points, 55)
            if seed is None:
                return
            half_side = self.rng.uniform(120, 190)
            cluster = np.zeros(region.shape, bool)
            cluster[box_slices(self.axes, seed - half_side, seed + half_side)] = True
            nearby = np.flatnonzero(cluster & region)
            for _ in range(self.rng.integers(12, 24)):
                self._add_body("vesicle", self.rng.uniform(32, 50), nearby, gap=2, tight=False)

    def add_bodies(
        self,
        region: Mask,
        kind: BodyKind,
        radii: tuple[float, float],
        count: int,
        tight: bool = False,
    ) -> None:
        """Add up to `count` objects of one kind, as many as have room.

        Parameters
        ----------
        region
            Lattice points where their centers may lie.
        kind
            Kind of the objects.
        radii
            Smallest and largest radius, nm.
        count
            Number of objects.
        tight
            Whether they lie close to another object.
        """
        points = np.flatnonzero(region)
        for _ in range(count):
            self._add_body(kind, self.rng.uniform(*radii), points, gap=12, tight=tight)

    def _add_body(
        self, kind: BodyKind, radius: float, points: Indices, gap: float, tight: bool
    ) -> None:
        center = self._choose_point(points, radius + gap, tight)
        if center is None:
            return
        # Off the lattice point, so that vesicles do not form rows.
        center += self.rng.uniform(-0.4, 0.4, 3) * LATTICE_NM
        stretch = 1.0 if kind == "vesicle" else 1.25
        radii = radius * self.rng.uniform(0.92, stretch, 3)
        body = Body(kind, center, radii, dense=self.rng.random() < 0.12)
        self.scene.bodies.append(body)
        box = box_slices(
            self.axes, center - radius - FIELD_MARGIN_NM, center + radius + FIELD_MARGIN_NM
        )
        positions = points_of(axes_in(self.axes, box))
        distance = ellipsoid_distance(positions, tuple(center), tuple(radii))
        self.clearance[box] = np.minimum(self.clearance[box], distance)

    def _choose_point(
        self, points: Indices, min_clearance: float, tight: bool = False
    ) -> Vector | None:
        """Choose a random one of `points` with more than `min_clearance`; if `tight`, little more.

        Returns
        -------
        array or None
            Its position, nm; None if no such point was found.
        """
        if not points.size:
            return None
        # A few tries suffice if there is much room.
        for n_tries in (200, 20_000):
            tried = self.rng.choice(points, n_tries)
            clearance = self.clearance.flat[tried]
            free = tried[clearance > min_clearance]
            if free.size:
                barely_free = tried[(clearance > min_clearance) & (clearance < min_clearance + 20)]
                chosen = self.rng.choice(barely_free if tight and barely_free.size else free)
                index = np.unravel_index(chosen, self.clearance.shape)
                return np.array([a[i] for a, i in zip(self.axes, index, strict=True)], float)
        return None

    def _longest_free_path(self, center: Vector, min_clearance: float) -> Vector:
        """The longest of several random bent lines through `center` with `min_clearance`.

        Returns
        -------
        array
            (n, 3) positions along the line, nm.
        """
        fallback = 8 * random_direction(self.rng)
        best = np.array([center - fallback, center + fallback])
        for _ in range(8):
            length, bend = self.rng.uniform(250, 800), random_direction(self.rng) * 0.25
            direction = random_direction(self.rng)
            s = np.linspace(-0.5, 0.5, 13)[:, None] * length
            points = center + s * direction + bend * s * np.abs(s) / length
            is_free = self._clearance_at(points) > min_clearance
            start = stop = 6
            while start > 0 and is_free[start - 1]:
                start -= 1
            while stop < 12 and is_free[stop + 1]:
                stop += 1
            if stop - start + 1 > len(best):
                best = points[start : stop + 1]
        return best

    def _clearance_at(self, points: Vector) -> Array:
        index = [
            np.clip(np.rint((p - a[0]) / LATTICE_NM).astype(int), 0, len(a) - 1)
            for p, a in zip(points.T, self.axes, strict=True)
        ]
        return self.clearance[tuple(index)]

    def _make_mito(self, path: Vector, radius: float, gap: float) -> tuple[tuple[slice, ...], Mito]:
        box = box_slices(
            self.axes,
            path.min(0) - radius - FIELD_MARGIN_NM,
            path.max(0) + radius + FIELD_MARGIN_NM,
        )
        axes = axes_in(self.axes, box)
        distance, along = path_distance(points_of(axes), path)
        bounds = [a[0] for a in axes], [a[-1] for a in axes]
        distance += 12 * smooth_noise(self.rng, *bounds, 110).on(axes) - np.float32(radius)
        # Keep the gap to existing objects: surfaces in contact become flat.
        distance = smooth_max(distance, np.float32(gap) - self.clearance[box], 40)
        components, count = ndimage.label(distance < 0)
        if count > 1:
            largest = np.bincount(components[components > 0]).argmax()
            distance[(components > 0) & (components != largest)] = LATTICE_NM
        self.clearance[box] = np.minimum(self.clearance[box], distance)
        origin = np.array(bounds[0], float)
        period = self.rng.uniform(62, 85)
        mito = Mito(Field(distance, origin, LATTICE_NM), Field(along, origin, LATTICE_NM), period)
        return box, mito
