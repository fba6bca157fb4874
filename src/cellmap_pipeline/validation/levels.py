"""Scores of a semantic label at all thresholds of a uint8 probability, from histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.rules.base import Counts, Rules
from cellmap_pipeline.segmentation.landscapes import smooth
from cellmap_pipeline.validation.cases import LoadedCase

# Number of values of a uint8 probability.
PROBABILITY_LEVELS = 256


class LevelScores:
    """The scores by level (0..255) from which voxels count as inside; counts are cached per case.

    Parameters
    ----------
    label
        Name of the label.
    cases
        Cases over which counts are pooled.
    rules
        The evaluator's rules.
    """

    def __init__(self, label: str, cases: Sequence[LoadedCase], rules: Rules) -> None:
        self._label, self._cases, self._rules = label, cases, rules
        self._counts: dict[tuple[int, float], list[Counts]] = {}

    def scores(self, indices: Sequence[int], smooth_nm: float = 0.0) -> NDArray[np.float64]:
        """Return the score by level, pooled over the cases with these indices."""
        pooled = [Counts()] * PROBABILITY_LEVELS
        for i in indices:
            if (i, smooth_nm) not in self._counts:
                self._counts[i, smooth_nm] = self._count(self._cases[i], smooth_nm)
            pooled = [a + b for a, b in zip(pooled, self._counts[i, smooth_nm], strict=True)]
        return np.array([self._rules.score(counts, instance=False) for counts in pooled])

    def _count(self, case: LoadedCase, smooth_nm: float) -> list[Counts]:
        smoothed = smooth(case.channels[self._label], case.voxel_size, smooth_nm)
        level, truth = np.rint(smoothed).astype(np.uint8), case.truth > 0
        if case.known is not None:
            level, truth = level[case.known], truth[case.known]
        inside = np.bincount(level[truth], minlength=PROBABILITY_LEVELS)
        everywhere = np.bincount(level.ravel(), minlength=PROBABILITY_LEVELS)
        tp = inside[::-1].cumsum()[::-1]
        fp = everywhere[::-1].cumsum()[::-1] - tp
        fn = inside.sum() - tp
        voxels = zip(tp.tolist(), fp.tolist(), fn.tolist(), strict=True)
        return [self._rules.count_voxels(*numbers) for numbers in voxels]


def threshold_at_level(level: int) -> float:
    """Return a threshold that voxels of `level` reach and lower ones do not, despite rounding."""
    return round((level - 0.5) / 255, 4)
