"""The semantic score of one label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.slabs import Volume, slabs
from cellmap_pipeline.scoring.summary import Scores


def score_semantic(pred: Volume | NDArray[Any], truth: Volume | NDArray[Any]) -> Scores:
    """Voxel counts of one predicted label against the truth.

    Parameters
    ----------
    pred, truth
        (z, y, x); voxels above 0 are inside. Read in slabs.

    Returns
    -------
    `tp`, `fp`, `fn` : voxels; `status` : `scored`.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if tuple(pred.shape) != tuple(truth.shape):
        raise ValueError(f"prediction {pred.shape} and truth {truth.shape} differ in shape")
    tp = predicted = true = 0
    for pred_slab, true_slab in slabs(pred, truth):
        inside, wanted = pred_slab > 0, true_slab > 0
        predicted += int(np.count_nonzero(inside))
        true += int(np.count_nonzero(wanted))
        tp += int(np.count_nonzero(inside & wanted))
    return {"tp": tp, "fp": predicted - tp, "fn": true - tp, "status": "scored"}
