"""A run folder with a trained network to export, made without training it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch

from cellmap_pipeline.config.load import load_training
from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.io.raw_statistics import measure_raw, write_raw_statistics
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.training.task import SegmentationTask
from tests.support.spoiled import Folder

# The network that is exported fastest, with all that is part of the graph.
SMALLEST = {
    "model": {"architecture": "monai_unet", "channels": [4, 8], "num_res_units": 1},
    "patch_size": 8,
    "hierarchy": [["mito"], ["pm"]],
    "inference": {"window": 16},
}


def add_checkpoint(
    folder: Folder, network: str = "tiny", steps: int = 7, **training: Any
) -> SegmentationTask:
    """Write `model.ckpt` and all else that the training of a network leaves; return the network."""
    folder.configure_training(**(SMALLEST | training))
    settings = load_training("tiny", [folder.training.parent])
    torch.manual_seed(0)
    task = SegmentationTask(training_settings(settings, TRAIN_KEYS)).eval()
    with torch.no_grad():
        for weight in task.network.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    results = folder.path / "results" / network
    results.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": pytorch_lightning.__version__,
        "global_step": steps,
    }
    torch.save(content, results / "model.ckpt")
    add_datasplit(folder, network)
    raw = folder.raw.relative_to(folder.path)
    write_raw_statistics(
        results / "raw_statistics.json", {str(raw): measure_raw(Volume.open(folder.raw))}
    )
    return task


def add_datasplit(
    folder: Folder,
    network: str = "tiny",
    second_raw: Path | None = None,
    second_recon: Path | None = None,
) -> None:
    """Write a data split with a crop to train on and one to validate on.

    The crop to train on may have raw, or raw and labels, of its own.
    """
    raw, labels = (
        path.relative_to(folder.path) for path in (folder.raw, folder.label().parents[1])
    )
    second_raw, second_labels = second_raw or raw, labels
    if second_recon:
        recon = folder.recon.relative_to(folder.path)
        second_raw, second_labels = (
            second_recon / path.relative_to(recon) for path in (raw, labels)
        )
    (folder.path / "results" / network / "datasplit.csv").write_text(
        f"train,{second_raw},{second_labels}/crop1/[mito]\nvalidate,{raw},{labels}/crop2/[mito]\n"
    )


def add_scores(folder: Folder, **classes: float) -> None:
    """Write the validation scores of the training."""
    content = {
        "rules": "2026-07",
        "overall_score": 0.5,
        "classes": {
            label: {
                "score": score,
                "cross_fitted_score": None,
                "voxel_sizes": [{"crops": ["a/crop2"]}],
            }
            for label, score in classes.items()
        },
    }
    file = folder.path / "results/tiny/validation/scores.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
