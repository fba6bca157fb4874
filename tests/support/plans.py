"""A plan of two trainings and four labels of two test crops."""

from pathlib import Path

import yaml

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.plan.plan import Plan

MODEL = {"model": {"architecture": "monai_basic_unet3d"}, "patch_size": 64}


def grid(voxel_size):
    return Grid((voxel_size,) * 3, (0, 0, 0), (8, 8, 8))


ROWS = [
    CropLabel(1, "a", "mito", grid(8)),
    CropLabel(1, "a", "nuc", grid(8)),
    CropLabel(1, "a", "er", grid(8)),
    CropLabel(2, "b", "nuc", grid(32)),
]


def two_trainings(folder: Path, files: dict[str, dict] | None = None, **changes) -> Plan:
    """Return the plan of the trainings ``fine`` (8 nm) and ``coarse`` (32 nm).

    `files` has more trainings, or changed ones, by name; keys of the configuration are changed by
    `changes`.
    """
    write_manifest(ROWS, folder / "m.csv")
    for name, extra in {
        "fine": {"classes": ["mito", "nuc"], "voxel_size": 8, "serves": [8]},
        "coarse": {"classes": ["nuc"], "voxel_size": 32},
        **(files or {}),
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(MODEL | extra))
    config = {
        "data_root": "data",
        "test_crops": str(folder / "m.csv"),
        "trainings": ["fine", "coarse"],
    }
    return make_plan(config | changes, "config.yaml", [folder])
