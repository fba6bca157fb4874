"""Whether the evaluator would skip a label for its number of objects, where the truth is known."""

from __future__ import annotations

from collections.abc import Iterator

from cellmap_pipeline.checking_zip import Problem
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.scoring.archive import Archive
from cellmap_pipeline.scoring.instances import instance_ratio_limit
from cellmap_pipeline.scoring.objects import label_components
from cellmap_pipeline.scoring.slabs import slabs
from cellmap_pipeline.scoring.submission import compared


def check_against_truth(
    submission: Archive, truth: Archive, crop: str, row: CropLabel
) -> Iterator[Problem]:
    """Fewer or more objects than the scorer's cut-off takes for plausible.

    Parameters
    ----------
    crop : its name in the submission.
    row : of the manifest.

    Raises
    ------
    InputError
        The truth cannot be read, or is not on the manifest's grid.
    """
    if not is_instance(row.label) or row.label not in truth.labels.get(f"crop{row.crop}", ()):
        return
    place = f"crop{row.crop}", row.label
    pred, true = compared(submission, truth, crop, f"crop{row.crop}", row.label, row.grid)
    n_true = max(int(slab.max(initial=0)) for (slab,) in slabs(true))
    if not n_true:
        return
    components = label_components(pred, instance_ratio_limit(n_true) * n_true)
    if components is None:
        yield Problem(
            "costs", *place, f"holds more than {instance_ratio_limit(n_true):.1f} times the "
            f"{n_true} objects of the truth, so that the evaluator skips the crop: remove small "
            "objects",
        )  # fmt: skip
    elif not components.any():
        yield Problem(
            "costs", *place, f"holds no object, but the truth up to {n_true}: all are missed"
        )
