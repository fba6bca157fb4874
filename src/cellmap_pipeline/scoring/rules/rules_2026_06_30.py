"""Rules of 2026-06-30 (cellmap-segmentation-challenge, utils.eval_utils)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.rules.base import Rules


class Rules20260630(Rules):
    """Distances count relative to the diagonal of a voxel, and unmatched objects at the cap."""

    name = "2026-06-30"
    ids_collide = True

    def object_scores(
        self, distances_nm: NDArray[np.float64], cap_nm: float, voxel_size: Sequence[float]
    ) -> NDArray[np.float64]:
        """Normalize distances as 1.01^(−distance / diagonal of a voxel)."""
        capped = np.where(np.isnan(distances_nm), cap_nm, distances_nm)
        return 1.01 ** (-capped / np.linalg.norm(voxel_size))
