"""Checks of all data that a run uses, before anything expensive; all problems are reported at once.

Metadata of all volumes are read. Labels and external predictions are decoded completely, raw in the
crops and in the networks' context around them (`preflight.chunks`). The ground truth of test crops
is not decoded, as only scoring reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES, auxiliary_kinds
from cellmap_pipeline.config.auxiliary_targets import rounding_notes
from cellmap_pipeline.config.stages import DATASPLIT_KEYS, NETWORK_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit import DatasplitSettings, find_crops
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.data.layout import raw_path
from cellmap_pipeline.data.split import VALIDATE
from cellmap_pipeline.errors import InputError, UnavailableError, gathered, raise_all
from cellmap_pipeline.geometry import union
from cellmap_pipeline.plan.choices import method_and_channels
from cellmap_pipeline.plan.lineage import choice_for, prediction_paths
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import AVERAGE
from cellmap_pipeline.plan.validation import validation_tasks
from cellmap_pipeline.preflight.chunks import decode_chunks
from cellmap_pipeline.preflight.contradictions import contradictions
from cellmap_pipeline.preflight.disk_space import (
    DiskNeed,
    check_space,
    checkpoints_need,
    labels_needs,
    predictions_need,
    pseudo_labels_need,
)
from cellmap_pipeline.preflight.estimates.prediction_cost import taught_rows
from cellmap_pipeline.preflight.layout import Layout
from cellmap_pipeline.preflight.splits import (
    RunSplits,
    check_sides,
    leaked_validation,
    unknown_oversampled,
    usage_by_network,
)
from cellmap_pipeline.preflight.volumes import InputVolumes, Reader
from cellmap_pipeline.scoring.archive import Archive
from cellmap_pipeline.segmentation.probabilities import auxiliary_paths

log = logging.getLogger(__name__)


def check_inputs(plan: Plan, threads: int = 1, trains_here: bool = False) -> dict[str, Any]:
    """Check all data that a run reads, and the disk space for its results.

    Parameters
    ----------
    plan
        The plan of the run.
    threads
        Number of processors to use.
    trains_here
        Whether networks are trained on this machine, with its GPUs.

    Returns
    -------
    Labels by crop and training, as a JSON-serializable dict.

    Raises
    ------
    InputError
        Anything is missing, broken or does not fit. The message has a line for each problem.
    """
    names = plan.active_trainings() or list(plan.trainings)
    trainings = {name: plan.trainings[name] for name in names}
    split_here = [training for training in trainings.values() if training.datasplit is None]
    layout = _layout(plan, split_here) if split_here else None
    problems, warnings = (layout.problems, layout.warnings) if layout else ([], [])
    volumes = InputVolumes()
    splits = RunSplits(plan)
    found = {}
    labeled: dict[str, list[LabeledCrop]] = {}
    sides: dict[str, dict[str, str]] = {}
    validation_crops: dict[str, ValidationCrop] = {}
    for name, training in trainings.items():
        # The layout reports a data folder without crops only once.
        if training.datasplit or (layout and not layout.empty):
            with gathered(problems, f"training {name}: "):
                crops = _add_training(plan, name, splits, sides, volumes, problems)
                labeled[name] = [crop for crop, _ in crops]
                found[name] = {crop.name: sorted(crop.present) for crop, _ in crops}
                # Like validation, use the first training's description of a shared crop.
                validation_crops = _validation_crops(crops) | validation_crops
    problems += leaked_validation(plan, sides)
    for name, training in trainings.items():
        notes = rounding_notes(training.targets, training.voxel_size)
        warnings += (f"{name}: {note}" for note in notes)
        for crop, rows in plan.rows_by_crop(name).items():
            extent = union([row.grid for row in rows])
            path = raw_path(plan.config.data_root, rows[0].dataset)
            reader = Reader(
                f"test crop {crop}", name, trains=False, by_range=training.normalize == "range"
            )
            shape = extent.at(training.voxel_size).shape
            margin = training.prediction_margins.around(shape)
            volumes.add_raw(path, extent, training.voxel_size, margin, reader)
    _add_ground_truth(plan, volumes, problems)
    for name in plan.config.predictions:
        _add_predictions(plan, name, volumes, problems)
        _add_validation_predictions(plan, name, validation_crops.values(), volumes)
    problems += _missing_auxiliary_channels(plan)
    decode_chunks(volumes.requests, threads)
    volumes.check_values()
    problems += volumes.problems
    warnings += volumes.warnings
    if not problems:
        for name, with_labels in labeled.items():
            warnings += contradictions(name, trainings[name], with_labels)
    weights = _check_networks(trainings, trains_here, problems)
    disk_problems, disk_warnings, disks = check_space(_disk_needs(plan, labeled, weights))
    problems += disk_problems
    warnings = list(dict.fromkeys([*warnings, *disk_warnings]))
    for line in [*volumes.summary(), *disks, *(f"warning: {line}" for line in warnings)]:
        log.info(line)
    log.info("%d problems, %d warnings", len(dict.fromkeys(problems)), len(warnings))
    raise_all(problems)
    return found


def _layout(plan: Plan, trainings: Sequence[Training]) -> Layout:
    """Check the layout of the data folder, as far as trainings without own datasplit use it."""

    def wanted(key: str) -> set | None:
        values = [getattr(training, key) for training in trainings]
        return None if None in values else set().union(*values)

    return Layout(
        Path(plan.config.data_root), wanted("datasets"), wanted("crops"), wanted("classes")
    )


def _add_training(
    plan: Plan,
    name: str,
    splits: RunSplits,
    sides: dict[str, dict[str, str]],
    volumes: InputVolumes,
    problems: list[str],
) -> list[tuple[LabeledCrop, bool]]:
    """Register the crops of a training for checking; return each, and whether it validates.

    The sides of the crops are added to `sides`, by network and name of the crop.
    """
    training = plan.trainings[name]
    settings = DatasplitSettings(**training_settings(training, DATASPLIT_KEYS))
    own = Path(training.datasplit) if training.datasplit else None
    broken: list[str] = []
    crops = find_crops(Path(plan.config.data_root), settings, own, broken)
    problems += [f"training {name}: {line}" for line in broken]
    usage: dict[str, list[str]] = {}
    if not broken:
        with gathered(problems, f"training {name}: "):
            usage = usage_by_network(plan, name, crops, splits)
            check_sides(plan, name, crops, usage, problems, volumes.warnings)
            problems += unknown_oversampled(plan, name, crops, usage)
    names = [crop.name for crop in crops]
    sides |= {network: dict(zip(names, uses, strict=True)) for network, uses in usage.items()}
    validates = [any(use == VALIDATE for use in uses) for uses in zip(*usage.values(), strict=True)]
    validates = validates or [False] * len(crops)
    bar = tqdm(crops, desc=f"Checking crops of {name}", unit="crop", disable=None)
    for crop, crop_validates in zip(bar, validates, strict=True):
        margin = training.margins.around(crop.grid.at(training.voxel_size).shape)
        reader = Reader(crop.name, name, trains=True, by_range=training.normalize == "range")
        volumes.add_raw(crop.raw, crop.grid, training.voxel_size, margin, reader)
        if teacher := plan.teacher_of(name):
            _add_taught(crop, training, teacher, plan.trainings[teacher], volumes)
        for label in crop.present:
            path = crop.zarr / crop.labels / label
            volumes.add_label(path, crop.name, crop.grid, training.voxel_size, crop_validates)
    return list(zip(crops, validates, strict=True))


def _add_taught(
    crop: LabeledCrop, training: Training, name: str, teacher: Training, volumes: InputVolumes
) -> None:
    """Register the raw that a teacher, called `name`, reads around a crop of a training."""
    margin = training.teacher_margins(teacher).around(crop.grid.at(teacher.voxel_size).shape)
    reader = Reader(crop.name, name, trains=False, by_range=teacher.normalize == "range")
    volumes.add_raw(crop.raw, crop.grid, teacher.voxel_size, margin, reader)


def _validation_crops(crops: Sequence[tuple[LabeledCrop, bool]]) -> dict[str, ValidationCrop]:
    """Return the crops that validate by name, as validation reads them from the datasplit."""
    listed = frozenset(label for crop, _ in crops for label in crop.present)
    return {
        crop.name: ValidationCrop(
            crop.dataset, crop.crop, crop.zarr / crop.labels, listed - set(crop.present)
        )
        for crop, validates in crops
        if validates
    }


def _add_ground_truth(plan: Plan, volumes: InputVolumes, problems: list[str]) -> None:
    """Check the metadata of the ground truth; it must have some predicted label."""
    if plan.config.ground_truth is None:
        return
    folder = Path(plan.config.ground_truth)
    try:
        labels = Archive.open(folder).labels
    except (InputError, UnavailableError) as error:
        problems.append(f"ground_truth: {error}")
        return
    covered = plan.covered_rows()
    available = [row for row in covered if row.label in labels.get(f"crop{row.crop}", ())]
    for row in available:
        volumes.add_ground_truth(folder / f"crop{row.crop}" / row.label)
    if not available:
        crops = sorted({f"crop{row.crop}" for row in covered})
        problems.append(
            f"ground_truth: {folder} contains no array {{crop}}/{{label}} of {', '.join(crops)} "
            "with a predicted label, so nothing can be scored. The evaluator reads plain arrays: "
            "of a multiscale label, provide its s0; or set ground_truth: null"
        )


def _add_predictions(plan: Plan, name: str, volumes: InputVolumes, problems: list[str]) -> None:
    """Register the required external predictions of test crops for checking."""
    template = plan.config.predictions[name].path
    paths = {
        Path(template.format(dataset=row.dataset, crop=row.crop, label=row.label)): row
        for row in plan.crop_labels
        if name in plan.sources(row)
    }
    missing = [path for path in paths if not path.is_dir()]
    if missing:
        problems.append(
            f"predictions.{name}: {len(missing)} of {len(paths)} labels do not exist, such as "
            f"{missing[0]}: add them, or list the classes that exist as "
            f"`predictions: {{{name}: {{path: …, classes: […]}}}}`"
        )
    for path, row in paths.items():
        if path not in missing:
            volumes.add_prediction(name, row.label, path, row.grid)


def _add_validation_predictions(
    plan: Plan, name: str, crops: Iterable[ValidationCrop], volumes: InputVolumes
) -> None:
    """Register external predictions of validation crops, which are optional, for checking."""
    path = plan.config.predictions[name].path
    wanted = {
        (label, tuple(size))
        for label, tasks in validation_tasks(plan, name).items()
        for task in tasks
        for size in task.voxel_sizes
    }
    for crop, (label, size) in product(crops, sorted(wanted)):
        place = crop.prediction([path], label)
        if place.is_dir():
            with gathered(volumes.problems, f"predictions.{name}: {crop.name}: "):
                truth = crop.truth(label, size)
                if truth:
                    volumes.add_validation_prediction(name, label, place, crop.name, truth[1])


def _missing_auxiliary_channels(plan: Plan) -> Iterator[str]:
    """List external predictions without the auxiliary channels that their average needs."""
    for row in plan.crop_labels:
        sources = plan.sources(row)
        if choice_for(plan, row) != AVERAGE:
            continue
        needed = method_and_channels(plan, row.label, sources)
        if needed is None:
            continue
        method, kind = needed
        for name, (path, *_) in prediction_paths(plan, row).items():
            if name not in plan.config.predictions:
                continue
            available = [auxiliary.name for auxiliary in auxiliary_paths(Path(path))]
            if kind not in auxiliary_kinds(Path(path).name, available):
                missing = " and ".join(path + suffix for suffix in AUXILIARY_SUFFIXES[kind])
                yield (
                    f"predictions.{name}: {path} is averaged with `method: {method}`, which "
                    f"training {sources[0]!r} sets, but {missing} does not exist: add it, leave "
                    "these predictions out of the average, or set another method"
                )


def _check_networks(
    trainings: Mapping[str, Training], trains_here: bool, problems: list[str]
) -> dict[str, int]:
    """Check the networks, and return the number of weights of each network to train."""
    # These modules import torch.
    from cellmap_pipeline.preflight.networks import check_checkpoint, check_network
    from cellmap_pipeline.training.devices import check_gpus

    weights = {}
    for name, training in trainings.items():
        with gathered(problems, f"training {name}: "):
            checkpoint = training.inference.checkpoint
            if checkpoint not in ("best", "last"):
                expected = training_settings(training, NETWORK_KEYS)
                check_checkpoint(Path(checkpoint), expected)
                continue
            if trains_here:
                check_gpus(training.devices)
            weights[name] = check_network(training)
    return weights


def _disk_needs(
    plan: Plan, labeled: Mapping[str, Sequence[LabeledCrop]], weights: Mapping[str, int]
) -> list[DiskNeed]:
    """Return the disk space of the results that do not exist yet."""
    paths = plan.paths
    needs = []
    for name in plan.active_trainings() or plan.trainings:
        training = plan.trainings[name]
        for network in plan.networks_of(name):
            if (teacher := plan.teacher_of(name)) and not paths.pseudo_labels(network).exists():
                taught = taught_rows(training, plan.trainings[teacher], labeled.get(name, ()))
                needs.append(pseudo_labels_need(taught, paths.pseudo_labels(network)))
            if name in weights and not paths.training_state(network).exists():
                needs.append(checkpoints_need(training, weights[name], plan.output / network))
        for crop, rows in plan.rows_by_crop(name).items():
            folder = paths.predictions(name, rows[0].dataset, crop)
            if not folder.exists():
                needs.append(predictions_need(training, rows, folder))
    rows = [
        row
        for row in plan.rows_to_segment()
        if not paths.segmentation(row.dataset, row.crop, row.label).exists()
    ]
    return needs + labels_needs(rows, paths.segmentations)
