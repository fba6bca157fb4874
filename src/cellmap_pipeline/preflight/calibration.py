"""How long a network takes for a window on this machine, before it is trained."""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np
import torch

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.prediction.predictor import Predictor
from cellmap_pipeline.training.task import SegmentationTask

# A GPU's first passes are slower than what follows.
WARM_UP, MEASURED = 2, 5


def calibrate(training: Training) -> dict[str, Any]:
    """Time passes of the untrained network, which take as long as those of a trained one.

    Returns
    -------
    `device`
        Its name.
    `window`
        Voxels; `batch` : windows at once.
    `seconds_per_pass`
        Median, of one network over one window, one of the symmetries.
    `peak_gb`
        Of the GPU's memory; None on a CPU.

    Raises
    ------
    InputError
        The GPU's memory is too small for one window.
    """
    task = SegmentationTask(training_settings(training, TRAIN_KEYS)).eval()
    window = training.inference.window or training.patch_size
    predictor = Predictor([task], task.channels, window, training.inference)
    cuda = predictor.device.type == "cuda"
    rates: list[float] = []
    while len(rates) < WARM_UP + MEASURED:
        images = [np.zeros(window, np.float32)] * predictor.batch
        weights = torch.zeros((len(images), *window), device=predictor.device)
        begin = time.perf_counter()
        for _ in predictor.run([(0, 0, 0)] * len(images), images, weights):
            pass
        if cuda:
            torch.cuda.synchronize()
        rates.append((time.perf_counter() - begin) / len(images))
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "window": list(window),
        "batch": predictor.batch,
        "seconds_per_pass": float(np.median(rates[WARM_UP:])) / len(predictor.symmetries),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else None,
    }
