"""The project's claims about GPUs, measured: a line of JSON per claim.

    python benchmarks/gpu.py --class-table classes.csv              # all of them, on a GPU: an hour
    python benchmarks/gpu.py --claims loop prediction               # some of them
    python benchmarks/gpu.py --small                                # tiny sizes, also on a CPU

Times are medians over steps, by CUDA events on a GPU. A line has the claim's name, what was
measured, and for claims with a bar whether it holds:

loop         steps per second of a training (MedNeXt M, 128³, batch 2) against the bare network, bar
             0.95, and the share of time that it waits for patches
prediction   windows per second of a crop's prediction with 48 channels against the bare forward
             passes, which is the share of time that the GPU works; bar 0.90
symmetries   time of a window with `symmetries: 8` against eight windows without
layouts      time of a training step of each network with channels-last weights against contiguous
compile      time of a training step with `compile: true` against without, and of compiling
trainings    for each shipped training: seconds per step, hours of all its steps, its peak memory,
             and what `snakemake plan` says about the last two

`--class-table` is the challenge's classes.csv, which trainings with `hierarchy: true` need.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# As in the pipeline's jobs: waiting threads do not spin. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import prediction as prediction_benchmark
import torch
import training as training_benchmark

from cellmap_pipeline.config.load import load_training
from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.class_table import find_atoms, read_class_table
from cellmap_pipeline.models.registry import ARCHITECTURES
from cellmap_pipeline.prediction.predictor import Predictor
from cellmap_pipeline.preflight.estimates.training_cost import GPUS, network_cost, training_hours
from cellmap_pipeline.preflight.estimates.training_memory import training_memory_bytes
from cellmap_pipeline.training.devices import autocast
from cellmap_pipeline.training.optimizers import build_optimizer
from cellmap_pipeline.training.task import SegmentationTask

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
GPU_FOUND = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU_FOUND else "cpu")
LOOP_BAR, PREDICTION_BAR = 0.95, 0.90
N_CHANNELS = 48
WARM_UP_STEPS = 3
SMALL_PATCH = 64  # Fits all networks.
Line = dict[str, Any]


def main() -> None:
    """Measure the chosen claims and print a line of JSON for each result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--class-table", type=Path, help="the challenge's classes.csv")
    parser.add_argument("--steps", type=int, default=20, help="number of timed steps")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    arguments = parser.parse_args()
    if not GPU_FOUND and not arguments.small:
        raise SystemExit("no GPU found: --small tries the script on a CPU")
    device = torch.cuda.get_device_name() if GPU_FOUND else "cpu"
    for name in arguments.claims:
        for line in CLAIMS[name](arguments):
            print(json.dumps({"claim": name, "device": device, **line}), flush=True)


def loop(arguments: argparse.Namespace) -> Iterator[Line]:
    """Compare the training loop with the bare network."""
    sizes = training_benchmark.CPU if arguments.small else training_benchmark.GPU
    pairs, threads = 1 if arguments.small else 5, len(os.sched_getaffinity(0))
    found = training_benchmark.compare(sizes, arguments.steps, pairs, threads)
    yield found | judged(found["ratio"], LOOP_BAR)


def prediction(arguments: argparse.Namespace) -> Iterator[Line]:
    """Compare a crop's prediction with the bare forward passes."""
    classes = [f"class{n}" for n in range(N_CHANNELS)]
    shape = (96,) * 3 if arguments.small else (512, 512, 512)
    found = prediction_benchmark.speed(not arguments.small, shape, turns=3, classes=classes)
    busy = round(1 / found["ratio_to_bare"], 3)
    yield found | {"busy_share": busy} | judged(busy, PREDICTION_BAR)


def symmetries(arguments: argparse.Namespace) -> Iterator[Line]:
    """Compare windows that are averaged over eight symmetries with eight windows."""
    window = (SMALL_PATCH if arguments.small else 128,) * 3
    training = example({"architecture": "nnunet_resenc"}, window[0])
    task = SegmentationTask(training_settings(training, TRAIN_KEYS)).eval()
    images = [np.zeros(window, np.float32)]
    weights = torch.zeros((1, *window), device=DEVICE)
    seconds = {}
    for number in (1, 8):
        inference = Inference(window=window, symmetries=number, batch=1)
        predictor = Predictor([task], task.channels, window, inference)

        def predict(predictor: Predictor = predictor) -> None:
            for _ in predictor.run([(0, 0, 0)], images, weights):
                pass

        seconds[number] = median_seconds(predict, arguments.steps)
    yield {
        "seconds_per_window": {number: round(value, 5) for number, value in seconds.items()},
        "ratio_to_passes": round(seconds[8] / (8 * seconds[1]), 3),
    }


def layouts(arguments: argparse.Namespace) -> Iterator[Line]:
    """Time the networks with both memory layouts of their weights."""
    for architecture in ARCHITECTURES:
        training = example({"architecture": architecture}, SMALL_PATCH if arguments.small else 128)
        seconds = {}
        for name, layout in LAYOUTS.items():
            step = training_step(training, layout)
            seconds[name] = round(median_seconds(step, arguments.steps), 5)
        ratio = round(seconds["channels_last"] / seconds["contiguous"], 3)
        yield {"network": architecture, "seconds_per_step": seconds, "channels_last_ratio": ratio}


def compiled(arguments: argparse.Namespace) -> Iterator[Line]:
    """Time networks with and without `compile: true`."""
    for architecture in ["monai_basic_unet3d", *([] if arguments.small else LARGE_NETWORKS)]:
        training = example({"architecture": architecture}, SMALL_PATCH if arguments.small else 128)
        plain = median_seconds(training_step(training), arguments.steps)
        step = training_step(training, compile_network=True)
        begin = time.perf_counter()
        step()
        compiling = time.perf_counter() - begin
        seconds = median_seconds(step, arguments.steps)
        yield {
            "network": architecture, "seconds_per_step": [round(plain, 5), round(seconds, 5)],
            "ratio": round(seconds / plain, 3), "seconds_of_compiling": round(compiling, 1),
        }  # fmt: skip


def trainings(arguments: argparse.Namespace) -> Iterator[Line]:
    """Time and weigh a step of each shipped training, against what the plan says."""
    for path in sorted((ROOT / "config/training").glob("*.yaml")):
        training = load_training(path.stem, [path.parent])
        if training.hierarchy is True:
            if arguments.class_table is None:
                yield {"training": path.stem, "skipped": "it has a hierarchy: give --class-table"}
                continue
            atoms = find_atoms(training.classes, read_class_table(arguments.class_table))
            training = training.model_copy(update={"hierarchy": atoms})
        if arguments.small:
            small = {"patch_size": (SMALL_PATCH,) * 3, "batch_size": 1}
            training = training.model_copy(update=small)
        yield {"training": path.stem} | of_training(training, arguments.steps)


def of_training(training: Training, steps: int) -> Line:
    """Measure one training, unless its step does not fit into the memory."""
    # The step here has no moving average, and no other processes.
    alone = training.model_copy(update={"ema": None, "devices": 1, "nodes": 1})
    planned = training_memory_bytes(alone)
    line: Line = {"planned_gib": round(planned / GIB, 2)}
    if GPU_FOUND:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = median_seconds(training_step(training), steps)
    except torch.OutOfMemoryError as error:
        return line | {"skipped": str(error).splitlines()[0]}
    number = training.epochs * training.iterations_per_epoch
    cost = network_cost(training)
    line |= {
        "seconds_per_step": round(seconds, 5),
        "hours": round(number * seconds / 3600, 2),
        "planned_hours": {gpu: round(training_hours(training, cost, gpu), 2) for gpu in GPUS},
    }
    if GPU_FOUND:
        peak = torch.cuda.max_memory_allocated()
        line |= {"peak_gib": round(peak / GIB, 2), "ratio_to_plan": round(peak / planned, 3)}
    return line


def example(model: dict[str, Any], patch: int) -> Training:
    """Return a training of a network with three classes."""
    values = {
        "classes": ["er", "pm", "ne"], "voxel_size": 8, "model": model, "patch_size": patch,
        "batch_size": 2, "precision": "mixed",
    }  # fmt: skip
    return Training.model_validate(values)


def training_step(
    training: Training,
    layout: torch.memory_format = torch.contiguous_format,
    compile_network: bool = False,
) -> Callable[[], None]:
    """Return a function that takes one training step on a batch that stays in memory."""
    torch.manual_seed(0)
    task = SegmentationTask(training_settings(training, TRAIN_KEYS)).to(DEVICE)
    task.network.to(memory_format=layout)  # type: ignore[call-overload]
    if compile_network:
        task.network.compile()
    optimizer = build_optimizer(task.network, training)
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=training.precision == "16-mixed")
    shape = (training.batch_size, len(task.channels), *training.patch_size)
    raw = torch.rand(shape[0], 1, *shape[2:], device=DEVICE)
    target = torch.randint(0, 2, shape, dtype=torch.uint8, device=DEVICE)

    def step() -> None:
        with autocast(training.precision, DEVICE):
            loss = task.batch_loss(raw, target)
        # As Lightning does: until here, the gradients of the previous step live.
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip = training.gradient_clip or float("inf")
        torch.nn.utils.clip_grad_norm_(task.network.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()

    return step


def median_seconds(run: Callable[[], None], repeats: int) -> float:
    """Return the median time of calls after a warm-up; on a GPU, the time between events."""
    for _ in range(WARM_UP_STEPS):
        run()
    times = []
    for _ in range(repeats):
        if GPU_FOUND:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1000)
        else:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def judged(value: float, bar: float) -> Line:
    """Return a bar, and whether a value holds it."""
    return {"bar": bar, "holds": value >= bar}


LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
LARGE_NETWORKS = ["mednext", "nnunet_resenc"]
CLAIMS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "loop": loop, "prediction": prediction, "symmetries": symmetries, "layouts": layouts,
    "compile": compiled, "trainings": trainings,
}  # fmt: skip

if __name__ == "__main__":
    main()
