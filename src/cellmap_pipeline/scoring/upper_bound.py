"""The best scores that a submission of some of the labels could reach."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel


def ceiling(rows: Iterable[CropLabel], given: Collection[CropLabel]) -> dict[str, float]:
    """The scores that perfect labels of the rows `given` could reach, at most.

    The overall score is the root of the instance mean times the semantic mean over all classes of
    the manifest, and a missing crop counts all its voxels against a semantic class (as in
    `scoring.combine`). What a class holds in each crop is not known: a semantic class is taken to
    fill the crops that are given, the objects of an instance class to be as many in each.

    Parameters
    ----------
    rows
        Of the manifest, all of them.
    given
        Those that are predicted.

    Returns
    -------
    `instance`, `semantic`, `overall`.
    """
    voxels: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for row in rows:
        voxels[row.label].append((row.grid.size, row in given))
    means: dict[bool, list[float]] = {True: [], False: []}
    for label, crops in voxels.items():
        if is_instance(label):
            share = sum(there for _, there in crops) / len(crops)
            # F1 with that share found and none wrong, and the mean of the normalised distances.
            score = math.sqrt(2 * share / (1 + share) * share)
        else:
            score = sum(n for n, there in crops if there) / sum(n for n, _ in crops)
        means[is_instance(label)].append(score)
    instance, semantic = (sum(m) / len(m) if m else 0.0 for m in (means[True], means[False]))
    return {
        "instance": instance, "semantic": semantic, "overall": math.sqrt(instance * semantic)
    }  # fmt: skip
