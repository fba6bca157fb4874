"""Patches per second of the training loader and of cellmap-data's loader, on the same data.

The data are two crops of 400³ voxels at 4 nm with 14 classes (chunks of 128³, zstd), the patches
128³ with flips and transposes, in batches of 2. Each loader uses its best number of workers. Prints
one line of JSON: `patches_per_second`, `official_patches_per_second`, `ratio`, and for this loader
`first_patch_seconds`, `fill_seconds` (until the labels are in memory) and `peak_mb`.

    python benchmarks/loader.py [--workers 1 2] [--official-workers 0 1 2]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CLASSES = [
    "ecs", "pm", "mito_mem", "mito_lum", "mito_ribo", "golgi_mem", "golgi_lum", "ves_mem",
    "ves_lum", "endo_mem", "endo_lum", "er_mem", "er_lum", "cyto",
]  # fmt: skip
CROP = 400
VOXEL = 4.0
PATCH = 128
BATCH = 2
WARM_UP = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--official-workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, default=150, help="measured batches of this loader")
    parser.add_argument("--official-batches", type=int, default=10)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        which, folder, workers, batches = arguments.measure
        print(json.dumps(MEASURES[which](Path(folder), int(workers), int(batches))))
        return
    with tempfile.TemporaryDirectory() as folder:
        # In another process: those started later would inherit this one's peak memory.
        measure("data", folder, 0, 0)
        runs = [measure("own", folder, workers, arguments.batches) for workers in arguments.workers]
        official = [
            measure("official", folder, workers, arguments.official_batches)
            for workers in arguments.official_workers
        ]
    best = max(runs, key=lambda run: run["patches_per_second"])
    theirs = max(official, key=lambda run: run["patches_per_second"])
    result = best | {
        "official_patches_per_second": theirs["patches_per_second"],
        "official_workers": theirs["workers"],
        "official_peak_mb": theirs["peak_mb"],
        "ratio": round(best["patches_per_second"] / theirs["patches_per_second"], 1),
    }
    print(json.dumps(result))


def measure(which: str, folder: str, workers: int, batches: int) -> dict[str, Any]:
    """Measure in a new process."""
    command = [sys.executable, __file__, "--measure", which, folder, str(workers), str(batches)]
    # As in the pipeline's jobs: waiting threads do not spin.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def make_data(folder: Path, *_: int) -> None:
    """Write raw and two crops in the challenge's layout, with objects of about 200 nm."""
    from cellmap_pipeline.geometry import Grid
    from cellmap_pipeline.io.volumes import create

    rng = np.random.default_rng(0)
    volume = Grid((VOXEL,) * 3, (0, 0, 0), (CROP, CROP, 2 * CROP))
    raw = rng.integers(60, 200, volume.shape, np.uint8)
    create(folder / "raw", volume, "uint8", chunk=128).write(raw).result()
    for crop in range(2):
        grid = volume.box((0, 0, crop * CROP), (CROP,) * 3)
        for name, inside in zip(CLASSES, atoms(rng), strict=True):
            path = folder / f"crop{crop}" / name
            path.parent.mkdir(exist_ok=True)
            # As in the challenge, the metadata contain the number of unlabeled voxels.
            counts = {"complement_counts": {"absent": int((~inside).sum())}}
            attributes = {"cellmap": {"annotation": counts}}
            label = create(path, grid, "uint8", attributes, chunk=128)
            label.write(inside.astype(np.uint8)).result()


def atoms(rng: np.random.Generator) -> Iterator[NDArray[np.bool_]]:
    """Yield disjoint masks of the classes: pairs of a membrane and the lumen inside it."""
    free = np.ones((CROP,) * 3, bool)
    for _ in range(0, len(CLASSES), 2):
        coarse = ndimage.gaussian_filter(rng.standard_normal((50,) * 3), 3)
        field = ndimage.zoom(coarse / coarse.std(), 8, order=1)
        yield free & (field > 1.0) & (field <= 1.3)
        yield free & (field > 1.3)
        free &= field <= 1.0


def own(folder: Path, workers: int, batches: int) -> dict[str, Any]:
    """Measure this loader, up to complete batches on the CPU."""
    import torch

    from cellmap_pipeline.config.training import Training
    from cellmap_pipeline.patches.batches import BatchBuilder
    from cellmap_pipeline.patches.crops import CropData
    from cellmap_pipeline.patches.loader import make_loaders

    training = Training.model_validate(
        {
            "classes": CLASSES,
            "voxel_size": VOXEL,
            "model": {"architecture": "monai_basic_unet3d"},
            "patch_size": PATCH,
            "batch_size": BATCH,
            "num_workers": workers,
            "iterations_per_epoch": 10**6,
            "augment": {
                "rotate90": False,
                "contrast": 0,
                "gamma": 0,
                "noise": 0,
                "scaling": 0,
                "low_resolution": 0,
                "blur": 0,
            },
        }
    )
    size = training.voxel_size
    crops = [CropData(folder / "raw", folder / f"crop{i}", CLASSES, size) for i in range(2)]
    begin = time.perf_counter()
    train, _ = make_loaders({"train": crops, "validate": crops}, training)
    made = map(BatchBuilder(torch.device("cpu"), training.patch_size, size, CLASSES), train)
    next(made)
    first = time.perf_counter() - begin
    # Corners and random positions, until every block has been read.
    deque(islice(made, 60), maxlen=0)
    filled = time.perf_counter() - begin
    return {
        "patches_per_second": rate(made, batches),
        "workers": workers,
        "memory_limit_gb": training.memory_gb,
        "first_patch_seconds": round(first, 2),
        "fill_seconds": round(filled, 2),
        "peak_mb": peak_mb(),
    }


def official(folder: Path, workers: int, batches: int) -> dict[str, Any]:
    """Measure cellmap-data's loader, set up as in its documentation."""
    from cellmap_data import CellMapDataLoader, CellMapDataset, CellMapMultiDataset

    arrays = {"shape": (PATCH,) * 3, "scale": (VOXEL,) * 3}
    crops = [
        CellMapDataset(
            raw_path=str(folder / "raw"),
            target_path=f"{folder}/crop{i}/[{','.join(CLASSES)}]",
            classes=CLASSES,
            input_arrays={"raw": arrays},
            target_arrays={"labels": arrays},
            spatial_transforms={"mirror": {"z": 0.5, "y": 0.5, "x": 0.5}, "transpose": True},
        )
        for i in range(2)
    ]
    dataset = CellMapMultiDataset(
        classes=CLASSES,
        input_arrays={"raw": arrays},
        target_arrays={"labels": arrays},
        datasets=crops,
    )
    loader = CellMapDataLoader(
        dataset, CLASSES, BATCH, num_workers=workers, weighted_sampler=True,
        iterations_per_epoch=BATCH * (batches + WARM_UP),
    )  # fmt: skip
    made = iter(loader)
    deque(islice(made, WARM_UP), maxlen=0)
    return {
        "patches_per_second": rate(made, batches),
        "workers": workers,
        "peak_mb": peak_mb(),
    }


def rate(batches: Iterator[Any], count: int) -> float:
    """Return patches per second over `count` batches."""
    begin = time.perf_counter()
    made = sum(1 for _ in islice(batches, count))
    return round(made * BATCH / (time.perf_counter() - begin), 2)


def peak_mb() -> int:
    """Return the sum of the peak memory of this process and of its largest worker, MB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024)


MEASURES = {"data": make_data, "own": own, "official": official}

if __name__ == "__main__":
    main()
