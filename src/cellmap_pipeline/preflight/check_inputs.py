"""A look at all data that a run uses, before anything expensive: all that is wrong, at once.

Metadata are read of all volumes. Labels and predictions made elsewhere are decoded whole, raw where
crops lie and where networks look beyond them (`inputs_chunks`), the truth of test crops not at all:
only scoring reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cellmap_pipeline.channels import FURTHER, further
from cellmap_pipeline.config.stages import DATASPLIT_KEYS, NETWORK_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit import SplitSettings, look_for_crops, split
from cellmap_pipeline.data.datasplit_csv import LabelledCrop, read_datasplit
from cellmap_pipeline.data.layout import raw_path
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.geometry import Grid, union
from cellmap_pipeline.plan.choices import needed_by
from cellmap_pipeline.plan.lineage import choice_for, label_sources
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import AVERAGE
from cellmap_pipeline.plan.validation import validation_settings
from cellmap_pipeline.preflight.chunks import decode
from cellmap_pipeline.preflight.disk_space import (
    Need,
    check_space,
    of_checkpoints,
    of_labels,
    of_predictions,
)
from cellmap_pipeline.preflight.layout import Layout
from cellmap_pipeline.preflight.volumes import Volumes
from cellmap_pipeline.scoring.archive import Archive
from cellmap_pipeline.segmentation.probabilities import further_beside

log = logging.getLogger(__name__)

# Half the diagonal of a cube over half its edge, less one: what a rotated patch needs beyond.
ROTATED = 0.74


def check_inputs(plan: Plan, threads: int = 1, trains_here: bool = False) -> dict[str, Any]:
    """Look at all that a run reads, and whether there is room for what it writes.

    Parameters
    ----------
    threads
        Processors to use.
    trains_here
        Whether networks are trained on this machine, with its GPUs.

    Returns
    -------
    By training, its crops with their labels, in plain builtins.

    Raises
    ------
    InputError
        Anything is missing, broken or does not fit; the message lists all of it, a line each.
    """
    names = plan.used() or list(plan.trainings)
    trainings = {name: plan.trainings[name] for name in names}
    split_here = [training for training in trainings.values() if training.datasplit is None]
    layout = _layout(plan, split_here) if split_here else None
    problems, warnings = (layout.problems, layout.warnings) if layout else ([], [])
    volumes = Volumes()
    found = {}
    validating: dict[str, ValidationCrop] = {}
    for name, training in trainings.items():
        # Where there is no crop at all, that is said once.
        if training.datasplit or (layout and not layout.empty):
            with gathered(problems, f"training {name}: "):
                crops = _look_at_training(plan, name, training, volumes, problems)
                found[name] = {crop.name: sorted(crop.present) for crop, _ in crops}
                # Of a crop that several have, validation takes the first one's, too.
                validating = _validating(crops) | validating
    for name, training in trainings.items():
        for crop, rows in plan.predicted(name).items():
            extent = union([row.grid for row in rows])
            path = raw_path(plan.config.data_root, rows[0].dataset)
            who = (f"test crop {crop}", name, False)
            volumes.look_at_raw(path, extent, training.voxel_size, _context(training), who)
    _look_at_truth(plan, volumes, problems)
    for name in plan.config.predictions:
        _look_elsewhere(plan, name, volumes, problems)
        _look_at_scored(plan, name, validating.values(), volumes)
    problems += _lacking_beside(plan)
    decode(volumes.looks, threads)
    volumes.judge()
    problems += volumes.problems
    warnings += volumes.warnings
    weights = _check_networks(trainings, trains_here, problems)
    lacking, tight, disks = check_space(_needs(plan, trainings, weights))
    problems += lacking
    warnings = list(dict.fromkeys([*warnings, *tight]))
    for line in [*volumes.summary(), *disks, *(f"warning: {line}" for line in warnings)]:
        log.info(line)
    log.info("%d problems, %d warnings", len(dict.fromkeys(problems)), len(warnings))
    raise_all(problems)
    return found


def _layout(plan: Plan, trainings: Sequence[Training]) -> Layout:
    """The folders that splits are made of."""

    def wanted(key: str) -> set | None:
        values = [getattr(training, key) for training in trainings]
        return None if None in values else set().union(*values)

    return Layout(
        Path(plan.config.data_root), wanted("datasets"), wanted("crops"), wanted("classes")
    )


def _look_at_training(
    plan: Plan, name: str, training: Training, volumes: Volumes, problems: list[str]
) -> list[tuple[LabelledCrop, str]]:
    """Take in the crops that a training trains on or validates with; which, and for what."""
    settings = SplitSettings(**training_settings(training, DATASPLIT_KEYS))
    own = Path(training.datasplit) if training.datasplit else None
    broken: list[str] = []
    crops = look_for_crops(Path(plan.config.data_root), settings, own, broken)
    problems += [f"training {name}: {line}" for line in broken]
    usage = ["train"] * len(crops)
    if not broken:
        with gathered(problems, f"training {name}: "):
            rows = read_datasplit(own, settings.classes) if own else ()
            usage = [use for use, *_ in rows] or split(crops, settings)
    bar = tqdm(crops, desc=f"Looking at crops of {name}", unit="crop", disable=None)
    for crop, use in zip(bar, usage, strict=True):
        margin = _margin(training, crop.grid)
        who = (crop.name, name, True)
        volumes.look_at_raw(crop.raw_location, crop.grid, training.voxel_size, margin, who)
        for label in crop.present:
            path = crop.zarr / crop.labels / label
            volumes.look_at_label(
                path, crop.name, crop.grid, training.voxel_size, use == "validate"
            )
    return list(zip(crops, usage, strict=True))


def _validating(crops: Sequence[tuple[LabelledCrop, str]]) -> dict[str, ValidationCrop]:
    """By name those that validate, as validation reads them of the datasplit."""
    listed = frozenset(label for crop, _ in crops for label in crop.present)
    return {
        crop.name: ValidationCrop(
            crop.dataset, crop.crop, crop.zarr / crop.labels, listed - set(crop.present)
        )
        for crop, use in crops
        if use == "validate"
    }


def _margin(training: Training, crop: Grid) -> list[int]:
    """Voxels beyond a crop that are read where they are here: in training, and to predict it."""
    shape = crop.at(training.voxel_size).shape
    rotated = ROTATED / 2 if training.augment.rotate else 0
    return [
        max(context, p - n + ceil(rotated * p), ceil(rotated * p))
        for context, p, n in zip(_context(training), training.patch_size, shape, strict=True)
    ]


def _context(training: Training) -> list[int]:
    """Voxels beyond a crop that its prediction looks at."""
    inference = training.inference
    return [int(w * inference.overlap / 2) for w in inference.window or training.patch_size]


def _look_at_truth(plan: Plan, volumes: Volumes, problems: list[str]) -> None:
    """Take in the truth of what is submitted; nothing at all is a problem."""
    if plan.config.ground_truth is None:
        return
    folder = Path(plan.config.ground_truth)
    try:
        labels = Archive.open(folder).labels
    except InputError as error:
        problems.append(f"ground_truth: {error}")
        return
    there = [row for row in plan.given() if row.label in labels.get(f"crop{row.crop}", ())]
    for row in there:
        volumes.look_at_truth(folder / f"crop{row.crop}" / row.label)
    if not there:
        wanted = sorted({f"crop{row.crop}" for row in plan.given()})
        problems.append(
            f"ground_truth: {folder} holds no array {{crop}}/{{label}} of {', '.join(wanted)} with "
            "a label that is predicted, so nothing could be scored. The evaluator takes plain "
            "arrays: of a multiscale label, give its s0; or set ground_truth: null"
        )


def _look_elsewhere(plan: Plan, name: str, volumes: Volumes, problems: list[str]) -> None:
    """Take in the predictions made elsewhere that are needed."""
    template = plan.config.predictions[name].path
    paths = {
        Path(template.format(dataset=row.dataset, crop=row.crop, label=row.label)): row.grid
        for row in plan.crop_labels
        if name in plan.sources(row)
    }
    missing = [path for path in paths if not path.is_dir()]
    if missing:
        problems.append(
            f"predictions.{name}: {missing[0]} does not exist, nor do {len(missing) - 1} more of "
            f"{len(paths)} labels: put them there, or name the labels that it has as "
            f"`predictions: {{{name}: {{path: …, classes: […]}}}}`"
        )
    for path, grid in paths.items():
        if path not in missing:
            volumes.look_at_prediction(name, path, grid)


def _look_at_scored(
    plan: Plan, name: str, crops: Iterable[ValidationCrop], volumes: Volumes
) -> None:
    """Take in the predictions made elsewhere of validation crops; none of them need be there."""
    path = plan.config.predictions[name].path
    wanted = {
        (label, tuple(size))
        for label, some in validation_settings(plan, name).items()
        for one in some
        for size in one["voxel_sizes"]
    }
    for crop, (label, size) in product(crops, sorted(wanted)):
        place = crop.prediction(path, label)
        if place.is_dir():
            with gathered(volumes.problems, f"predictions.{name}: {crop.name}: "):
                truth = crop.truth(label, size)
                if truth:
                    volumes.look_at_scored(name, place, crop.name, truth[1])


def _lacking_beside(plan: Plan) -> Iterator[str]:
    """Predictions made elsewhere without the channels beside them that an average takes."""
    for row in plan.crop_labels:
        sources = plan.sources(row)
        needed = needed_by(plan, row.label, sources) if choice_for(plan, row) == AVERAGE else None
        if needed is None:
            continue
        method, kind = needed
        for name, (path, *_) in label_sources(plan, row).items():
            there = [place.name for place in further_beside(Path(path))]
            if name in plan.config.predictions and kind not in further(Path(path).name, there):
                lacking = " and ".join(path + suffix for suffix in FURTHER[kind])
                yield (
                    f"predictions.{name}: {path} is averaged by `method: {method}`, which training "
                    f"{sources[0]!r} sets, but there is no {lacking} beside it: put it there, "
                    "leave these predictions out of the average, or set another method"
                )


def _check_networks(
    trainings: Mapping[str, Training], trains_here: bool, problems: list[str]
) -> dict[str, int]:
    """The number of weights of each network that is to be trained."""
    # Late, since they import torch.
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


def _needs(plan: Plan, trainings: Mapping[str, Training], weights: Mapping[str, int]) -> list[Need]:
    """What is still to be written: what is there already takes no more room."""
    needs = []
    for name, training in trainings.items():
        folder = plan.output / name
        if name in weights and not (folder / "training").exists():
            needs.append(of_checkpoints(training, weights[name], folder))
        for crop, rows in plan.predicted(name).items():
            target = folder / "predictions" / rows[0].dataset / f"crop{crop}"
            if not target.exists():
                needs.append(of_predictions(training, rows, target))
    target = plan.output / "segmentations"
    rows = [
        row
        for row in plan.segmented()
        if not (target / row.dataset / f"crop{row.crop}" / row.label).exists()
    ]
    return needs + of_labels(rows, target)
