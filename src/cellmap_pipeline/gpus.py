"""The GPUs of this machine, as far as trainings ask for them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cellmap_pipeline.errors import InputError

# Where NVIDIA's driver puts its devices.
DEVICES = Path("/dev")


def check_gpus(wanted: int) -> None:
    """See that `wanted` GPUs can train here; where there is none at all, processors do.

    Raises
    ------
    InputError
        There are fewer, or torch can use none of those that are there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    found = sorted(DEVICES.glob("nvidia[0-9]*"))
    if not there and found and not hidden:
        raise InputError(
            f"devices: this machine has a GPU ({found[0]}), but torch {torch.__version__} cannot "
            "use it: bring its driver up to date (nvidia-smi shows it), or set "
            "CUDA_VISIBLE_DEVICES=-1 to train on the processors, which takes far longer"
        )
    if 0 < there < wanted:
        raise InputError(
            f"devices: {wanted} GPUs are asked for, but there are {there} here: lower it, or train "
            "on a machine with more (docs/cluster.md)"
        )
