"""The best result of thresholds: the baseline that a network must beat."""

import numpy as np
from numpy.typing import NDArray


def best_band_iou(raw: list[NDArray], truth: list[NDArray]) -> float:
    """Return the best IoU with `truth` of any band lo <= raw < hi."""
    inside = sum(np.bincount(r[t], minlength=256) for r, t in zip(raw, truth, strict=True))
    every = sum(np.bincount(r.ravel(), minlength=256) for r in raw)
    below_inside, below = (np.append(0, np.cumsum(h)) for h in (inside, every))
    hits = below_inside[None] - below_inside[:, None]
    chosen = below[None] - below[:, None]
    union = np.maximum(chosen + np.sum(inside) - hits, 1)
    return float(np.max(hits / union))
