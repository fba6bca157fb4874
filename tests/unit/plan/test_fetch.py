"""What is fetched of each crop, as the trainings need it."""

import pytest

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.crop_table import COLUMNS, parse_crop_table
from cellmap_pipeline.data.fetching.request import TeacherUse
from cellmap_pipeline.data.margins import RawMargins
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.fetch import DataNeeds, crops_to_fetch

RAW = "s3://b/d1/d1.zarr/recon-1/em/fibsem-uint8"


def table(*crops):
    """A crop table of (crop, dataset)."""
    lines = [",".join(COLUMNS)]
    for crop, dataset in crops:
        root = f"s3://b/{dataset}/{dataset}.zarr/recon-1"
        labels = f"{root}/labels/groundtruth/crop{crop}"
        lines.append(f"{crop},{dataset},recon-1,{labels},{root}/em/fibsem-uint8")
    return parse_crop_table("\n".join(lines), "t")


def training(**settings):
    given = {"classes": ["nuc", "mito"], "voxel_size": 8, "patch_size": 32}
    model = {"architecture": "monai_basic_unet3d", "features": [4, 4, 8, 8, 8, 4]}
    return Training.model_validate(given | {"model": model} | settings)


def test_crops_are_filtered_by_training():
    fine = training(crops=[1, 3], voxel_size=4)
    coarse = training(datasets=["d1"], classes=["nuc"])
    own = training(datasplit="own.csv")
    requests = crops_to_fetch(
        table((1, "d1"), (2, "d1"), (3, "d2")), [DataNeeds(t) for t in (fine, coarse, own)]
    )
    users = {
        crop: [(use.voxel_size[0], use.classes) for use in request.train]
        for crop, request in requests.items()
    }
    both, nuc = (4.0, ("nuc", "mito")), (8.0, ("nuc",))
    assert users == {1: [both, nuc], 2: [nuc], 3: [both]}
    assert requests[1].raw == RAW


def test_extent_of_test_crops_is_that_of_their_labels():
    rows = [
        CropLabel(50, "d1", "nuc", Grid((4, 4, 4), (100, 0, 0), (10, 10, 10))),
        CropLabel(50, "d1", "mito", Grid((4, 4, 4), (120, 0, 0), (10, 10, 10))),
    ]
    needs = DataNeeds(training(datasets=["d2"]), {50: rows})
    requests = crops_to_fetch(table((1, "d1")), [needs])
    assert list(requests) == [50]
    assert requests[50].labels is None
    assert requests[50].raw == RAW
    assert requests[50].predict[0].extent == Grid((4, 4, 4), (100, 0, 0), (15, 10, 10))


def test_test_crop_of_an_unknown_dataset_is_named():
    row = CropLabel(50, "d9", "nuc", Grid((4, 4, 4), (0, 0, 0), (10, 10, 10)))
    with pytest.raises(InputError, match="test crop 50: .* no row of d9"):
        crops_to_fetch(table((1, "d1")), [DataNeeds(training(), {50: [row]})])


def test_teachers_widen_what_is_fetched_around_training_crops():
    teacher = training(voxel_size=16, inference={"window": 32, "overlap": 0.5})
    student = training(teach={"from": "teacher", "margin_nm": [0, 40, 80]})
    needs = [DataNeeds(student, teacher=teacher)]
    (own,) = crops_to_fetch(table((1, "d1")), needs)[1].train
    plain = crops_to_fetch(table((1, "d1")), [DataNeeds(training())])[1].train[0]
    assert own.margins == plain.margins.widened((0, 5, 10))
    margins = teacher.prediction_margins.widened((0, 3, 5))
    assert own.teacher == TeacherUse(teacher.voxel_size, margins)
    (own,) = crops_to_fetch(table((1, "d1")), needs, padding_nm=100)[1].train
    assert own.teacher.margins == RawMargins(context=(7, 7, 7))


def test_margins_are_what_the_training_reads_or_a_number():
    row = CropLabel(50, "d1", "nuc", Grid((4, 4, 4), (0, 0, 0), (10, 10, 10)))
    made = training(augment={"rotate": 180, "scaling": 0}, inference={"overlap": 0.5, "window": 48})
    needs = [DataNeeds(made, {50: [row]})]
    requests = crops_to_fetch(table((1, "d1")), needs)
    # Half of 31 voxels times the root of 3, less that half.
    train = RawMargins((48, 48, 48), (12, 12, 12), (32, 32, 32), (12, 12, 12))
    assert requests[1].train[0].margins == train
    assert requests[50].predict[0].margins == RawMargins((48, 48, 48), (12, 12, 12))
    requests = crops_to_fetch(table((1, "d1")), needs, padding_nm=100)
    fixed = RawMargins(context=(13, 13, 13))
    assert requests[1].train[0].margins == requests[50].predict[0].margins == fixed
