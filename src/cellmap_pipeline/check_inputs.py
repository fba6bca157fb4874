"""A look at the data before anything expensive: all that is wrong, at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cellmap_pipeline.archive import Archive
from cellmap_pipeline.datasplit import LabelledCrop, SplitSettings, make_crops, raw_path, split
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, union
from cellmap_pipeline.manifest import CropLabel
from cellmap_pipeline.stores import Location
from cellmap_pipeline.volumes import Volume


def check_inputs(
    data_root: Path,
    trainings: Mapping[str, tuple[SplitSettings, Path | None]],
    predicted: Mapping[str, Sequence[CropLabel]],
    ground_truth: Path | None = None,
    checkpoints: Mapping[str, tuple[Path, Mapping[str, Any]]] = MappingProxyType({}),
    elsewhere: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """What there is to train on and to predict.

    Parameters
    ----------
    data_root : folder of `{dataset}/{dataset}.zarr`.
    trainings : by name, what its datasplit depends on, and an own datasplit CSV.
    predicted : by name, the rows of the manifest that it predicts.
    ground_truth : folder of the test crops' truth, where there is one.
    checkpoints : by name of the training, a checkpoint to predict with instead of its own, and
        what it must agree with (`checkpoints.check_matches`).
    elsewhere : by name of predictions made elsewhere, the paths of those that are needed.

    Returns
    -------
    By training, its crops with their labels and its test crops, in plain builtins.

    Raises
    ------
    InputError
        Anything is missing or cannot be read; the message lists all of it, a line each.
    """
    problems: list[str] = []
    found: dict[str, Any] = {}
    # Trainings share volumes.
    open_volume = cache(Volume.open)
    for name, (settings, own) in trainings.items():
        try:
            crops = make_crops(data_root, settings, own)
            if own is None:
                split(crops, settings)
        except InputError as error:
            problems += [f"training {name}: {line}" for line in str(error).splitlines()]
            continue
        for crop in crops:
            raw = crop.raw_location
            problems += _raw_problems(open_volume, raw, crop.grid, settings, crop.name)
            problems += _label_problems(open_volume, crop, settings)
        found[name] = {crop.name: sorted(crop.present) for crop in crops}
    for name, rows in predicted.items():
        settings = trainings[name][0]
        for number in dict.fromkeys(row.crop for row in rows):
            own_rows = [row for row in rows if row.crop == number]
            extent = union([row.grid for row in own_rows])
            path = raw_path(data_root, own_rows[0].dataset)
            problems += _raw_problems(open_volume, path, extent, settings, f"test crop {number}")
    if ground_truth:
        rows = [row for own in predicted.values() for row in own]
        problems += _truth_problems(ground_truth, rows)
    for name, (checkpoint, expected) in checkpoints.items():
        problems += _checkpoint_problems(name, checkpoint, expected)
    for name, paths in elsewhere.items():
        problems += _elsewhere_problems(name, [Path(path) for path in paths])
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return found


def _truth_problems(path: Path, rows: Sequence[CropLabel]) -> list[str]:
    """Why nothing of the truth could be scored, if so."""
    labels = Archive.open(path).labels
    if not rows or any(row.label in labels.get(f"crop{row.crop}", ()) for row in rows):
        return []
    wanted = sorted({f"crop{row.crop}" for row in rows})
    return [
        f"ground_truth: {path} holds no array {{crop}}/{{label}} of {', '.join(wanted)} with a "
        "label that is predicted, so nothing could be scored. The evaluator takes plain arrays: of "
        "a multiscale label, give its s0; or set ground_truth: null"
    ]


def _checkpoint_problems(name: str, path: Path, expected: Mapping[str, Any]) -> list[str]:
    """Why a training cannot predict with the checkpoint, if it cannot."""
    # Late, since it imports torch.
    from cellmap_pipeline.checkpoints import check_matches, load_checkpoint

    try:
        check_matches(path, load_checkpoint(path), expected)
    except InputError as error:
        return [f"training {name}: inference.checkpoint: {error}"]
    return []


def _elsewhere_problems(name: str, paths: Sequence[Path]) -> list[str]:
    """Which predictions made elsewhere are not there or no volumes."""
    missing = [path for path in paths if not path.is_dir()]
    problems = []
    if missing:
        problems.append(
            f"predictions.{name}: {missing[0]} does not exist, nor do {len(missing) - 1} more of "
            f"{len(paths)} labels: put them there, or name the labels that it has as "
            f"`predictions: {{{name}: {{path: …, classes: […]}}}}`"
        )
    for path in paths:
        if path.is_dir():
            try:
                Volume.open(path)
            except InputError as error:
                problems.append(f"predictions.{name}: {error}")
    return problems


def _raw_problems(
    open_volume: Callable[[Location], Volume],
    path: Location,
    extent: Grid,
    settings: SplitSettings,
    what: str,
) -> list[str]:
    """Why the raw under a crop cannot be read at a training's voxel size, if it cannot."""
    try:
        raw = open_volume(path)
        raw.available(raw.aligned(extent, settings.voxel_size), core=extent)
    except InputError as error:
        return [f"{what}: {error}"]
    return []


def _label_problems(
    open_volume: Callable[[Location], Volume], crop: LabelledCrop, settings: SplitSettings
) -> list[str]:
    """Which of the crop's labels lack the level that a training reads."""
    problems = []
    for label in crop.present:
        try:
            open_volume(crop.zarr / crop.labels / label).level_for(settings.voxel_size)
        except InputError as error:
            problems.append(f"{crop.name}: {error}")
    return problems
