"""Small trainings, also in separate processes that can be killed."""

import csv
import multiprocessing
from pathlib import Path

import numpy as np
import torch

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create

GRID = Grid((8, 8, 8), (0, 0, 0), (40, 40, 40))
# Nothing is random but the patches. Without scaling, they lie within the crop: the loss is a mean
# over known voxels, so it would differ where patches of a batch have different numbers of them.
REPRODUCIBLE = {
    "augment": {"scaling": 0},
    "validation_iterations": 50,
    "accumulate_grad_batches": 1,
    "gradient_clip": 0,
    "optimizer": "sgd",
    "loss": "bce",
    "model": {"architecture": "monai_segresnet", "init_filters": 8, "blocks_down": [1, 1]},
}


def settings(**changes):
    values = {
        "classes": ["mito"],
        "voxel_size": 8,
        "model": {"architecture": "monai_basic_unet3d", "features": [4, 4, 4, 4, 4, 4]},
        "patch_size": 32,
        "batch_size": 1,
        "epochs": 2,
        "iterations_per_epoch": 4,
        "validation_iterations": 2,
        "accumulate_grad_batches": 2,
        "learning_rate": 1e-2,
        "num_workers": 1,
        "log_every_steps": 1,
    }
    return Training.model_validate(values | changes)


def make_datasplit(folder: Path) -> Path:
    """Write a data split of a training crop and a validation crop, with a dark box each."""
    rng = np.random.default_rng(0)
    for number in (1, 2):
        ids = np.zeros(GRID.shape, np.uint8)
        ids[8:30, 10:30, 5:35] = 1
        raw = (rng.normal(120, 20, GRID.shape) - 60 * ids).clip(1, 255).astype(np.uint8)
        create(folder / f"raw{number}", GRID, "uint8").write(raw).result()
        (folder / f"crop{number}").mkdir()
        create(folder / f"crop{number}/mito", GRID, "uint8").write(ids).result()
    path = folder / "datasplit.csv"
    path.write_text(
        f"train,{folder}/raw1,{folder}/crop1/[mito]\nvalidate,{folder}/raw2,{folder}/crop2/[mito]\n"
    )
    return path


def all_train(datasplit: Path) -> Path:
    """Write a copy of a data split in which all crops train, for `validation: none`."""
    path = datasplit.with_name("all_train.csv")
    path.write_text(datasplit.read_text().replace("validate,", "train,"))
    return path


def start(training: Training, datasplit: Path, folder: Path) -> multiprocessing.Process:
    """Start a training in a new process, like a job, in `folder`."""
    process = _context().Process(target=_train, args=(training.model_dump(), datasplit, folder))
    process.start()
    return process


def warm_up() -> None:
    """Import the modules of trainings in advance, so that `start` is fast."""
    process = _context().Process(target=int)
    process.start()
    process.join()


def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    # Import the module once instead of in each process.
    context.set_forkserver_preload(["cellmap_pipeline.training.train"])
    return context


def _train(values: dict, datasplit: Path, folder: Path) -> None:
    from cellmap_pipeline.training.train import train

    folder.mkdir(exist_ok=True)
    train(Training.model_validate(values), datasplit, folder / "training", folder / "model.ckpt")


def read_weights(folder: Path):
    """Return the number of steps and the weights of a training's last checkpoint."""
    last = torch.load(folder / "training/checkpoints/last.ckpt", weights_only=True)
    return last["global_step"], last["state_dict"]


def read_rows(folder: Path):
    """Return the rows of a training's `metrics.csv`."""
    with (folder / "training/metrics.csv").open() as file:
        return list(csv.DictReader(file))
