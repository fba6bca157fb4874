"""Windows of raw through trained networks, on the device that there is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.config.training import Inference
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.prediction.symmetries import SYMMETRIES, turn, turn_back
from cellmap_pipeline.prediction.window_sums import ONE
from cellmap_pipeline.training.devices import autocast
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)

# `batch: auto` tries no larger one, and takes a larger one only if it gains so much.
LARGEST_BATCH = 64
WORTHWHILE = 1.03


class Predictor:
    """The mean of networks, and of symmetries of their input.

    Parameters
    ----------
    tasks
        Networks with the same channels.
    channels
        Those that are wanted, in that order.
    window
        Voxels.
    inference
        Symmetries and batch.

    Attributes
    ----------
    device
        The GPU, or the CPU where there is none.
    batch
        Windows at once.
    """

    def __init__(
        self,
        tasks: Sequence[SegmentationTask],
        channels: Sequence[str],
        window: Shape,
        inference: Inference,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tasks = [task.to(self.device) for task in tasks]
        self.channels = [[task.channels.index(name) for name in channels] for task in tasks]
        self.window = window
        self.symmetries = SYMMETRIES[inference.symmetries]
        if inference.batch == "auto":
            self.batch = self._best_batch()
            log.info("batch: %d windows at once", self.batch)
        else:
            self.batch = inference.batch

    def run(
        self, starts: Sequence[Shape], images: Sequence[NDArray[np.float32]], weights: Tensor
    ) -> Iterator[tuple[Sequence[Shape], Tensor]]:
        """Send windows through the networks, without waiting for what comes of them.

        When the GPU's memory is too small for all of them, half as many are tried, now and from
        now on.

        Parameters
        ----------
        starts
            Where the windows lie; they come back with their values.
        images
            Raw (z, y, x) in 0..1 of each.
        weights
            (n, z, y, x), what the voxels count, on the device.

        Yields
        ------
        Starts, and the weighted probabilities there: int16 (n, c, z, y, x) that stand for uint16,
        with `ONE` for probability 1 of a voxel that one window alone covers.

        Raises
        ------
        InputError
            The GPU's memory is too small for one window.
        """
        try:
            values = self._weighted(images, weights)
        except torch.OutOfMemoryError as error:
            if len(images) == 1:
                raise InputError(
                    f"the GPU's memory is too small for one window of {list(self.window)} voxels: "
                    f"set a smaller `inference.window`, or take a GPU with more. {error}"
                ) from error
            self.batch = fewer = (len(images) + 1) // 2
            log.warning("the GPU's memory is too small: goes on with batch %d", fewer)
        else:
            yield starts, values
            return
        # Outside the handler, since the error holds on to the memory.
        torch.cuda.empty_cache()
        for i in range(0, len(images), fewer):
            some = slice(i, i + fewer)
            yield from self.run(starts[some], images[some], weights[some])

    @torch.inference_mode()
    def _weighted(self, images: Sequence[NDArray[np.float32]], weights: Tensor) -> Tensor:
        batch = torch.from_numpy(np.stack(images)[:, None])
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        values = self._probabilities(batch)
        values *= weights[:, None] * ONE
        values += 0.5
        # By way of 32 bits: above half the range, 16 of them have a sign.
        return values.to(torch.int32).to(torch.int16)

    def _probabilities(self, batch: Tensor) -> Tensor:
        total: Tensor | None = None
        for task, channels in zip(self.tasks, self.channels, strict=True):
            for symmetry in self.symmetries:
                with autocast(task.training_settings.precision, self.device):
                    logits = task(turn(batch, symmetry))
                turned = turn_back(torch.sigmoid(logits[:, channels].float()), symmetry)
                total = turned if total is None else total.add_(turned)
        assert total is not None
        return total.div_(len(self.tasks) * len(self.symmetries))

    def _best_batch(self) -> int:
        if self.device.type == "cpu":
            return 1  # Larger ones are not faster there.

        def seconds(batch: int) -> float:
            image = np.zeros(self.window, np.float32)
            weights = torch.zeros((batch, *self.window), device=self.device)
            for _ in range(2):  # The first one warms up.
                begin = time.perf_counter()
                self._weighted([image] * batch, weights)
                torch.cuda.synchronize()
            return time.perf_counter() - begin

        return best_batch(seconds)


def best_batch(seconds: Callable[[int], float]) -> int:
    """The batch that is fastest per window, found by doubling it while that gains anything.

    Parameters
    ----------
    seconds
        That a batch of so many windows takes; raises `torch.OutOfMemoryError` where the memory is
        too small for it.
    """
    best, best_rate = 1, 0.0
    batch = 1
    while batch <= LARGEST_BATCH:
        try:
            rate = batch / seconds(batch)
        except torch.OutOfMemoryError:
            break
        if rate < best_rate * WORTHWHILE:
            break
        best, best_rate = batch, rate
        batch *= 2
    torch.cuda.empty_cache()
    return best
