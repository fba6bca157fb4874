"""A draft of rules: panoptic quality (cellmap-segmentation-challenge, pull request 200, open)."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from cellmap_pipeline.scoring.rules.base import (
    Counts,
    DistanceScale,
    MatchEstimate,
    ObjectMatches,
    Rules,
    mean,
)

MIN_IOU = 0.5


class PanopticQuality(Rules):
    """Objects match above an IoU of 0.5 and count by it; a semantic label is one object.

    The pull request is known by its description and its review, not by its code.

    References
    ----------
    Kirillov et al., "Panoptic Segmentation", CVPR 2019.
    """

    name = "pq"
    note = "a draft: proposed in pull request 200 and written from its description, not in force"
    in_force = False
    counts_skipped_crops = True
    object_measure = voxel_measure = "pq"
    explanation = (
        "for all classes the panoptic quality, which is the product of how many objects were found "
        "(circle, recognition) and how well they overlap (diamond, segmentation); a class that is "
        "not counted one by one is a single object in each crop"
    )
    object_components = MappingProxyType(
        {"rq": "recognition: objects found", "sq": "segmentation: overlap"}
    )
    object_sum = voxel_sum = "sum_iou"

    def count_objects(self, found: ObjectMatches, scales: Sequence[DistanceScale] = ()) -> Counts:
        """Sum the IoU of all matches; objects of a crop with too many of them have none."""
        # Of the pairs of an object, only one can have an IoU above a half.
        iou = found.iou[found.iou > MIN_IOU]
        tp, sum_iou = len(iou), float(iou.sum(dtype=float))
        return Counts(tp, found.n_predicted - tp, found.n_true - tp, sum_iou)

    def estimate_matches(self, scales: Sequence[DistanceScale]) -> MatchEstimate:
        """Score a match by its IoU."""
        return MatchEstimate(
            unmatched=0.0, worst_match=0.0, min_iou=MIN_IOU, counts_skipped_crops=True
        )

    def count_voxels(self, tp: int, fp: int, fn: int) -> Counts:
        """Count the voxels that are inside as one object."""
        voxels = tp + fp + fn
        iou = tp / voxels if voxels else 0.0
        if iou > MIN_IOU:
            return Counts(tp=1, score_sum=iou)
        return Counts(fp=int(tp + fp > 0), fn=int(tp + fn > 0))

    def score_objects(self, counts: Counts) -> dict[str, float]:
        """Score a class by the product of segmentation and recognition quality."""
        objects = counts.tp + counts.fp + counts.fn
        if not objects:
            return {"sq": 1.0, "rq": 1.0, "pq": 1.0}
        sq = counts.score_sum / counts.tp if counts.tp else 0.0
        rq = counts.tp / (counts.tp + (counts.fp + counts.fn) / 2)
        return {"sq": sq, "rq": rq, "pq": sq * rq}

    def score_voxels(self, counts: Counts) -> dict[str, float]:
        """Score a class as an instance class."""
        return self.score_objects(counts)

    def overall_score(self, instance: Sequence[float], semantic: Sequence[float]) -> float:
        """Score a submission by the mean over all classes."""
        return mean([*instance, *semantic])
