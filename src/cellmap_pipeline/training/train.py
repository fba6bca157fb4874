"""Training a network on the crops of a datasplit, with PyTorch Lightning."""

from __future__ import annotations

import hashlib
import logging
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
)
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.config.stages import RESULT_VERSION, TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.patches.crops import open_crops
from cellmap_pipeline.patches.loader import loaders
from cellmap_pipeline.run.resume import claim, fingerprint_of
from cellmap_pipeline.training.callbacks import (
    TABLE,
    BestCheckpoints,
    EpochTable,
    ExampleSlices,
    Patience,
    Progress,
)
from cellmap_pipeline.training.checkpoints import export
from cellmap_pipeline.training.devices import check_gpus, precision
from cellmap_pipeline.training.initial_weights import load_initial
from cellmap_pipeline.training.interruption import LAST, LastCheckpoint, newest_checkpoint
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)
# Of what Lightning says, what is not about this training.
for chatty in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(chatty).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
# Each GPU's process is started here, not by `srun`.
warnings.filterwarnings("ignore", "The `srun` command is available")
warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\)")


def train(
    training: Training,
    datasplit: Path,
    state: Path,
    checkpoint: Path,
    threads: int = 1,
    summary: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train to the end, or from where an earlier job of the same settings was stopped.

    Parameters
    ----------
    training
        The settings.
    datasplit
        Crops to train on and to validate with.
    state
        Folder of what a running training keeps: `checkpoints/`, `tensorboard/`, `metrics.csv`.
    checkpoint
        Where the best checkpoint goes when the training is done.
    threads
        For the CPU.
    summary
        `datasplit_summary.csv`, for `class_weights: balanced`.
    callbacks
        Of Lightning, besides the pipeline's own.

    Raises
    ------
    InputError
        The datasplit cannot be used, more GPUs are asked for than there are, or their memory is
        too small.
    Interrupted
        A signal asked to end; the next call goes on.
    """
    torch.set_num_threads(threads)
    pl.seed_everything(training.seed, workers=True, verbose=False)
    settings = training_settings(training, TRAIN_KEYS)
    crops = open_crops(datasplit, training.classes, training.voxel_size)
    given = {"datasplit": datasplit.read_text(), "result_version": RESULT_VERSION["train"]}
    if training.initial_weights:
        given["initial_weights"] = _digest(Path(training.initial_weights))
    # With more epochs the same training goes on.
    same = {key: value for key, value in settings.items() if key != "epochs"}
    go_on = None
    if claim(state, same | {"inputs": fingerprint_of(given)}):
        go_on = newest_checkpoint(state / "checkpoints")
    task = SegmentationTask(settings, _channel_weights(training, summary))
    if training.initial_weights and not go_on:
        load_initial(task, Path(training.initial_weights))
    if not torch.cuda.is_available():
        # Raw has one channel and so both layouts at once: the weights decide. A quarter faster.
        task.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if training.compile:
        task.network.compile()
    best = BestCheckpoints(state / "checkpoints", training.save_top_k)
    last = LastCheckpoint(state / "checkpoints" / LAST, training.checkpoint_minutes)
    trainer = _trainer(training, state, [best, last, *callbacks], go_on)
    # Nothing here reads memory that it did not write, and filling it takes 7 % of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    batches, tiles = loaders(crops, training, trainer.global_rank, trainer.world_size)
    trainer.callbacks.insert(0, EpochTable(state / TABLE, batches))  # type: ignore[attr-defined]
    log.info(
        "training %s parameters on %d crops, validating on %d; on %s, precision %s",
        f"{sum(p.numel() for p in task.parameters()):,}", len(crops["train"]),
        len(crops["validate"]), trainer.strategy.root_device, trainer.precision,
    )  # fmt: skip
    if go_on:
        log.info("going on from %s, step %d", go_on, _steps_in(go_on))
    path = str(go_on) if go_on else None
    try:
        # The progress bar goes where all of a job's do.
        with last.listening(), redirect_stdout(sys.stderr):
            trainer.fit(task, batches, tiles, ckpt_path=path, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise InputError(_too_big(training, error)) from error
    if trainer.is_global_zero:
        export(Path(best.best_model_path), checkpoint)


def _trainer(
    training: Training, state: Path, callbacks: Sequence[Callback], go_on: Path | None
) -> pl.Trainer:
    check_gpus(training.devices)
    gpu = torch.cuda.is_available()
    several = training.devices > 1
    # Lightning starts the processes itself: those of a batch system would be taken for them.
    environment = LightningEnvironment()
    return pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=training.devices,
        strategy=DDPStrategy(cluster_environment=environment) if several else "auto",
        plugins=None if several else environment,
        precision=precision(training.precision),
        max_epochs=training.epochs,
        accumulate_grad_batches=training.accumulate_grad_batches,
        gradient_clip_val=training.gradient_clip or None,
        log_every_n_steps=training.log_every_steps,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        deterministic=not gpu,
        benchmark=gpu,
        callbacks=[*callbacks, *_callbacks(training)],
        logger=TensorBoardLogger(
            state, name="", version="tensorboard", purge_step=_steps_in(go_on) if go_on else None
        ),
        default_root_dir=state,
    )


def _callbacks(training: Training) -> list[Callback]:
    callbacks: list[Callback] = [
        Patience("val_dice", mode="max", patience=training.early_stopping_patience),
        LearningRateMonitor("step"),
        ExampleSlices(),
        Progress(training.log_every_steps),
    ]
    if training.ema:
        callbacks.append(EMAWeightAveraging(decay=training.ema))
    return callbacks


def _channel_weights(training: Training, summary: Path | None) -> list[float] | None:
    """Of all output channels in the loss: those of a class weigh like it."""
    wanted = training.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        assert summary
        weights = balanced_weights(summary)
    else:
        weights = {label: wanted.get(label, 1.0) for label in training.classes}
    log.info("class weights: %s", ", ".join(f"{k} {w:.3g}" for k, w in weights.items()))
    return [weights[class_of(channel)] for channel in training.channels]


def balanced_weights(summary: Path) -> dict[str, float]:
    """One over the root of each class's labelled training volume; the median class weighs 1.

    None weighs more than 10 or less than 0.1: a class of a few voxels would be all that counts.
    """
    volume = pd.read_csv(summary, index_col="class")["train_um3"]
    volume = volume.where(volume > 0, volume[volume > 0].median())
    weights = (volume.median() / volume) ** 0.5
    return {str(label): float(weight) for label, weight in weights.clip(0.1, 10).items()}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"initial_weights: {path} cannot be read: {error.strerror}") from error


def _steps_in(path: Path) -> int:
    """Optimiser steps done in a checkpoint."""
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def _too_big(training: Training, error: Exception) -> str:
    why = str(error).splitlines()[0]
    return (
        f"the GPU's memory is too small for this training: lower `batch_size` "
        f"({training.batch_size}), and raise `accumulate_grad_batches` by as much; or lower "
        f"`patch_size` ({list(training.patch_size)}); or choose a smaller `model` "
        f"({training.model}), or `precision: mixed` ({training.precision}). {why}"
    )
