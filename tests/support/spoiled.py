"""A run's folder with tiny data, to be spoiled, and what is said before anything expensive."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.io.yaml_files import read_yaml
from cellmap_pipeline.plan.checks import check_folders
from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.preflight.check_inputs import check_inputs
from tests.support.drawn_volumes import write_array

# When something is said: while Snakemake parses, before the first job, in the first job.
PARSING, START, LOOK = "while Snakemake parses", "before the first job", "check_inputs"

RAW = Grid((8, 8, 8), (0, 0, 0), (64, 64, 96))
CROP = (32, 32, 32)
STARTS: dict[int, Shape] = {1: (0, 0, 0), 2: (32, 32, 32), 3: (16, 16, 64)}
TEST_CROP = 3
CLASSES = ["mito", "pm"]
TRAINING = {
    "classes": CLASSES,
    "voxel_size": 8,
    "model": {"architecture": "monai_basic_unet3d", "features": [4, 4, 4, 4, 4, 4]},
    "patch_size": 32,
}
HEADER = "crop_name,dataset,class_label,voxel_size,translation,shape"


@dataclass
class Folder:
    """A working directory: config/, data/ with a dataset `a`, and results/ of an earlier run."""

    path: Path

    @property
    def config(self) -> Path:
        """The run's configuration."""
        return self.path / "config/config.yaml"

    @property
    def training(self) -> Path:
        """The file of its training."""
        return self.path / "config/training/tiny.yaml"

    @property
    def manifest(self) -> Path:
        """Of the test crop."""
        return self.path / "data/manifest.csv"

    @property
    def recon(self) -> Path:
        """What holds the dataset's raw and labels."""
        return self.path / "data/a/a.zarr/recon-1"

    @property
    def raw(self) -> Path:
        """The raw volume."""
        return self.recon / "em/fibsem-uint8"

    def label(self, label: str = "mito", crop: int = 1) -> Path:
        """A label of a crop to train on."""
        return self.recon / f"labels/groundtruth/crop{crop}/{label}"

    @property
    def truth(self) -> Path:
        """Of the test crop."""
        return self.path / "data/truth.zarr"

    def configure(self, **changes: Any) -> None:
        """Change keys of the run's configuration."""
        _change(self.config, changes)

    def train(self, **changes: Any) -> None:
        """Change keys of the training's file."""
        _change(self.training, changes)

    def row(self, **changes: str) -> None:
        """Write a manifest with one row, in which fields are changed."""
        fields = dict(
            zip(
                HEADER.split(","),
                ("3", "a", "mito", "[8;8;8]", "[0;0;0]", "[32;32;32]"),
                strict=True,
            )
        )
        self.manifest.write_text(f"{HEADER}\n{','.join((fields | changes).values())}\n")

    def store(self, path: Path, voxels: np.ndarray, grid: Grid | None = None, **said: Any) -> None:
        """Write a volume in the place of another."""
        grid = grid or Grid((8, 8, 8), (0, 0, 0), voxels.shape)
        create(path, grid, voxels.dtype.str, said, chunk=32).write(voxels).result()

    def predict_elsewhere(
        self, voxels: np.ndarray, grid: Grid, crop: int = TEST_CROP, channel: str = "mito"
    ) -> None:
        """Store predictions made elsewhere of a crop, and let the configuration name them."""
        self.name_elsewhere()
        self.store(self.path / f"other/a/crop{crop}/{channel}", voxels, grid)

    def name_elsewhere(self) -> None:
        """Let the configuration name predictions made elsewhere of mito, there or not."""
        path = "other/{dataset}/crop{crop}/{label}"
        self.configure(predictions={"nnunet": {"path": path, "classes": ["mito"]}})


def make_folder(path: Path) -> Folder:
    """A folder with which all is well."""
    it = Folder(path)
    (path / "config/training").mkdir(parents=True)
    it.config.write_text(
        yaml.safe_dump(
            {
                "data_root": "data",
                "test_crops": "data/manifest.csv",
                "ground_truth": "data/truth.zarr",
                "trainings": ["tiny"],
            }
        )
    )
    it.training.write_text(yaml.safe_dump(TRAINING))
    rng = np.random.default_rng(0)
    it.store(it.raw, rng.integers(1, 255, RAW.shape).astype(np.uint8), RAW)
    rows = []
    for number, start in STARTS.items():
        grid = RAW.box(start, CROP)
        for label in CLASSES:
            ids = np.zeros(CROP, np.uint8)
            ids[4:20, 6:24, 8:30] = 1
            if number == TEST_CROP:
                rows.append(CropLabel(number, "a", label, grid))
                write_array(it.truth / f"crop{number}" / label, ids, {})
            else:
                counted = {"annotation": {"complement_counts": {"absent": int((ids == 0).sum())}}}
                it.store(it.label(label, number), ids, grid, cellmap=counted)
    write_manifest(rows, it.manifest)
    for name in ("results/tiny/model.ckpt", "results/segmentations/a/crop3/mito/.zattrs"):
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text("of an earlier run")
    (path / "submission.zip").write_text("of an earlier run")
    return it


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a JSON file holds, in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def said_to(it: Folder) -> tuple[str, str]:
    """When a run in the folder, which is the working directory, ends, and what is said then."""
    when = PARSING
    try:
        config = read_yaml(Path("config/config.yaml"))
        plan = make_plan(config, "config/config.yaml", [Path("config/training")])
        when = START
        check_folders(plan)
        when = LOOK
        check_inputs(plan, threads=2, trains_here=True)
    except InputError as error:
        return when, str(error)
    return "", ""


def _change(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
