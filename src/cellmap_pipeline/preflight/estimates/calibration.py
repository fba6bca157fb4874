"""Measurement of a network's speed on this machine, before it is trained."""

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

# The first passes on a GPU are slower and are not measured.
WARM_UP_PASSES, MEASURED_PASSES = 2, 5


def calibrate(training: Training) -> dict[str, Any]:
    """Time forward passes of the untrained network, which take as long as those of a trained one.

    Returns
    -------
    `device`
        Name of the device.
    `window`
        Shape of the window, voxels.
    `batch`
        Number of windows per batch.
    `seconds_per_pass`
        Median time of one network for one window and one symmetry.
    `peak_gb`
        Peak GPU memory; None on a CPU.

    Raises
    ------
    InputError
        The GPU's memory is too small for one window.
    """
    task = SegmentationTask(training_settings(training, TRAIN_KEYS)).eval()
    window = training.window
    channels = training.inference.stored_channels(task.channels)
    predictor = Predictor([task], channels, window, training.inference)
    cuda = predictor.device.type == "cuda"
    seconds: list[float] = []
    while len(seconds) < WARM_UP_PASSES + MEASURED_PASSES:
        images = [np.zeros(window, np.float32)] * predictor.batch
        weights = [torch.zeros(window, device=predictor.device)] * len(images)
        begin = time.perf_counter()
        for _ in predictor.run([(0, 0, 0)] * len(images), images, weights):
            pass
        if cuda:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begin) / len(images))
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "window": list(window),
        "batch": predictor.batch,
        "seconds_per_pass": float(np.median(seconds[WARM_UP_PASSES:]))
        / len(predictor.average.symmetries),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else None,
    }
