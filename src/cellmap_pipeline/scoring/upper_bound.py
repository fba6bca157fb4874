"""Upper bound of the scores that a submission can reach with only some of the labels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel


def score_upper_bound(
    rows: Iterable[CropLabel], predicted: Collection[CropLabel]
) -> dict[str, float]:
    """Compute the scores of a submission with perfect labels for the `predicted` rows only.

    The overall score is the root of the instance mean times the semantic mean over all classes of
    the manifest, and a missing crop counts all its voxels against a semantic class (as in
    `scoring.summary.combine`). The contents of the crops are not known: a semantic class is
    assumed to fill the predicted crops, an instance class to have equally many objects in every
    crop.

    Parameters
    ----------
    rows
        All rows of the manifest.
    predicted
        Those that are predicted.

    Returns
    -------
    `instance`, `semantic`, `overall`.
    """
    crops_by_label: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for row in rows:
        crops_by_label[row.label].append((row.grid.size, row in predicted))
    scores: dict[bool, list[float]] = {True: [], False: []}
    for label, crops in crops_by_label.items():
        if is_instance(label):
            fraction = sum(is_predicted for _, is_predicted in crops) / len(crops)
            # F1 with that fraction found and no false positive, and the mean of the normalized
            # distances.
            score = math.sqrt(2 * fraction / (1 + fraction) * fraction)
        else:
            voxels = sum(n for n, is_predicted in crops if is_predicted)
            score = voxels / sum(n for n, _ in crops)
        scores[is_instance(label)].append(score)
    instance, semantic = (sum(s) / len(s) if s else 0.0 for s in (scores[True], scores[False]))
    return {
        "instance": instance, "semantic": semantic, "overall": math.sqrt(instance * semantic)
    }  # fmt: skip
