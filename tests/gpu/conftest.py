"""The device of the tests, and its memory between them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.drawn import Drawn


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU; with GPU_TEST_DEVICE=cpu, the same tests run at a tiny size on the CPU."""
    name = os.environ.get("GPU_TEST_DEVICE", "cuda")
    if name not in ("cuda", "cpu"):
        pytest.fail(f"GPU_TEST_DEVICE={name}: it is cuda or cpu")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no GPU: see nvidia-smi")
    if name == "cpu" and torch.cuda.is_available():
        pytest.skip("GPU_TEST_DEVICE=cpu needs CUDA_VISIBLE_DEVICES=-1 on this machine")
    return torch.device(name)


@pytest.fixture(autouse=True)
def unused_memory(device: torch.device) -> Iterator[None]:
    """Give each test all memory of the GPU, and take it back."""
    yield
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture(scope="session")
def drawn(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """The shipped trainings, with data to train on."""
    return Drawn(device, tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a training."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run"
