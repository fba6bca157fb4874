import json

from cellmap_pipeline.data.fetching.request import FetchRequest, PredictUse, TeacherUse, TrainUse
from cellmap_pipeline.data.margins import RawMargins
from cellmap_pipeline.geometry import Grid

MARGINS = RawMargins((64, 64, 64), (16, 16, 16), (32, 48, 48), (7, 8, 9))
PLAIN_MARGINS = {
    "window": [64, 64, 64], "context": [16, 16, 16], "patch": [32, 48, 48], "rotation": [7, 8, 9]
}  # fmt: skip
ROOT = "s3://b/d/d.zarr/recon-1"
REQUEST = FetchRequest(
    "d",
    f"{ROOT}/labels/groundtruth/crop7",
    f"{ROOT}/em/fibsem-uint8",
    train=(
        TrainUse(
            (4.0, 4.0, 4.0), ("nuc", "mito"), MARGINS, {"nuc": ((2.0, 2.0, 2.0), (4.0, 4.0, 4.0))}
        ),
        TrainUse((8.0, 8.0, 8.0), ("er",), RawMargins()),
        TrainUse(
            (8.0, 8.0, 8.0), ("er",), RawMargins(), teacher=TeacherUse((4.0, 4.0, 4.0), MARGINS)
        ),
    ),
    predict=(
        PredictUse((8.0, 8.0, 8.0), Grid((4, 4, 4), (100, 0, 40), (20, 30, 40)), RawMargins()),
    ),
)
NO_MARGINS = {
    "window": [1, 1, 1], "context": [0, 0, 0], "patch": [1, 1, 1], "rotation": [0, 0, 0]
}  # fmt: skip
# Snakemake reruns a crop's job when this form changes, down to the order of the keys.
PLAIN = {
    "dataset": "d",
    "labels": "s3://b/d/d.zarr/recon-1/labels/groundtruth/crop7",
    "raw": "s3://b/d/d.zarr/recon-1/em/fibsem-uint8",
    "train": [
        {
            "voxel_size": [4.0, 4.0, 4.0],
            "classes": ["nuc", "mito"],
            "margins": PLAIN_MARGINS,
            "ground_truth": {"nuc": [[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]]},
            "teacher": None,
        },
        {
            "voxel_size": [8.0, 8.0, 8.0],
            "classes": ["er"],
            "margins": NO_MARGINS,
            "ground_truth": {},
            "teacher": None,
        },
        {
            "voxel_size": [8.0, 8.0, 8.0],
            "classes": ["er"],
            "margins": NO_MARGINS,
            "ground_truth": {},
            "teacher": {"voxel_size": [4.0, 4.0, 4.0], "margins": PLAIN_MARGINS},
        },
    ],
    "predict": [
        {
            "voxel_size": [8.0, 8.0, 8.0],
            "extent": {
                "voxel_size": [4.0, 4.0, 4.0],
                "translation": [100.0, 0.0, 40.0],
                "shape": [20, 30, 40],
            },
            "margins": NO_MARGINS,
        }
    ],
}


def test_plain_form_has_a_fixed_order_of_keys():
    assert REQUEST.to_dict() == PLAIN
    assert json.dumps(REQUEST.to_dict()) == json.dumps(PLAIN)
    empty = {"dataset": "d", "labels": None, "raw": "r", "train": [], "predict": []}
    assert json.dumps(FetchRequest("d", None, "r").to_dict()) == json.dumps(empty)


def test_request_is_restored_from_its_plain_form():
    assert FetchRequest.from_dict(json.loads(json.dumps(PLAIN))) == REQUEST
