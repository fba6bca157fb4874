"""Machines with too little disk or too few GPUs: ``check_inputs`` ends the run."""

import shutil
from collections import namedtuple

import torch

from cellmap_pipeline.training import devices
from tests.support.spoiled import (
    CHECK,
    assert_ends,
    check_run,
)

Usage = namedtuple("Usage", "total used free")


DISK_FULL = (
    "disk of …: 10 MB are free, but the run writes at least … and at most … (checkpoints …, "
    "labels …, predictions …, submission.zip …): make room, set `output` to another disk, lower "
    "`save_top_k`, or name fewer trainings, `submission.crops` or `classes`"
)


TOO_FEW_GPUS = (
    "training tiny: devices: 2 GPUs are requested, but this machine has 1: lower it, or train on a "
    "machine with more (docs/cluster.md)"
)


UNUSABLE_GPU = (
    "training tiny: devices: this machine has a GPU (…/nvidia0), but torch … cannot use it: update "
    "its driver (nvidia-smi shows it), or set CUDA_VISIBLE_DEVICES=-1 to train on the CPU, which "
    "takes far longer"
)


def test_too_little_disk_for_the_plan(folder, monkeypatch):
    folder.configure_training(model={"architecture": "monai_basic_unet3d"})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 99 * 10**7, 10**7))
    assert_ends(folder, CHECK, DISK_FULL)
    # Existing results take no more space.
    (folder.path / "results/tiny/training").mkdir()
    assert check_run(folder) == ("", "")


def test_fewer_gpus_than_requested(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    folder.configure_training(devices=2)
    assert_ends(folder, CHECK, TOO_FEW_GPUS)


def test_unusable_gpu(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "DEVICE_FOLDER", folder.path / "dev")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (folder.path / "dev").mkdir()
    (folder.path / "dev/nvidia0").touch()
    assert_ends(folder, CHECK, UNUSABLE_GPU)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert check_run(folder) == ("", "")
