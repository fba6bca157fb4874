"""A tiny run folder to spoil, and the check that a run in it ends early with one message."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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

# The stages at which a run can end before anything expensive; CHECK is the first job.
PARSING, START, CHECK = "while Snakemake parses", "before the first job", "check_inputs"

CONFIG, TINY, MANIFEST = "config/config.yaml", "config/training/tiny.yaml", "data/manifest.csv"
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
        """The run configuration."""
        return self.path / CONFIG

    @property
    def training(self) -> Path:
        """The file of the run's only training."""
        return self.path / TINY

    @property
    def manifest(self) -> Path:
        """The manifest of the test crop."""
        return self.path / MANIFEST

    @property
    def recon(self) -> Path:
        """The group with the dataset's raw and labels."""
        return self.path / "data/a/a.zarr/recon-1"

    @property
    def raw(self) -> Path:
        """The raw volume."""
        return self.recon / "em/fibsem-uint8"

    def label(self, label: str = "mito", crop: int = 1) -> Path:
        """Return the path of a label of a training crop."""
        return self.recon / f"labels/groundtruth/crop{crop}/{label}"

    @property
    def ground_truth(self) -> Path:
        """The ground truth of the test crop."""
        return self.path / "data/truth.zarr"

    def configure(self, **changes: Any) -> None:
        """Change keys of the run configuration."""
        _change(self.config, changes)

    def configure_training(self, **changes: Any) -> None:
        """Change keys of the training's file."""
        _change(self.training, changes)

    def row(self, **changes: str) -> None:
        """Write a manifest with one row, with some of its fields changed."""
        fields = dict(
            zip(
                HEADER.split(","),
                ("3", "a", "mito", "[8;8;8]", "[0;0;0]", "[32;32;32]"),
                strict=True,
            )
        )
        self.manifest.write_text(f"{HEADER}\n{','.join((fields | changes).values())}\n")

    def store(
        self, path: Path, voxels: np.ndarray, grid: Grid | None = None, **attributes: Any
    ) -> None:
        """Write a volume, in place of the one at `path` if there is one."""
        grid = grid or Grid((8, 8, 8), (0, 0, 0), voxels.shape)
        create(path, grid, voxels.dtype.str, attributes, chunk=32).write(voxels).result()

    def write_predictions(
        self, voxels: np.ndarray, grid: Grid, crop: int = TEST_CROP, channel: str = "mito"
    ) -> None:
        """Store external predictions of a crop, and configure them as a source."""
        self.configure_predictions()
        self.store(self.path / f"other/a/crop{crop}/{channel}", voxels, grid)

    def configure_predictions(self) -> None:
        """Configure external predictions of mito as a source, whether or not they exist."""
        path = "other/{dataset}/crop{crop}/{label}"
        self.configure(predictions={"nnunet": {"path": path, "classes": ["mito"]}})


class Row(NamedTuple):
    """A kind of bad input.

    Attributes
    ----------
    stage
        When the run ends: `PARSING`, `START` or `CHECK`.
    message
        The message with which it ends; `…` stands for any text.
    spoil
        The function that spoils a valid folder.
    """

    stage: str
    message: str
    spoil: Callable[[Folder], object]


def make_folder(path: Path) -> Folder:
    """Write a valid run folder."""
    folder = Folder(path)
    (path / "config/training").mkdir(parents=True)
    folder.config.write_text(
        yaml.safe_dump(
            {
                "data_root": "data",
                "test_crops": MANIFEST,
                "ground_truth": "data/truth.zarr",
                "trainings": ["tiny"],
            }
        )
    )
    folder.training.write_text(yaml.safe_dump(TRAINING))
    rng = np.random.default_rng(0)
    folder.store(folder.raw, rng.integers(1, 255, RAW.shape).astype(np.uint8), RAW)
    rows = []
    for number, start in STARTS.items():
        grid = RAW.box(start, CROP)
        for label in CLASSES:
            ids = np.zeros(CROP, np.uint8)
            ids[4:20, 6:24, 8:30] = 1
            if number == TEST_CROP:
                rows.append(CropLabel(number, "a", label, grid))
                write_array(folder.ground_truth / f"crop{number}" / label, ids, {})
            else:
                counted = {"annotation": {"complement_counts": {"absent": int((ids == 0).sum())}}}
                folder.store(folder.label(label, number), ids, grid, cellmap=counted)
    write_manifest(rows, folder.manifest)
    for name in ("results/tiny/model.ckpt", "results/segmentations/a/crop3/mito/.zattrs"):
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text("of an earlier run")
    (path / "submission.zip").write_text("of an earlier run")
    return folder


def check_run(folder: Folder) -> tuple[str, str]:
    """Check a run in `folder`, the working directory, up to its first job.

    Returns
    -------
    stage
        When the run ends, or an empty string if nothing is wrong.
    message
        The message with which it ends, or an empty string.
    """
    stage = PARSING
    try:
        config = read_yaml(Path(CONFIG))
        plan = make_plan(config, CONFIG, [Path("config/training")])
        stage = START
        check_folders(plan)
        stage = CHECK
        check_inputs(plan, threads=2, trains_here=True)
    except InputError as error:
        return stage, str(error)
    return "", ""


def assert_refused(folder: Folder, row: Row) -> None:
    """Spoil the folder, and assert that the run ends as expected and runs no injected code."""
    row.spoil(folder)
    assert_ends(folder, row.stage, row.message)
    assert not (folder.path / "ran").exists()


def assert_ends(folder: Folder, stage: str, message: str) -> None:
    """Assert that a run ends at `stage` with `message` on one line, and changes no file."""
    before = file_contents(folder.path)
    actual_stage, report = check_run(folder)
    assert any(re.search(pattern(message), line) for line in report.splitlines()), report
    assert actual_stage == stage, report
    assert file_contents(folder.path) == before


def pattern(message: str) -> str:
    """Return the regular expression of a message in which `…` stands for any text."""
    return ".*".join(map(re.escape, message.split("…")))


def file_contents(folder: Path) -> dict[Path, bytes | str]:
    """Return the content of each file below a folder, and the target of each link."""
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def append(path: Path, text: str) -> None:
    """Append text to a file."""
    path.write_text(path.read_text() + text)


def rewrite(path: Path, old: str, new: str) -> None:
    """Replace text, which must occur, in a file."""
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def truncate(path: Path, share: float = 0.5) -> None:
    """Keep only the first `share` of a file."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def replace_by_link(path: Path, target: str) -> None:
    """Replace a folder by a symbolic link."""
    shutil.rmtree(path)
    path.symlink_to(target)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the value in a JSON file, in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def change_scale(volume: Path, scale: list[float]) -> None:
    """Change the voxel size in the metadata of a volume."""

    def change(attributes):
        steps = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        steps[0]["scale"] = scale

    edit(volume / ".zattrs", change)


def change_translation(volume: Path, translation: list[float]) -> None:
    """Change the translation in the metadata of a volume."""

    def change(attributes):
        steps = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        steps[1]["translation"] = translation

    edit(volume / ".zattrs", change)


def change_axes(volume: Path, **changes) -> None:
    """Change all axes in the metadata of a volume."""
    edit(volume / ".zattrs", lambda a: [x.update(changes) for x in a["multiscales"][0]["axes"]])


def change_array(level: Path, **changes) -> None:
    """Change the metadata of an array."""
    edit(level / ".zarray", lambda a: a.update(changes))


def external_predictions(folder: Folder, voxels: np.ndarray, translation=(128, 128, 512)) -> None:
    """Store external predictions of mito at 8 nm, and configure them as a source."""
    folder.write_predictions(voxels, Grid((8, 8, 8), translation, voxels.shape))


def _change(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
