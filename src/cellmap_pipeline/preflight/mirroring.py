"""The share of raw that is mirrored because `fetch.padding` is too small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.geometry import Shape, union

REMEDY = "remove `padding` to fetch all that is read"


def mirroring_warnings(
    training: Training,
    padding_nm: float,
    crops: Sequence[LabeledCrop] | None,
    predicted: Mapping[int, Sequence[CropLabel]],
) -> Iterator[str]:
    """Warn where a training reads raw farther from a crop than it is fetched.

    Parameters
    ----------
    training
        The training.
    padding_nm
        Width of the raw that is fetched around each crop.
    crops
        Its training crops, whose raw is fetched; None: they are not known yet.
    predicted
        The rows that it predicts, by test crop.
    """
    margins, of_prediction = training.margins, training.prediction_margins
    padding = [padding_nm / v for v in training.voxel_size]
    patches: dict[str, float] = {}
    windows: dict[str, float] = {}
    for crop in crops or ():
        shape = crop.grid.at(training.voxel_size).shape
        patches[crop.name] = margins.mirrored_patch(shape, padding)
        windows[crop.name] = of_prediction.mirrored_window(shape, padding)
    for number, rows in predicted.items():
        shape = union([row.grid for row in rows]).at(training.voxel_size).shape
        windows[f"{rows[0].dataset}/crop{number}"] = of_prediction.mirrored_window(shape, padding)
    farthest_nm = _largest_nm(margins.patch, training) - padding_nm
    if crops is None and farthest_nm > 0:
        yield (
            f"around training crops of less than {farthest_nm:,.0f} nm a part of the patches is "
            f"mirrored: {REMEDY}"
        )
    for name, shares in (("patch", patches), ("window", windows)):
        affected = {crop: share for crop, share in shares.items() if share > 0}
        if affected:
            worst = max(affected, key=lambda crop: affected[crop])
            yield (
                f"around {len(affected)} of {len(shares)} crops a part of a {name} is mirrored, "
                f"on average {fmean(affected.values()):.1%}, at most {affected[worst]:.1%} "
                f"({worst}): {REMEDY}"
            )
    resampled_nm = _largest_nm(margins.rotation, training)
    if crops != [] and resampled_nm > padding_nm:
        yield (
            f"rotated or scaled patches reach up to {resampled_nm:,.0f} nm beyond a crop, and "
            f"are mirrored there: {REMEDY}"
        )


def _largest_nm(sizes: Shape, training: Training) -> float:
    return max(n * v for n, v in zip(sizes, training.voxel_size, strict=True))
