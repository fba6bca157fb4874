import json

from cellmap_pipeline.data.fetch_request import FetchRequest, PredictUse, Reach, TrainUse
from cellmap_pipeline.geometry import Grid

ROOT = "s3://b/d/d.zarr/recon-1"
REQUEST = FetchRequest(
    "d",
    f"{ROOT}/labels/groundtruth/crop7",
    f"{ROOT}/em/fibsem-uint8",
    train=(
        TrainUse(
            (4.0, 4.0, 4.0),
            ("nuc", "mito"),
            Reach((8, 8, 8), (1, 2, 3), (9, 9, 9), (4, 4, 4)),
            (("nuc", ((2.0, 2.0, 2.0), (8.0, 8.0, 8.0))),),
        ),
        TrainUse((8.0, 8.0, 8.0), ("er",)),
    ),
    predict=(PredictUse((8.0, 8.0, 8.0), Grid((4, 4, 4), (100, 0, 40), (20, 30, 40))),),
)
NOTHING = {"patch": [0] * 3, "patch_margin": [0] * 3, "window": [0] * 3, "context": [0] * 3}
# Snakemake reruns a crop's job when this form changes, down to the order of the keys.
PLAIN = {
    "dataset": "d",
    "labels": "s3://b/d/d.zarr/recon-1/labels/groundtruth/crop7",
    "raw": "s3://b/d/d.zarr/recon-1/em/fibsem-uint8",
    "train": [
        {
            "voxel_size": [4.0, 4.0, 4.0],
            "classes": ["nuc", "mito"],
            "reach": {
                "patch": [8, 8, 8],
                "patch_margin": [1, 2, 3],
                "window": [9, 9, 9],
                "context": [4, 4, 4],
            },
            "truth_sizes": [["nuc", [[2.0, 2.0, 2.0], [8.0, 8.0, 8.0]]]],
        },
        {
            "voxel_size": [8.0, 8.0, 8.0],
            "classes": ["er"],
            "reach": NOTHING,
            "truth_sizes": [],
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
            "reach": NOTHING,
        }
    ],
}


def test_plain_form():
    assert REQUEST.to_dict() == PLAIN
    assert json.dumps(REQUEST.to_dict()) == json.dumps(PLAIN)
    empty = {"dataset": "d", "labels": None, "raw": "r", "train": [], "predict": []}
    assert json.dumps(FetchRequest("d", None, "r").to_dict()) == json.dumps(empty)


def test_roundtrip():
    assert FetchRequest.from_dict(json.loads(json.dumps(PLAIN))) == REQUEST


def test_reach_beyond_small_and_large_crops():
    reach = Reach((32, 32, 32), (5, 0, 0), (48, 48, 48), (12, 12, 12))
    # A patch holds a small crop anywhere; a window has it in its middle.
    assert reach.beyond_trained((20, 32, 100)) == (17, 0, 0)
    assert reach.beyond_predicted((20, 47, 100)) == (14, 12, 12)
