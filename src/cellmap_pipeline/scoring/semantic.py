"""Semantic score of a label, as the CellMap challenge's official evaluator computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.slabs import ArrayLike, slabs
from cellmap_pipeline.scoring.summary import Scores


def score_semantic(pred: ArrayLike | NDArray[Any], truth: ArrayLike | NDArray[Any]) -> Scores:
    """Count the voxels of a predicted label against the ground truth.

    Parameters
    ----------
    pred, truth
        (z, y, x); voxels above 0 are inside. Read in slabs.

    Returns
    -------
    `tp`, `fp`, `fn`
        Number of voxels.
    `status`
        `scored`.

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
    return {"tp": tp, "fp": predicted - tp, "fn": true - tp, "status": "scored"}
