"""Peak GPU memory of a training step, counted without a GPU and without computing anything.

The training's own code runs on tensors that have a shape and a type but no values, and the storages
alive at each moment are added up.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Module, Parameter, functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.training.optimizers import build_optimizer
from cellmap_pipeline.training.task import SegmentationTask

if TYPE_CHECKING:
    from torch.optim import Optimizer

# PyTorch's CUDA allocator rounds each block up to a multiple of this.
ALLOCATION_BYTES = 512
# The first step allocates the optimizer's state at its end, so the second one needs most.
STEPS = 2
# Functions that autocast runs in 32 bits on CUDA but not on the CPU, whose rules count here.
FLOAT32_ON_CUDA = (functional.group_norm, functional.layer_norm, functional.softmax)


def training_memory_bytes(training: Training) -> int:
    """Count the peak memory of a training step on each GPU.

    It includes the weights, gradients and state of the optimizer, the moving average of the
    weights, all tensors kept for the backward pass, and those of the loss. It leaves out the CUDA
    context, the workspaces of cuDNN, fragmentation, what compilation changes, and the temporary
    tensors of the optimizer and of building batches.

    Parameters
    ----------
    training
        Settings of the training; a `hierarchy` is resolved to atoms.
    """
    # Built outside, since some networks read values of tensors while they are built.
    task = SegmentationTask(training_settings(training, TRAIN_KEYS))
    with FakeTensorMode(), _Float32Functions(), MemoryCounter() as memory:
        allocate(task, "cpu")
        optimizer = build_optimizer(task.network, training)
        weights = memory.live_bytes
        for _ in range(STEPS):
            memory.peak_bytes = memory.live_bytes
            _step(task, optimizer, training)
    # An average of the weights, and the buckets in which processes exchange their gradients.
    copies = bool(training.ema) + (training.processes > 1)
    return memory.peak_bytes + copies * weights


def allocate(module: Module, device: str) -> None:
    """Replace the weights and buffers of a module by tensors without values on a device.

    `Module.to_empty` cannot do so within a `FakeTensorMode`.
    """
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            empty = torch.empty(weight.shape, dtype=weight.dtype, device=device)
            setattr(part, name, Parameter(empty, weight.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


class MemoryCounter(TorchDispatchMode):
    """Adds up the storages of all tensors that operators return, as long as these live.

    Attributes
    ----------
    live_bytes
        Memory of the storages that live now.
    peak_bytes
        Maximum of `live_bytes` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._storages: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and add the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        if storage in self._storages:  # A view, or a result in place.
            return
        self._storages.add(storage)
        n_bytes = -(-storage.nbytes() // ALLOCATION_BYTES) * ALLOCATION_BYTES
        self.live_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._remove, n_bytes)

    def _remove(self, n_bytes: int) -> None:
        self.live_bytes -= n_bytes


class _Float32Functions(TorchFunctionMode):
    """Runs functions in 32 bits that CUDA's autocast runs so, which keeps larger tensors alive."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in FLOAT32_ON_CUDA:
            args = [
                value.float() if isinstance(value, Tensor) and value.dtype.itemsize == 2 else value
                for value in args
            ]
        return func(*args, **(kwargs or {}))


def _step(task: SegmentationTask, optimizer: Optimizer, training: Training) -> None:
    """Run a training step as Lightning does."""
    raw = torch.empty(training.batch_size, 1, *training.patch_size)
    shape = (training.batch_size, len(task.channels), *training.patch_size)
    target = torch.empty(shape, dtype=torch.uint8)
    with _autocast(training.precision):
        loss = task.batch_loss(raw, target)
    # Until here, the gradients of the previous step live.
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _autocast(precision: str) -> AbstractContextManager[None]:
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast("cpu", dtype, enabled=precision != "32")
