"""The fetch requests of a run: what its trainings and their validation read of each crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.crop_table import CropRow, parse_crop_table, read_crop_table
from cellmap_pipeline.data.fetching.request import FetchRequest, PredictUse, TeacherUse, TrainUse
from cellmap_pipeline.data.layout import crop_folders
from cellmap_pipeline.data.margins import RawMargins
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Vector, union
from cellmap_pipeline.io.files import local_copy
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.validation import ground_truth_sizes


@dataclass(frozen=True)
class DataNeeds:
    """The data that an active training needs.

    Attributes
    ----------
    training
        The training. If it has its own datasplit, its training crops are not fetched.
    predicted
        The manifest rows that it predicts, by test crop.
    ground_truth
        By label, the voxel sizes (nm) at which its validation crops are asked for ground truth.
    teacher
        The training that labels what is around its crops, if any.
    """

    training: Training
    predicted: Mapping[int, Sequence[CropLabel]] = field(default_factory=dict)
    ground_truth: Mapping[str, Sequence[Vector]] = field(default_factory=dict)
    teacher: Training | None = None

    def train_use(self, padding_nm: float | None) -> TrainUse:
        """Return the use of a training crop; `padding_nm` as for `crops_to_fetch`."""
        training = self.training
        teacher = None
        if self.teacher:
            size, own = self.teacher.voxel_size, training.teacher_margins(self.teacher)
            teacher = TeacherUse(size, _margins(own, size, padding_nm))
        return TrainUse(
            training.voxel_size,
            tuple(training.classes),
            _margins(training.margins, training.voxel_size, padding_nm),
            self.ground_truth,
            teacher,
        )


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
    needs = [
        DataNeeds(
            plan.trainings[name],
            plan.rows_by_crop(name),
            ground_truth_sizes(plan, name),
            plan.trainings[teachers[0]] if (teachers := plan.teachers(name)) else None,
        )
        for name in active
    ]
    return crops_to_fetch(table, needs, plan.config.fetch.padding)


def crops_to_fetch(
    table: Mapping[int, CropRow], needs: Sequence[DataNeeds], padding_nm: float | None = None
) -> dict[int, FetchRequest]:
    """Return the fetch requests of all crops that trainings use, by crop.

    Parameters
    ----------
    table
        Rows of the crop table, by crop.
    needs
        The needs of each active training.
    padding_nm
        Width of the raw to fetch around each crop; None: all that the trainings read.

    Raises
    ------
    InputError
        The table has no row of a test crop's dataset.
    """
    requests: dict[int, FetchRequest] = {}
    for row in table.values():
        uses = [
            need.train_use(padding_nm)
            for need in needs
            if need.training.datasplit is None and need.training.takes_crop(row.dataset, row.crop)
        ]
        if uses:
            requests[row.crop] = FetchRequest(row.dataset, row.labels, row.raw, train=tuple(uses))
    raw_of = {row.dataset: row.raw for row in table.values()}
    for need in needs:
        training = need.training
        for crop, rows in need.predicted.items():
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
            use = PredictUse(
                training.voxel_size,
                extent,
                _margins(training.prediction_margins, training.voxel_size, padding_nm),
            )
            requests[crop] = replace(request, predict=(*request.predict, use))
    return requests


def _margins(own: RawMargins, voxel_size: Vector, padding_nm: float | None) -> RawMargins:
    return own if padding_nm is None else RawMargins.fixed(padding_nm, voxel_size)
