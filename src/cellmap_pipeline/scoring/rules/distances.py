"""Base class of the rules that measure the distance of each object to its match."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.rules.base import (
    Counts,
    DistanceScale,
    MatchEstimate,
    ObjectMatches,
    Rules,
    mean,
)


class DistanceRules(Rules):
    """Objects count by Hausdorff distance, voxels by IoU, the classes by a geometric mean.

    Attributes
    ----------
    ids_collide
        Whether an unmatched predicted object that has the id of a true one joins its match.
    """

    ids_collide: ClassVar[bool] = False
    object_measure = "combined_score"
    voxel_measure = "iou"
    explanation = (
        "for classes that are counted one by one, the combined score, which is the geometric mean "
        "of how many objects were found (circle, F1) and how well their outlines fit (diamond, "
        "Hausdorff); for all others, the overlap of the voxels (intersection over union)"
    )
    object_components = MappingProxyType(
        {"f1": "F1: objects found", "normalized_hausdorff_distance": "Hausdorff: outlines"}
    )
    object_sum = "hausdorff_norm_sum"

    @abstractmethod
    def normalize(
        self, distances_nm: NDArray[np.float64], scale: DistanceScale
    ) -> NDArray[np.float64]:
        """Score the distances of objects.

        Parameters
        ----------
        distances_nm
            Hausdorff distances, at most the cap; NaN for objects, true or predicted, without a
            match.
        scale
            The cap and the voxel size of the crop.

        Returns
        -------
        Scores from 0 to 1, where 1 is a perfect match.
        """

    def count_objects(self, found: ObjectMatches, scales: Sequence[DistanceScale] = ()) -> Counts:
        """Sum the scores of all objects, matched or not."""
        if found.status != "scored":
            return Counts()
        scales = scales or [found.scale]
        distances = found.distances(self.ids_collide, max(scale.cap_nm for scale in scales))
        fp, fn = (n - len(found.matches) for n in (found.n_predicted, found.n_true))
        objects = np.concatenate([distances, np.full(fp, np.nan)])
        total = mean([self._score_sum(objects, scale) for scale in scales])
        return Counts(len(found.matches), fp, fn, total)

    def _score_sum(self, distances_nm: NDArray[np.float64], scale: DistanceScale) -> float:
        # The evaluator stores distances in float32, then normalizes them in float64.
        rounded = np.minimum(distances_nm, scale.cap_nm).astype(np.float32).astype(np.float64)
        scale = replace(scale, cap_nm=float(np.float32(scale.cap_nm)))
        return float(np.sum(self.normalize(rounded, scale)))

    def estimate_matches(self, scales: Sequence[DistanceScale]) -> MatchEstimate:
        """Score a match at the cap, and an object without a match."""
        worst, unmatched = np.mean(
            [self.normalize(np.array([scale.cap_nm, np.nan]), scale) for scale in scales], axis=0
        )
        return MatchEstimate(float(unmatched), float(worst))

    def count_voxels(self, tp: int, fp: int, fn: int) -> Counts:
        """Count voxels."""
        return Counts(tp, fp, fn)

    def score_objects(self, counts: Counts) -> dict[str, float]:
        """Score a class by the root of F1 times the mean score of its objects."""
        objects = counts.tp + counts.fp + counts.fn
        f1 = 2 * counts.tp / (objects + counts.tp) if objects else 1.0
        distance = counts.score_sum / objects if objects else 1.0
        return {
            "f1": f1,
            "normalized_hausdorff_distance": distance,
            "combined_score": (f1 * distance) ** 0.5,
        }

    def score_voxels(self, counts: Counts) -> dict[str, float]:
        """Score a class by its IoU."""
        voxels = counts.tp + counts.fp + counts.fn
        return {"iou": counts.tp / voxels if voxels else 1.0}

    def overall_score(self, instance: Sequence[float], semantic: Sequence[float]) -> float:
        """Score a submission by the root of the product of both means."""
        return (mean(instance) * mean(semantic)) ** 0.5

    def object_fields(self, counts: Counts) -> dict[str, Any]:
        """Return the counts of an instance label as `scores.json` has them."""
        objects = counts.tp + counts.fp + counts.fn
        return super().object_fields(counts) | {"n_hausdorff": objects}
