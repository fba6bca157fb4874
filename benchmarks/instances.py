"""Time and memory of each method of instance segmentation, on simulated predictions.

The predictions show cells that touch everywhere. Each run is a new process that executes the
workflow's code: up to 28 M voxels in memory, larger volumes in blocks. Prints one line of JSON: by
size and method, seconds, peak memory of all processes of the run together (including libraries),
number of objects, and adapted Rand error against the ground truth.

    python benchmarks/instances.py                       # 256³ and 512³
    python benchmarks/instances.py --sizes 1000 --methods connected_components watershed_boundary
    python benchmarks/instances.py --methods watershed_affinities mutex_watershed --distances 4 9
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from cellmap_pipeline.channels import (
    AFFINITY_SUFFIXES,
    AUXILIARY_SUFFIXES,
    long_range_suffix,
    output_channels,
)
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid, pair_slices
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.segmentation.final_labels import segment_crop
from cellmap_pipeline.segmentation.method_settings import methods_for
from cellmap_pipeline.segmentation.methods import METHODS

VOXEL = 8.0
SPACING = 40  # approximate distance between the centers of cells, voxels
SLAB = 64
AXES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
# Settings that a validation on these predictions would find.
SETTINGS = {
    "watershed_boundary": {"merge_threshold": 0.4},
    "watershed_learned_distance": {"merge_threshold": 0.25},
    "watershed_affinities": {"merge_threshold": 0.15},
    "mutex_watershed": {"affinity_threshold": 0.7, "merge_threshold": 0.15},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--methods", nargs="+", default=list(methods_for("mito")))
    parser.add_argument(
        "--distances", type=int, nargs="*", default=[],
        help="predict affinities at these distances along the axes, too, voxels",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        folder, method = arguments.one
        print(json.dumps(_measure(Path(folder), method, arguments.threads)))
        return
    result: dict[str, dict[str, object]] = {}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as name:
            needs = {METHODS[name].auxiliary for name in arguments.methods} - {None}
            suffixes = [suffix for kind in sorted(needs) for suffix in AUXILIARY_SUFFIXES[kind]]
            offsets = [tuple(d * one for one in axis) for d in arguments.distances for axis in AXES]
            suffixes += map(_suffix, offsets)
            _simulate(Path(name), size, output_channels(["cell"], {"cell": suffixes}), offsets)
            for method in arguments.methods:
                command = [
                    sys.executable, __file__, "--threads", str(arguments.threads),
                    "--one", name, method,
                ]  # fmt: skip
                result.setdefault(str(size), {})[method] = _run(command)
    print(json.dumps({"threads": arguments.threads, "sizes": result}))


def _run(command: list[str]) -> dict[str, object]:
    """Return the output of a measuring process, and the peak memory of it and its children."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    tree = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        total = 0
        for one in [tree, *tree.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # It has just ended.
                total += one.memory_info().rss
        peak = max(peak, total)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    assert process.stdout
    return json.loads(process.stdout.read()) | {"peak_mb": peak // 1_000_000}


def _measure(folder: Path, method: str, threads: int) -> dict[str, object]:
    truth = Volume.open(folder / "truth").levels[0]
    row = CropLabel(1, "d", "cell", truth.grid)
    own = {"method": method, "min_size_nm3": 1e6} | SETTINGS.get(method, {})
    begin = time.perf_counter()
    segment_crop(row, [[folder / "cell"]], {}, own, folder / method, threads)
    seconds = time.perf_counter() - begin
    error, objects = _rand_error(truth, Volume.open(folder / method).levels[0])
    return {"seconds": round(seconds, 1), "objects": objects, "rand_error": round(error, 4)}


def _suffix(offset: Sequence[int]) -> str:
    """Return the suffix of the channel of an affinity at a distance, voxels."""
    z, y, x = (VOXEL * o for o in offset)
    return long_range_suffix((z, y, x))


def _simulate(
    folder: Path, size: int, channels: list[str], offsets: Sequence[Sequence[int]]
) -> None:
    """Write Voronoi cells of random points and plausible predictions of them, slab by slab."""
    grid = Grid((VOXEL,) * 3, (0, 0, 0), (size,) * 3)
    rng = np.random.default_rng(0)
    points = cKDTree(rng.uniform(0, size, ((size // SPACING + 1) ** 3, 3)))
    arrays = {name: create(folder / name, grid, "uint8") for name in channels}
    truth = create(folder / "truth", grid, "uint32")
    plane = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1)
    for start in range(0, size, SLAB):
        margin = 8 + max((abs(offset[0]) for offset in offsets), default=0)
        low, high = max(0, start - margin), min(size, start + SLAB + 8)
        ids = np.stack([
            points.query(np.concatenate([np.full((size**2, 1), z), plane.reshape(-1, 2)], 1),
                         workers=-1)[1].reshape(size, size)
            for z in range(low, high)
        ]) + 1  # fmt: skip
        slab = slice(start, min(start + SLAB, size))
        core = slice(start - low, slab.stop - low)
        truth[slab].write(ids[core].astype(np.uint32)).result()
        arrays["cell"][slab].write(np.uint8(230)).result()
        for name, mask, sigma in _masks(ids, offsets):
            if name in arrays:
                values = _predicted(mask, sigma, rng)
                arrays[name][slab].write(values[core]).result()


def _masks(
    ids: np.ndarray, offsets: Sequence[Sequence[int]]
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield each auxiliary channel: its name, its ideal values, and a network's blur of them."""
    apart = []
    for axis in range(3):
        before = np.roll(ids, 1, axis)
        before[(slice(None),) * axis + (0,)] = ids[(slice(None),) * axis + (0,)]
        apart.append(ids != before)
    boundary = np.zeros(ids.shape, bool)
    for axis in range(3):
        boundary |= apart[axis] | np.roll(apart[axis], -1, axis)
    yield "cell_boundary", boundary, 0.7
    # A coarse substitute of the distance: the blurred complement of the boundary.
    yield "cell_distance", ~boundary, 2.0
    for suffix, mask in zip(AFFINITY_SUFFIXES, apart, strict=True):
        yield f"cell{suffix}", ~mask, 0.7
    for offset in offsets:
        here, there = pair_slices(ids.shape, offset)
        same = np.zeros(ids.shape, bool)
        same[here] = ids[here] == ids[there]
        yield f"cell{_suffix(offset)}", same, 0.7


def _predicted(mask: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    value = gaussian_filter(mask.astype(np.float32), sigma)
    value += 0.06 * rng.standard_normal(mask.shape, np.float32)
    return np.clip(255 * value, 0, 255).astype(np.uint8)


def _rand_error(truth: object, made: object) -> tuple[float, int]:
    """Return the adapted Rand error (1 - F) and the number of objects, counted slab by slab."""
    shape = truth.grid.shape  # type: ignore[attr-defined]
    pairs: dict[tuple[int, int], int] = {}
    for start in range(0, shape[0], SLAB):
        low, high = (start, 0, 0), (min(start + SLAB, shape[0]), *shape[1:])
        one = truth.read(low, high).astype(np.uint64)  # type: ignore[attr-defined]
        other = made.read(low, high).astype(np.uint64)  # type: ignore[attr-defined]
        keys, counts = np.unique((one << np.uint64(32)) | other, return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            pair = (key >> 32, key & 0xFFFFFFFF)
            pairs[pair] = pairs.get(pair, 0) + count
    rows: dict[int, int] = {}
    columns: dict[int, int] = {}
    for (one_id, other_id), count in pairs.items():
        rows[one_id] = rows.get(one_id, 0) + count
        columns[other_id] = columns.get(other_id, 0) + count
    both = sum(n**2 for n in pairs.values())
    precision = both / sum(n**2 for n in columns.values())
    recall = both / sum(n**2 for n in rows.values())
    return 1 - 2 * precision * recall / (precision + recall), len(columns) - (0 in columns)


if __name__ == "__main__":
    main()
