"""Rules of July 2026 (cellmap-segmentation-challenge, pull requests 213 and 214)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.rules.base import DistanceScale
from cellmap_pipeline.scoring.rules.distances import DistanceRules

WORST_MATCH_SCORE = 0.1


class Rules202607(DistanceRules):
    """Unmatched objects count 0, and the worst match counts 0.1 in every crop."""

    name = "2026-07"
    note = (
        "the curve between a distance of 0 and the cap is not published; 0.1^(distance / cap) is "
        "assumed"
    )

    def normalize(
        self, distances_nm: NDArray[np.float64], scale: DistanceScale
    ) -> NDArray[np.float64]:
        """Score distances as 0.1^(distance / cap).

        Only the ends of this curve are certain, 1 at distance 0 and 0.1 at the cap: the pull
        requests describe them, but not the shape between them. The other curve that fits their
        words is 0.1 + 0.9 · (q(d) − q(cap)) / (1 − q(cap)) with q(d) = 1.01^(−d / diagonal of a
        voxel); at 4 nm, a cap of 1,200 nm and a distance of 100 nm, they are 0.825 and 0.854.
        """
        return np.nan_to_num(WORST_MATCH_SCORE ** (distances_nm / scale.cap_nm), nan=0.0)
