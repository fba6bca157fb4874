"""The shipped trainings, and volumes drawn for them: small blocks of random classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback

from cellmap_pipeline.config.load import load_training
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.class_table import find_atoms
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.training.train import train
from tests.support.networks import SMALL

CONFIG = Path(__file__).parents[2] / "config/training"
SHIPPED = sorted(path.stem for path in CONFIG.glob("*.yaml"))
BLOCK_SIDE_VOXELS = 8

# The challenge's class table, for the classes of the shipped trainings.
SINGLE = {
    "ecs": 1, "pm": 2, "mito_mem": 3, "mito_lum": 4, "mito_ribo": 5, "golgi_mem": 6, "golgi_lum": 7,
    "ves_mem": 8, "ves_lum": 9, "endo_mem": 10, "endo_lum": 11, "lyso_mem": 12, "lyso_lum": 13,
    "ld_mem": 14, "ld_lum": 15, "er_mem": 16, "er_lum": 17, "eres_mem": 18, "eres_lum": 19,
    "ne_mem": 20, "ne_lum": 21, "np_out": 22, "np_in": 23, "hchrom": 24, "echrom": 26, "nucpl": 28,
    "mt_out": 30, "cyto": 35, "mt_in": 36, "perox_mem": 47, "perox_lum": 48,
}  # fmt: skip
COMPOSED = {
    "nuc": range(20, 30), "golgi": (6, 7), "ves": (8, 9), "endo": (10, 11), "lyso": (12, 13),
    "ld": (14, 15), "eres": (18, 19), "perox": (47, 48), "mito": (3, 4, 5), "er": range(16, 24),
    "ne": range(20, 24), "np": (22, 23), "chrom": range(24, 28), "mt": (30, 36),
    "cell": range(2, 49), "er_mem_all": (16, 18, 20), "ne_mem_all": (20, 22, 23),
}  # fmt: skip
CLASS_TABLE = {
    **{label: frozenset([leaf]) for label, leaf in SINGLE.items()},
    **{label: frozenset(leaves) for label, leaves in COMPOSED.items()},
}


class Drawn:
    """The shipped trainings, with data to train on.

    Parameters
    ----------
    device
        On the CPU, networks and patches are small.
    folder
        Folder for the data.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        self.folder = folder

    def training(self, name: str, steps: int, **changes: Any) -> Training:
        """Return a shipped training that ends after some optimizer steps, with changed settings."""
        shipped = load_training(name, [CONFIG])
        settings = shipped.model_dump()
        settings |= {
            "epochs": 1,
            "validation_iterations": 2,
            "log_every_steps": 1,
            "num_workers": 4,
            # A plan resolves these two.
            "oversample": None,
            "hierarchy": shipped.hierarchy and find_atoms(shipped.classes, CLASS_TABLE),
        }
        if self.device.type == "cpu":
            architecture = shipped.model["architecture"]
            options, _ = SMALL[architecture]
            settings["model"] |= options | ({"kernel_size": 3} if architecture == "mednext" else {})
            settings |= {"patch_size": 32, "batch_size": 1, "num_workers": 1}
            settings["accumulate_grad_batches"] = min(2, shipped.accumulate_grad_batches)
        settings |= changes
        settings["iterations_per_epoch"] = steps * settings["accumulate_grad_batches"]
        return Training.model_validate(settings)

    def datasplit(self, training: Training) -> Path:
        """Draw a crop to train on and one to validate on, unless it was done; return their split.

        Their voxels are those of the training.
        """
        side = max(training.patch_size) + 32
        folder = self.folder / "-".join(map(str, [training.voxel_size[0], side]))
        path = folder / f"{len(training.classes)}.csv"
        grid = Grid(training.voxel_size, (0, 0, 0), (side, side, side))
        folder.mkdir(exist_ok=True)
        rows = []
        for number, usage in enumerate(("train", "validate")):
            blocks = np.random.default_rng(number).choice(
                list(SINGLE.values()), [-(-side // BLOCK_SIDE_VOXELS)] * 3
            )
            raw, crop = folder / f"raw{number}", folder / f"crop{number}"
            if not raw.exists():
                noise = np.random.default_rng(number).integers(0, 100, grid.shape)
                voxels = (noise + 3 * _enlarge(blocks, side)).astype(np.uint8)
                create(raw, grid, "uint8").write(voxels).result()
            crop.mkdir(exist_ok=True)
            for label in training.classes:
                if not (crop / label).exists():
                    inside = np.isin(blocks, list(CLASS_TABLE[label])).astype(np.uint8)
                    create(crop / label, grid, "uint8").write(_enlarge(inside, side)).result()
            rows.append([usage, raw, f"{crop}/[{','.join(training.classes)}]"])
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return path

    def train(self, training: Training, folder: Path, callbacks: Sequence[Callback] = ()) -> None:
        """Train, as a job would."""
        train(
            training,
            self.datasplit(training),
            folder / "training",
            folder / "model.ckpt",
            callbacks=callbacks,
        )


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read the metrics of each epoch of the training in a folder."""
    with (folder / "training/metrics.csv").open(newline="") as file:
        return [
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def read_last(folder: Path) -> dict[str, Any]:
    """Read the last checkpoint of the training in a folder."""
    path = folder / "training/checkpoints/last.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


def _enlarge(blocks: np.ndarray, side: int) -> np.ndarray:
    """Make each voxel a block, and cut the result to a cube of `side` voxels."""
    for axis in range(3):
        blocks = blocks.repeat(BLOCK_SIDE_VOXELS, axis)
    return np.ascontiguousarray(blocks[:side, :side, :side])
