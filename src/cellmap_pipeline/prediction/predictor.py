"""Prediction of windows of raw by trained networks, on the available device."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.prediction.symmetries import SymmetricAverage
from cellmap_pipeline.prediction.window_sums import PROBABILITY_ONE
from cellmap_pipeline.training.devices import autocast
from cellmap_pipeline.training.task import SegmentationTask, to_probabilities

log = logging.getLogger(__name__)

# Limits of `batch: auto`: the largest batch tried, and the speedup that justifies doubling.
MAX_BATCH = 64
MIN_SPEEDUP = 1.03


class Predictor:
    """Averages predictions over networks, and over symmetries of their input.

    Parameters
    ----------
    tasks
        Networks with the same channels.
    channels
        Channels to predict, in this order.
    window
        Shape of a window, in voxels.
    inference
        Settings of the prediction; its `symmetries` and `batch` are used.
    device
        Where to predict; None: on the GPU, or on the CPU if there is none.

    Attributes
    ----------
    device
        Where it predicts.
    batch
        Windows per batch.
    """

    def __init__(
        self,
        tasks: Sequence[SegmentationTask],
        channels: Sequence[str],
        window: Shape,
        inference: Inference,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tasks = [task.to(self.device) for task in tasks]
        self.channels = [[task.channels.index(name) for name in channels] for task in tasks]
        self.window = window
        self.average = SymmetricAverage(
            channels, inference.symmetries, tasks[0].training_settings.voxel_size
        )
        if inference.batch == "auto":
            self.batch = self._fastest_batch()
            log.info("batch: %d windows", self.batch)
        else:
            self.batch = inference.batch

    def run(
        self,
        starts: Sequence[Shape],
        images: Sequence[NDArray[np.float32]],
        weights: Sequence[Tensor],
        free_memory: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[Sequence[Shape], Tensor, Tensor]]:
        """Predict windows, without waiting for the GPU to finish.

        If the GPU's memory is too small for all of them, the batch is halved, also for later
        calls. If it is too small for a single one, other memory is freed.

        Parameters
        ----------
        starts
            Start of each window; yielded with its values.
        images
            Standardized raw (z, y, x) of each window (`patches.normalization`).
        weights
            Weights of the voxels (z, y, x) of each window, on the device.
        free_memory
            Function that frees memory of the GPU that the caller can do without, and returns
            whether there was any. By default there is none.

        Yields
        ------
        Starts of windows; their weighted probabilities, int16 (n, c, z, y, x) that hold the bits of
        uint16, with `PROBABILITY_ONE` for probability 1 where the weight is 1; and whether all that
        the networks returned for a window is finite, bool (n,). Where it is not, the probabilities
        are meaningless.

        Raises
        ------
        InputError
            The GPU's memory is too small for one window.
        """
        try:
            values, finite = self._weighted(images, weights)
        except torch.OutOfMemoryError as error:
            fewer = (len(images) + 1) // 2
            if len(images) > 1:
                self.batch = fewer
                log.warning("the GPU's memory is too small: continuing with batch %d", fewer)
            elif not free_memory():
                raise InputError(
                    f"the GPU's memory is too small for one window of {list(self.window)} voxels: "
                    f"set a smaller `inference.window`, or use a GPU with more memory. {error}"
                ) from error
        else:
            yield starts, values, finite
            return
        # Outside of the handler, because the error keeps references to the memory.
        torch.cuda.empty_cache()
        for i in range(0, len(images), fewer):
            some = slice(i, i + fewer)
            yield from self.run(starts[some], images[some], weights[some], free_memory)

    @torch.inference_mode()
    def _weighted(
        self, images: Sequence[NDArray[np.float32]], weights: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        batch = torch.from_numpy(np.stack(images)[:, None])
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        values, finite = self.probabilities(batch)
        values *= torch.stack(list(weights))[:, None] * PROBABILITY_ONE
        values += 0.5
        # Cast via int32: values above 32767 do not fit int16 directly.
        return values.to(torch.int32).to(torch.int16), finite

    def probabilities(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return what networks and symmetries predict on average, before it is weighted.

        Parameters
        ----------
        batch
            Standardized raw (n, 1, z, y, x), float32, on the device.

        Returns
        -------
        Probabilities (n, c, z, y, x), float32, and whether all logits of a window are finite, bool
        (n,).
        """
        total: Tensor | None = None
        finite = torch.ones(len(batch), dtype=torch.bool, device=self.device)
        for task, channels in zip(self.tasks, self.channels, strict=True):
            predict = partial(self._predict, task, channels, finite)
            total = self.average.add(total, batch, predict)
        assert total is not None
        return total.div_(len(self.tasks) * self.average.counts(total)), finite

    def _predict(
        self, task: SegmentationTask, channels: Sequence[int], finite: Tensor, batch: Tensor
    ) -> Tensor:
        """Return the probabilities of a network, and note in `finite` where a logit is not."""
        with autocast(task.training_settings.precision, self.device):
            logits = task(batch)[:, channels]
        # Of logits, as a sigmoid hides infinity. Extremes take no memory and preserve NaN.
        axes = (1, 2, 3, 4)
        finite &= logits.amin(axes).isfinite() & logits.amax(axes).isfinite()
        return to_probabilities(logits)

    def _fastest_batch(self) -> int:
        if self.device.type == "cpu":
            return 1  # Larger batches are not faster on a CPU.

        def seconds(batch: int) -> float:
            image = np.zeros(self.window, np.float32)
            weights = torch.zeros(self.window, device=self.device)
            for _ in range(2):  # The first run is a warm-up.
                begin = time.perf_counter()
                self._weighted([image] * batch, [weights] * batch)
                torch.cuda.synchronize()
            return time.perf_counter() - begin

        return fastest_batch(seconds)


def fastest_batch(seconds: Callable[[int], float]) -> int:
    """Find the batch that is fastest per window, by doubling it while that is faster.

    Parameters
    ----------
    seconds
        Function that measures the time of a batch of the given number of windows; it raises
        `torch.OutOfMemoryError` if the memory is too small.
    """
    best, best_rate = 1, 0.0
    batch = 1
    while batch <= MAX_BATCH:
        try:
            rate = batch / seconds(batch)
        except torch.OutOfMemoryError:
            break
        if rate < best_rate * MIN_SPEEDUP:
            break
        best, best_rate = batch, rate
        batch *= 2
    torch.cuda.empty_cache()
    return best
