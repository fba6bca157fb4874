"""Steps per second of the training loop, compared with those of the bare network.

The loop is that of `train`: reading, augmenting and decoding patches, forward pass, backward pass,
optimizer, logging, checkpoints. The bare network performs forward pass, backward pass and optimizer
step on one batch that stays in memory, with the same loss, precision and clipping. The two take
turns, an epoch of the loop and the same number of bare steps, because the speed of machines varies.
Prints one line of JSON: the median steps per second of both, the median of their ratios by pair,
the same for CPU seconds (which depend less on other users of the machine), and the fraction of time
that the loop waited for data.

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

# As in the pipeline's jobs: waiting threads do not spin. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from loader import CLASSES, VOXEL, make_data

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.training.devices import resolve_precision
from cellmap_pipeline.training.optimizers import build_optimizer
from cellmap_pipeline.training.task import SegmentationTask
from cellmap_pipeline.training.train import train

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
    parser.add_argument("--gpu", action="store_true", help="use sizes for a GPU")
    parser.add_argument("--steps", type=int, default=20, help="number of steps per turn")
    parser.add_argument("--pairs", type=int, default=5, help="number of pairs of turns")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    sizes = GPU if arguments.gpu else CPU
    print(json.dumps(compare(sizes, arguments.steps, arguments.pairs, arguments.threads)))


def compare(sizes: dict[str, Any], steps: int, pairs: int, threads: int) -> dict[str, Any]:
    """Compare the loop with the bare network, in turns of some steps."""
    torch.set_num_threads(threads)
    training = Training.model_validate(
        {
            "classes": CLASSES, "voxel_size": VOXEL, "batch_size": 2, "epochs": pairs + 1,
            "iterations_per_epoch": steps, "validation_iterations": 1,
        }
        | sizes
    )  # fmt: skip
    bare = Bare(training)
    with tempfile.TemporaryDirectory() as folder:
        rows = loop(training, Path(folder), threads, bare)
    # The first epoch also reads the labels into memory.
    rates = rows["patches_per_second"].to_numpy()[1:] / training.batch_size
    return {
        "steps_per_second": round(float(np.median(rates)), 3),
        "bare_steps_per_second": round(float(np.median(bare.rates[1:])), 3),
        "ratio": round(float(np.median(rates / bare.rates[1:])), 3),
        "ratios": (rates / bare.rates[1:]).round(3).tolist(),
        "cpu_ratio": round(float(np.median([theirs / ours for ours, theirs in bare.cpu[1:]])), 3),
        "data_wait": round(float(rows["data_wait"][1:].median()), 4),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "precision": resolve_precision(training.precision),
    }


def loop(training: Training, folder: Path, threads: int, bare: Bare) -> pd.DataFrame:
    """Train with bare steps after each epoch, and return the table of metrics."""
    make_data(folder)
    split = folder / "datasplit.csv"
    labels = ",".join(CLASSES)
    split.write_text(
        f'train,{folder}/raw,"{folder}/crop0/[{labels}]"\n'
        f'validate,{folder}/raw,"{folder}/crop1/[{labels}]"\n'
    )
    train(training, split, folder / "training", folder / "model.ckpt", threads, callbacks=[bare])
    return pd.read_csv(folder / "training/metrics.csv")


class Bare(pl.Callback):
    """Measures the bare network after each epoch.

    Attributes
    ----------
    rates
        Steps per second, by epoch.
    cpu
        CPU seconds of the loop's epoch, and of the same number of bare steps, by epoch.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self.rates: list[float] = []
        self.cpu: list[tuple[float, float]] = []
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        task = SegmentationTask(training_settings(training, TRAIN_KEYS))
        self.task = task.to(self.device)
        self.optimizer = build_optimizer(task.network, training)
        shape = (training.batch_size, 1, *training.patch_size)
        self.raw = torch.rand(shape, device=self.device)
        level = torch.rand(len(task.channels), device=self.device).view(-1, 1, 1, 1)
        self.target = (level > self.raw).float()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Record the CPU time."""
        self.begin = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """Record the CPU time."""
        self.end = time.process_time()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Measure as many bare steps as an epoch has."""
        for _ in range(2):
            self._step()
        begin, cpu = self._now(), time.process_time()
        for _ in range(self.training.iterations_per_epoch):
            self._step()
        self.rates.append(self.training.iterations_per_epoch / (self._now() - begin))
        self.cpu.append((self.end - self.begin, time.process_time() - cpu))

    def _step(self) -> None:
        self.optimizer.zero_grad()
        mixed = resolve_precision(self.training.precision) != "32"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            loss = self.task.loss(self.task(self.raw), self.target)
        loss.backward()
        parameters = self.task.network.parameters()
        torch.nn.utils.clip_grad_norm_(parameters, self.training.gradient_clip)
        self.optimizer.step()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    main()
