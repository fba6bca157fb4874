"""Train a network on the crops of a datasplit, with PyTorch Lightning."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from cellmap_pipeline.channels import DESCRIPTOR_SUFFIXES, class_of, is_descriptor
from cellmap_pipeline.config.stages import RESULT_VERSION, TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.datasplit_csv import read_summary
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.raw_statistics import read_raw_statistics
from cellmap_pipeline.io.storage import read_json
from cellmap_pipeline.patches.crops import PSEUDO_LABELS_SUMMARY, open_crops, open_taught
from cellmap_pipeline.patches.loader import PatchLoader, make_loaders
from cellmap_pipeline.run.jobs import OTHER_NODE
from cellmap_pipeline.run.resume import fingerprint_of, prepare_state
from cellmap_pipeline.training.callbacks import (
    METRICS_FILE,
    BestCheckpoints,
    EpochTable,
    LatestCheckpoints,
    Patience,
    TimeLeftBar,
)
from cellmap_pipeline.training.checkpoints import CheckpointFiles, export_checkpoint
from cellmap_pipeline.training.devices import check_gpus, resolve_precision
from cellmap_pipeline.training.example_slices import ExampleSlices
from cellmap_pipeline.training.initial_weights import load_initial_weights
from cellmap_pipeline.training.interruption import (
    LAST_CHECKPOINT,
    LastCheckpoint,
    Resumable,
    find_resumable,
)
from cellmap_pipeline.training.nodes import find_other_nodes, resumed_by_first_node, started_on
from cellmap_pipeline.training.output_bias import start_at_shares
from cellmap_pipeline.training.skipping import MovingAverage
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)
# Lightning's messages that say nothing about this training.
for name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
# Lightning itself starts a process per GPU, `srun` does not.
warnings.filterwarnings("ignore", "The `srun` command is available")
# It is what `validation: none` asks for.
warnings.filterwarnings("ignore", ".*no `val_dataloader`. Skipping val loop")
warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\)")


def train(
    training: Training,
    datasplit: Path,
    state: Path,
    checkpoint: Path,
    threads: int = 1,
    summary: Path | None = None,
    callbacks: Sequence[Callback] = (),
    raw_statistics: Path | None = None,
    pseudo_labels: Path | None = None,
) -> None:
    """Train to the end; resume if an earlier job with the same settings was stopped.

    Parameters
    ----------
    training
        Settings of the training.
    datasplit
        CSV file that lists the crops to train on and, unless `validation` is `none`, to validate
        on.
    state
        Folder for the state of the training: `checkpoints/`, `tensorboard/`, `metrics.csv`.
    checkpoint
        Path that the best checkpoint is written to at the end; without validation, the last one.
    threads
        Number of CPU threads.
    summary
        `datasplit_summary.csv`, for `class_weights: balanced`.
    callbacks
        Lightning callbacks to add to the pipeline's own.
    raw_statistics
        File with the statistics of the raw volumes; not needed by `normalize: range`.
    pseudo_labels
        Folder of what is known around the training crops by a teacher, for a training with `teach`.

    Raises
    ------
    InputError
        The datasplit cannot be used, more GPUs or nodes are requested than available, the GPUs'
        memory is too small, or losses, gradients or weights are not finite.
    UnavailableError
        Checkpoints of an earlier job exist, but cannot be read now.
    Interrupted
        A signal stopped the training; the next call resumes it.
    """
    torch.set_num_threads(threads)
    pl.seed_everything(training.seed, workers=True, verbose=False)
    settings = training_settings(training, TRAIN_KEYS)
    on_first_node = OTHER_NODE not in os.environ
    other_nodes = find_other_nodes(training.nodes) if on_first_node else []
    validates = training.validation != "none"
    statistics = read_raw_statistics(raw_statistics) if raw_statistics else {}
    crops = open_crops(
        datasplit, training.classes, training.voxel_size, validates, training.normalize, statistics
    )
    if pseudo_labels:
        crops["taught"] = [*open_taught(crops["train"], pseudo_labels)]
    given = _inputs(training, datasplit, raw_statistics, pseudo_labels)
    # A training resumes with more epochs, too.
    same = {key: value for key, value in settings.items() if key != "epochs"}
    resume_from = None
    if not on_first_node:
        resume_from = resumed_by_first_node()
    elif prepare_state(state, same | {"inputs": fingerprint_of(given)}):
        resume_from = find_resumable(state / "checkpoints")
    if resume_from and resume_from.step > training.steps:
        raise InputError(
            f"{state} holds a training of {resume_from.step:,} steps, but `epochs: "
            f"{training.epochs}` are {training.steps:,}: raise `epochs`, or move that folder away "
            "to start over"
        )
    task = SegmentationTask(settings, _channel_weights(training, summary))
    task.raw_statistics = read_json(raw_statistics) if raw_statistics else {}
    keep = BestCheckpoints if validates else LatestCheckpoints
    kept = keep(state / "checkpoints", training.save_top_k)
    last = LastCheckpoint(state / "checkpoints" / LAST_CHECKPOINT, training.checkpoint_minutes)
    trainer = _trainer(training, state, [kept, last, *callbacks], resume_from)
    # Nothing reads uninitialized memory, and filling it would take 7 % of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    batches, tiles = make_loaders(crops, training, trainer.global_rank, trainer.world_size)
    if not resume_from:
        _set_initial_weights(task, batches)
    _prepare_network(task)
    trainer.callbacks.insert(0, EpochTable(state / METRICS_FILE, batches))  # type: ignore[attr-defined]
    log.info(
        "training %s parameters on %d crops, validating on %s; on %s, precision %s",
        f"{sum(p.numel() for p in task.parameters()):,}", len(crops["train"]),
        len(crops["validate"]) if tiles else "none", trainer.strategy.root_device,
        trainer.precision,
    )  # fmt: skip
    if resume_from:
        log.info("resuming from %s, step %d", *resume_from)
    path = str(resume_from.path) if resume_from else None
    try:
        # Like all progress bars of jobs, Lightning's goes to stderr.
        with (
            last.handling_signals(), redirect_stdout(sys.stderr),
            started_on(other_nodes, trainer, resume_from),
        ):  # fmt: skip
            trainer.fit(task, batches, tiles, ckpt_path=path, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise InputError(_out_of_memory_message(training, error)) from error
    if trainer.is_global_zero:
        export_checkpoint(Path(kept.best_model_path), checkpoint)


def _inputs(
    training: Training, datasplit: Path, raw_statistics: Path | None, pseudo_labels: Path | None
) -> dict[str, Any]:
    """Describe what a training starts from, besides its settings."""
    given = {"datasplit": datasplit.read_text(), "result_version": RESULT_VERSION["train"]}
    if training.initial_weights:
        given["initial_weights"] = _file_digest(Path(training.initial_weights.path))
    if raw_statistics:
        given["raw_statistics"] = raw_statistics.read_text()
    if pseudo_labels:
        given["pseudo_labels"] = (pseudo_labels / PSEUDO_LABELS_SUMMARY).read_text()
    return given


def _set_initial_weights(task: SegmentationTask, batches: PatchLoader) -> None:
    """Set the weights that a new network does not draw at random."""
    settings = task.training_settings
    if settings.prior_bias:
        start_at_shares(task, batches)
    if settings.initial_weights:
        load_initial_weights(task, settings.initial_weights)


def _prepare_network(task: SegmentationTask) -> None:
    """Choose the memory layout of the network, and compile it if the settings ask for it."""
    if not torch.cuda.is_available():
        # Raw has a single channel, which fits both layouts, so the layout of the weights decides
        # which one convolutions use. This one is a quarter faster. On GPUs, norms return the other
        # one, and each layer would convert.
        task.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if task.training_settings.compile:
        task.network.compile()


def _trainer(
    training: Training, state: Path, callbacks: Sequence[Callback], resume_from: Resumable | None
) -> pl.Trainer:
    check_gpus(training.devices)
    gpu = torch.cuda.is_available()
    distributed = training.processes > 1
    # Without it, Lightning would expect a batch system such as Slurm to start its processes.
    environment = LightningEnvironment()
    checkpoint_files = CheckpointFiles()
    return pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=training.devices,
        num_nodes=training.nodes,
        strategy=DDPStrategy(cluster_environment=environment) if distributed else "auto",
        plugins=[checkpoint_files] if distributed else [environment, checkpoint_files],
        precision=resolve_precision(training.precision),
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
            state,
            name="",
            version="tensorboard",
            purge_step=resume_from.step if resume_from else None,
        ),
        default_root_dir=state,
    )


def _callbacks(training: Training) -> list[Callback]:
    callbacks: list[Callback] = [
        LearningRateMonitor("step"),
        ExampleSlices(),
        TimeLeftBar(training.log_every_steps),
    ]
    patience = training.patience_epochs
    if patience is not None:
        callbacks.insert(0, Patience("val_dice", mode="max", patience=patience))
    if training.ema:
        callbacks.append(MovingAverage(decay=training.ema))
    return callbacks


def _channel_weights(training: Training, summary: Path | None) -> list[float] | None:
    """Weight of each output channel in the loss, which is that of its class.

    The ten descriptors of a class together weigh as much as one of its other channels.
    """
    configured = training.class_weights
    if configured is None and not training.descriptor_sigmas_nm:
        return None
    if configured == "balanced":
        assert summary
        weights = balanced_weights(summary)
    else:
        weights = {label: (configured or {}).get(label, 1.0) for label in training.classes}
    if configured:
        log.info("class weights: %s", ", ".join(f"{k} {w:.3g}" for k, w in weights.items()))
    return [
        weights[class_of(channel)] / (len(DESCRIPTOR_SUFFIXES) if is_descriptor(channel) else 1)
        for channel in training.channels
    ]


def balanced_weights(summary: Path) -> dict[str, float]:
    """Weight classes by one over the root of their labeled training volume.

    The median class has weight 1. Weights are limited to 0.1..10: otherwise a class of a few
    voxels would dominate the loss.
    """
    by_class = read_summary(summary, "class")
    volume = np.array([row["train_um3"] for row in by_class.values()])
    volume[volume == 0] = np.median(volume[volume > 0])
    weights = (np.median(volume) / volume) ** 0.5
    return dict(zip(by_class, weights.clip(0.1, 10).tolist(), strict=True))


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"initial_weights: {path} cannot be read: {error.strerror}") from error


def _out_of_memory_message(training: Training, error: Exception) -> str:
    why = str(error).splitlines()[0]
    return (
        f"the GPU's memory is too small for this training: lower `batch_size` "
        f"({training.batch_size}), and raise `accumulate_grad_batches` by as much; or lower "
        f"`patch_size` ({list(training.patch_size)}); or choose a smaller `model` "
        f"({training.model}), or `precision: mixed` ({training.precision}). {why}"
    )
