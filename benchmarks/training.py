"""Steps per second of the training loop against those of the bare network.

The loop is what `train` does: reading, changing and decoding patches, forward, backward, optimiser,
logging, checkpoints. The bare network does forward, backward and optimiser on one batch that stays
in memory, with the same loss, precision and clipping, before and after the loop. Prints one line
of JSON: steps per second of both, their ratio, and the share of time that the loop waited for data.

    python benchmarks/training.py          # BasicUNet, 64³ patches, batch 2
    python benchmarks/training.py --gpu    # MedNeXt M, 128³ patches, batch 2, bf16
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

# As the pipeline's own jobs, before torch is imported: threads that wait don't spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import torch
from loader import CLASSES, VOXEL, make_data

from cellmap_pipeline.config import Training
from cellmap_pipeline.optimisers import build_optimizer
from cellmap_pipeline.plan import TRAIN_KEYS, training_settings
from cellmap_pipeline.task import SegmentationTask
from cellmap_pipeline.training import precision, train

CPU = {
    "model": {"architecture": "monai_basic_unet3d"}, "patch_size": 64, "num_workers": 1,
    "accumulate_grad_batches": 1,
}  # fmt: skip
GPU = {
    "model": {"architecture": "mednext", "size": "M", "deep_supervision": True},
    "patch_size": 128, "num_workers": 8, "accumulate_grad_batches": 1, "precision": "bf16-mixed",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="sizes for a GPU")
    parser.add_argument("--steps", type=int, default=40, help="measured of each")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    training = Training.model_validate(
        {
            "classes": CLASSES, "voxel_size": VOXEL, "batch_size": 2, "epochs": 2,
            "iterations_per_epoch": arguments.steps, "validation_iterations": 1,
        }
        | (GPU if arguments.gpu else CPU)
    )  # fmt: skip
    before = bare(training, arguments.steps)
    with tempfile.TemporaryDirectory() as folder:
        row = loop(training, Path(folder), arguments.threads)
    after = bare(training, arguments.steps)
    steps = row["patches_per_second"] / training.batch_size
    result = {
        "steps_per_second": round(steps, 3),
        "bare_steps_per_second": [round(before, 3), round(after, 3)],
        "ratio": round(2 * steps / (before + after), 3),
        "data_wait": round(row["data_wait"], 4),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "precision": precision(training.precision),
    }
    print(json.dumps(result))


def loop(training: Training, folder: Path, threads: int) -> dict[str, Any]:
    """The last epoch's row of a training's table; in the one before, labels come into memory."""
    make_data(folder)
    split = folder / "datasplit.csv"
    labels = ",".join(CLASSES)
    split.write_text(
        f'train,{folder}/raw,"{folder}/crop0/[{labels}]"\n'
        f'validate,{folder}/raw,"{folder}/crop1/[{labels}]"\n'
    )
    train(training, split, folder / "training", folder / "model.ckpt", threads)
    return pd.read_csv(folder / "training/metrics.csv").iloc[-1].to_dict()


def bare(training: Training, steps: int) -> float:
    """Steps per second of the network alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = SegmentationTask(training_settings(training, TRAIN_KEYS)).to(device)
    optimizer = build_optimizer(task.network, training)
    shape = (training.batch_size, 1, *training.patch_size)
    raw = torch.rand(shape, device=device)
    target = (torch.rand(len(task.channels), device=device).view(-1, 1, 1, 1) > raw).float()
    mixed = precision(training.precision)
    for step in range(steps + 3):
        if step == 3:
            begin = _now(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed != "32"):
            loss = task.loss(task(raw), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.network.parameters(), training.gradient_clip)
        optimizer.step()
    return steps / (_now(device) - begin)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
