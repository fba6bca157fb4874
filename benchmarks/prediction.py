"""Time and memory of predicting a crop, compared with only the forward passes of its windows.

The bare forward passes run the network over the same number of windows, in batches that are in
memory. They take turns with the prediction, and with MONAI's `SlidingWindowInferer` over the whole
volume at once; the medians are compared. Peak memory is measured in new processes: for a small
crop, for a large one (1024 × 512 × 512 voxels), and for one bare batch. Prints one line of JSON.

    python benchmarks/prediction.py          # BasicUNet, 64³ windows, on a CPU
    python benchmarks/prediction.py --gpu    # MedNeXt M, 128³ windows, bf16
    python benchmarks/prediction.py --memory # also peak memory of both crops, 14 classes
    python benchmarks/prediction.py --host   # also windows of 128³ per second of reading, summing,
                                             # resampling and writing alone
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

# As in the pipeline's jobs: waiting threads do not spin. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import SlidingWindowInferer

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid, Shape, shape_of
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.prediction.predictor import Predictor
from cellmap_pipeline.training.task import SegmentationTask

# 14 semantic classes, each with one channel.
CLASSES = [
    "pm", "mito_mem", "mito_lum", "mito_ribo", "golgi_mem", "golgi_lum", "ves_mem", "ves_lum",
    "endo_mem", "endo_lum", "er_mem", "er_lum", "ne_mem", "ne_lum",
]  # fmt: skip
VOXEL = 8.0
SMALL = {"architecture": "monai_basic_unet3d", "features": [4, 4, 4, 4, 4, 4]}
OVERLAP = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="use sizes for a GPU")
    parser.add_argument("--memory", action="store_true", help="measure peak memory, too (minutes)")
    parser.add_argument("--host", action="store_true", help="measure all but the network, too")
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 160, 160))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peak-of", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print(_peak(shape_of(arguments.peak_of)))
        return
    result = speed(arguments.gpu, shape_of(arguments.shape), arguments.turns)
    if arguments.memory:
        peaks = {
            name: _in_own_process(shape, arguments.threads)
            for name, shape in (
                ("bare", (0, 0, 0)),
                ("256", (256, 256, 256)),
                ("1024x512x512", (1024, 512, 512)),
            )  # fmt: skip
        }
        result["peak_mb"] = peaks
        result["mb_above_bare"] = {name: mb - peaks["bare"] for name, mb in peaks.items()}
    if arguments.host:
        result["host_windows_per_second"] = _host()
    print(json.dumps(result))


def _host() -> float:
    """Return windows of 128³ and 14 channels per second, with a network that takes no time."""
    window, shape = (128,) * 3, (384, 512, 512)
    task = _task(SMALL, 128)
    values = torch.randint(0, 8000, (1, len(CLASSES), *window), dtype=torch.int16)
    finite = torch.ones(1, dtype=torch.bool)
    windows = []

    def given(
        _: Predictor, starts: list, *__: object
    ) -> Iterator[tuple[list, torch.Tensor, torch.Tensor]]:
        windows.extend(starts)
        yield starts, values, finite

    with tempfile.TemporaryDirectory() as name, patch.object(Predictor, "run", given):
        raw = _raw(Path(name), shape)
        seconds = _timed(lambda: _predict(task, raw, shape, Path(name) / "output", 128, 1))
    return round(len(windows) / seconds, 1)


def speed(gpu: bool, shape: Shape, turns: int, classes: Sequence[str] = CLASSES) -> dict[str, Any]:
    """Compare the prediction of a crop with bare forward passes and with MONAI's inferer."""
    device = torch.device("cuda" if gpu else "cpu")
    window, batch = (128, 2) if gpu else (64, 1)
    model = {"architecture": "mednext", "size": "M"} if gpu else {
        "architecture": "monai_basic_unet3d"
    }  # fmt: skip
    task = _task(model, window, classes).to(device)
    counted: list[int] = []
    forward = task.forward
    with tempfile.TemporaryDirectory() as name:
        raw = _raw(Path(name), shape)
        step = (window // 2,) * 3
        least = len(dense_patch_slices(shape, (window,) * 3, step))
        image = torch.rand(batch, 1, *[window] * 3, device=device)
        inferer = SlidingWindowInferer(
            (window,) * 3, sw_batch_size=batch, overlap=OVERLAP, mode="gaussian",
            sw_device=device, device=torch.device("cpu"),
        )  # fmt: skip

        @torch.inference_mode()
        def bare() -> None:
            with torch.autocast(device.type, enabled=gpu):
                for i in range(0, least, batch):
                    task(image[: least - i])
            if gpu:
                torch.cuda.synchronize()

        def predict() -> None:
            def count(raw: torch.Tensor) -> torch.Tensor:
                counted.append(len(raw))
                return forward(raw)

            task.forward = count  # type: ignore[method-assign]
            try:
                # A new folder, because existing predictions are not computed again.
                _predict(task, raw, shape, Path(tempfile.mkdtemp(dir=name)), window, batch)
            finally:
                task.forward = forward  # type: ignore[method-assign]

        @torch.inference_mode()
        def monai() -> None:
            volume = torch.from_numpy(raw.read_raw(raw.levels[0].grid))[None, None]
            with torch.autocast(device.type, enabled=gpu):
                inferer(volume, lambda x: torch.sigmoid(task(x)))

        bare()
        # A complete run before the first timing: allocators, file cache, importance maps.
        predict()
        counted.clear()
        times = [(_timed(bare), _timed(predict), _timed(monai)) for _ in range(turns)]
    seconds = dict(zip(("bare", "predict", "monai"), zip(*times, strict=True), strict=True))
    return {
        "shape": list(shape), "window": window, "channels": len(classes), "device": device.type,
        "windows": sum(counted) // turns, "least_windows": least,
        "seconds": {name: round(statistics.median(some), 2) for name, some in seconds.items()},
        "ratio_to_bare": round(statistics.median(p / b for b, p, _ in times), 3),
        "monai_ratio_to_bare": round(statistics.median(m / b for b, _, m in times), 3),
    }  # fmt: skip


def _peak(shape: tuple[int, int, int]) -> int:
    """Return this process's peak memory, MB, after predicting `shape` (zeros: one bare batch)."""
    task = _task(SMALL, 64)
    if not any(shape):
        with torch.inference_mode():
            for _ in range(3):
                torch.sigmoid(task(torch.rand(1, 1, 64, 64, 64)))
    else:
        with tempfile.TemporaryDirectory() as name:
            raw = _raw(Path(name), shape)
            _predict(task, raw, shape, Path(name) / "output", 64, 1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


def _in_own_process(shape: tuple[int, int, int], threads: int) -> int:
    command = [sys.executable, __file__, "--threads", str(threads), "--peak-of", *map(str, shape)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _task(
    model: dict[str, object], window: int, classes: Sequence[str] = CLASSES
) -> SegmentationTask:
    torch.manual_seed(0)
    training = Training.model_validate(
        {"classes": classes, "voxel_size": VOXEL, "model": model, "patch_size": window}
    )
    return SegmentationTask(training_settings(training, TRAIN_KEYS)).eval()


def _raw(folder: Path, shape: tuple[int, int, int]) -> Volume:
    """Write a volume of noise, in slabs."""
    grid = Grid((VOXEL,) * 3, (0, 0, 0), shape)
    array = create(folder / "raw", grid, "uint8")
    rng = np.random.default_rng(0)
    for z in range(0, shape[0], 64):
        planes = min(64, shape[0] - z)
        array[z : z + planes].write(rng.integers(0, 256, (planes, *shape[1:]), np.uint8)).result()
    return Volume.open(folder / "raw")


def _predict(
    task: SegmentationTask,
    raw: Volume,
    shape: tuple[int, int, int],
    output: Path,
    window: int,
    batch: int,
) -> None:
    grid = Grid((VOXEL,) * 3, (0, 0, 0), shape)
    rows = [CropLabel(1, "d", label, grid) for label in task.training_settings.classes]
    inference = Inference(window=(window,) * 3, overlap=OVERLAP, batch=batch)
    predict_crop([task], raw, rows, output, inference)


def _timed(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
