"""Rules of 2026-06-30 (cellmap-segmentation-challenge, utils.eval_utils)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.rules.base import DistanceScale
from cellmap_pipeline.scoring.rules.distances import DistanceRules


class _WithoutCollisions(DistanceRules):
    name = "2026-06-30"

    def normalize(
        self, distances_nm: NDArray[np.float64], scale: DistanceScale
    ) -> NDArray[np.float64]:
        """Score distances as 1.01^(−distance / diagonal of a voxel)."""
        capped = np.where(np.isnan(distances_nm), scale.cap_nm, distances_nm)
        return 1.01 ** (-capped / np.linalg.norm(scale.voxel_size))


class Rules20260630(_WithoutCollisions):
    """Distances count relative to the diagonal of a voxel, and unmatched objects at the cap."""

    ids_collide = True
    without_collisions = _WithoutCollisions()
