"""Semantic score of a label, as the CellMap challenge's official evaluator computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.rules.base import Counts, Rules
from cellmap_pipeline.scoring.slabs import ArrayLike, slabs
from cellmap_pipeline.scoring.summary import Scores


def score_semantic(
    pred: ArrayLike | NDArray[Any], truth: ArrayLike | NDArray[Any], rules: Rules
) -> Scores:
    """Count a predicted label against the ground truth, as `scores.json` has the counts.

    The parameters are those of `count_semantic`, and it raises as that does.

    Returns
    -------
    `tp`, `fp`, `fn`
        Number of voxels; by rules that count a semantic label as one object, number of objects,
        with `sum_iou`.
    `status`
        `scored`.
    """
    return rules.voxel_fields(count_semantic(pred, truth, rules)) | {"status": "scored"}


def count_semantic(
    pred: ArrayLike | NDArray[Any], truth: ArrayLike | NDArray[Any], rules: Rules
) -> Counts:
    """Count the voxels of a predicted label against the ground truth.

    Parameters
    ----------
    pred, truth
        (z, y, x); voxels above 0 are inside. Read in slabs.
    rules
        The evaluator's rules, which may count the label as one object.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if tuple(pred.shape) != tuple(truth.shape):
        raise ValueError(f"prediction {pred.shape} and ground truth {truth.shape} differ in shape")
    tp = predicted = true = 0
    for pred_slab, true_slab in slabs(pred, truth):
        pred_mask, true_mask = pred_slab > 0, true_slab > 0
        predicted += int(np.count_nonzero(pred_mask))
        true += int(np.count_nonzero(true_mask))
        tp += int(np.count_nonzero(pred_mask & true_mask))
    return rules.count_voxels(tp, predicted - tp, true - tp)
