"""Contents of a plan that come from the manifest and from the tables of the configuration.

They are read while Snakemake parses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cellmap_pipeline.config.run import RunConfig
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.class_table import parse_class_table, parts_of, read_class_table
from cellmap_pipeline.data.crop_table import CropRow, parse_crop_table, read_crop_table
from cellmap_pipeline.data.fetch_request import FetchRequest, PredictUse, TrainUse
from cellmap_pipeline.data.layout import crop_folders
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import SAME_SIZE, size_ratio, union
from cellmap_pipeline.io.files import local_copy
from cellmap_pipeline.plan.plan import Plan


def submitted_rows(rows: Sequence[CropLabel], run: RunConfig, source: str) -> list[CropLabel]:
    """Select the rows that a run submits.

    Parameters
    ----------
    rows
        All rows of the manifest.
    run
        The run's configuration.
    source
        How errors refer to the configuration.

    Raises
    ------
    InputError
        `submission` names crops or classes that the manifest does not have.
    """
    crops, classes = run.submission.crops, run.submission.classes
    for key, wanted, known in (
        ("crops", crops, {row.crop for row in rows}),
        ("classes", classes, {row.label for row in rows}),
    ):
        unknown = [] if wanted == "all" else [str(v) for v in wanted if v not in known]
        if unknown:
            raise InputError(
                f"{source}: submission.{key}: {', '.join(unknown)} not in {run.test_crops}: the "
                f"manifest has {', '.join(sorted(str(v) for v in known))}"
            )
    return [
        row
        for row in rows
        if (crops == "all" or row.crop in crops) and (classes == "all" or row.label in classes)
    ]


def parts_by_training(plan: Plan) -> dict[str, dict[str, list[str]]]:
    """By training and label that it does not predict, its classes that compose the label.

    Raises
    ------
    InputError
        `class_table` cannot be read.
    """
    if plan.config.class_table is None:
        return {}
    kept = plan.paths.inputs / "classes.csv"
    path = local_copy(plan.config.class_table, kept, "class_table", parse_class_table)
    table = read_class_table(path)
    labels = dict.fromkeys(row.label for row in plan.crop_labels)
    return {
        name: {
            label: parts
            for label in labels
            if label not in training.classes and (parts := parts_of(label, training.classes, table))
        }
        for name, training in plan.trainings.items()
    }


def fetched_crops(plan: Plan) -> dict[int, FetchRequest]:
    """Return the fetch requests of a run, by crop.

    Raises
    ------
    InputError
        `fetch.crops` cannot be read, or lacks crops or datasets.
    """
    assert plan.config.fetch
    path = local_copy(
        plan.config.fetch.crops, plan.paths.inputs / "crops.csv", "fetch.crops", parse_crop_table
    )
    table = read_crop_table(path)
    active = plan.active_trainings()
    for name in active:
        numbers = plan.trainings[name].crops or []
        missing = [
            n for n in numbers if n not in table and not crop_folders(plan.config.data_root, n)
        ]
        if missing:
            raise InputError(
                f"{name}: `crops`: {', '.join(map(str, missing))} are neither in the table of "
                f"fetch.crops nor below {plan.config.data_root}: correct the numbers"
            )
    return crops_to_fetch(
        table,
        [plan.trainings[name] for name in active],
        [plan.rows_by_crop(name) for name in active],
    )


def voxel_sizes(rows: Iterable[CropLabel]) -> list[list[float]]:
    """List the voxel sizes of rows (nm; z, y, x), once for all that count as the same."""
    sizes: list[list[float]] = []
    for size in sorted({row.grid.voxel_size for row in rows}):
        if all(size_ratio(size, other) > SAME_SIZE for other in sizes):
            sizes.append(list(size))
    return sizes


def crops_to_fetch(
    table: Mapping[int, CropRow],
    trainings: Sequence[Training],
    predicted: Sequence[Mapping[int, Sequence[CropLabel]]],
) -> dict[int, FetchRequest]:
    """Return the fetch requests of all crops that trainings use, by crop.

    Parameters
    ----------
    table
        Rows of the crop table, by crop.
    trainings
        Active trainings. The crops of a training with its own datasplit are not fetched.
    predicted
        The manifest rows that each training predicts, by test crop.

    Raises
    ------
    InputError
        The table has no row of a test crop's dataset.
    """
    requests: dict[int, FetchRequest] = {}
    for row in table.values():
        uses = [
            TrainUse(training.voxel_size, tuple(training.classes))
            for training in trainings
            if training.datasplit is None
            and (training.datasets is None or row.dataset in training.datasets)
            and (training.crops is None or row.crop in training.crops)
        ]
        if uses:
            requests[row.crop] = FetchRequest(row.dataset, row.labels, row.raw, train=tuple(uses))
    raw_of = {row.dataset: row.raw for row in table.values()}
    for training, crops in zip(trainings, predicted, strict=True):
        for crop, rows in crops.items():
            dataset = rows[0].dataset
            if dataset not in raw_of:
                raise InputError(
                    f"test crop {crop}: the table of fetch.crops has no row of {dataset}, which "
                    "would say where its raw lies: add one, or leave the crop out of "
                    "`submission.crops`"
                )
            extent = union([row.grid for row in rows])
            request = requests.get(crop) or FetchRequest(dataset, None, raw_of[dataset])
            if request.dataset != dataset:
                raise InputError(
                    f"crop {crop} is of dataset {dataset} in the manifest of test crops and of "
                    f"{request.dataset} in the table of fetch.crops: crop ids must be unique"
                )
            use = PredictUse(training.voxel_size, extent)
            requests[crop] = replace(request, predict=(*request.predict, use))
    return requests
