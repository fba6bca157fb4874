"""Upper bound of the scores that a submission can reach with only some of the labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.scoring.rules.base import Counts, Rules, mean


def score_upper_bound(
    rows: Iterable[CropLabel], predicted: Collection[CropLabel], rules: Rules
) -> dict[str, float]:
    """Compute the scores of a submission with perfect labels for the `predicted` rows only.

    A missing crop counts all its voxels against a semantic class, and all its objects against an
    instance class. The contents of the crops are not known: a semantic class is assumed to fill the
    predicted crops, an instance class to have equally many objects in every crop.

    Parameters
    ----------
    rows
        All rows of the manifest.
    predicted
        Those that are predicted.
    rules
        The evaluator's rules.

    Returns
    -------
    `instance`, `semantic`, `overall`.
    """
    counts: dict[str, Counts] = defaultdict(Counts)
    for row in rows:
        found = row in predicted
        if is_instance(row.label):
            counts[row.label] += Counts(tp=1, score_sum=1.0) if found else Counts(fn=1)
        else:
            missed = 0 if found else row.grid.size
            counts[row.label] += rules.count_voxels(row.grid.size - missed, 0, missed)
    scores: dict[bool, list[float]] = {True: [], False: []}
    for label, of_label in counts.items():
        instance = is_instance(label)
        scores[instance].append(rules.score(of_label, instance))
    return {
        "instance": mean(scores[True]),
        "semantic": mean(scores[False]),
        "overall": rules.overall_score(scores[True], scores[False]),
    }
