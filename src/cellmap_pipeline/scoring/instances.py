"""Instance scores of a label, as the CellMap challenge's official evaluator computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from cellmap_pipeline.scoring.matching import match_objects
from cellmap_pipeline.scoring.rules.base import Rules
from cellmap_pipeline.scoring.slabs import ArrayLike
from cellmap_pipeline.scoring.summary import WITHOUT_COLLISIONS, Scores


def score_instance(
    pred: ArrayLike | NDArray[Any],
    truth: ArrayLike | NDArray[Any],
    voxel_size: Sequence[float],
    rules: Rules,
    without_collisions: bool = False,
) -> Scores:
    """Count and measure the objects of a predicted label against the ground truth.

    It raises as `match_objects`.

    Parameters
    ----------
    pred, truth, voxel_size
        As for `match_objects`.
    rules
        The evaluator's rules.
    without_collisions
        Also measure each true object against its match alone, if the rules let ids collide.

    Returns
    -------
    `tp`, `fp`, `fn`
        Number of objects.
    `hausdorff_norm_sum`, `n_hausdorff`
        Sum and number of the normalized distances, where 1 is perfect; `sum_iou` by rules without
        distances.
    `status`
        `scored`, or why nothing matches (`skipped_too_many_instances`, `matching_failed`).
    `hausdorff_norm_sum_without_collisions`
        Only if `without_collisions`, and the rules let ids collide.
    """
    found = match_objects(pred, truth, voxel_size, rules.counts_skipped_crops)
    score = rules.object_fields(rules.count_objects(found)) | {"status": found.status}
    if without_collisions and rules.without_collisions:
        alone = rules.without_collisions.count_objects(found)
        score[rules.object_sum + WITHOUT_COLLISIONS] = alone.score_sum
    return score
