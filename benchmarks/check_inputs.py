"""How fast check_inputs decodes the chunks that a run reads.

A volume of noise-like raw and one of labels, blosc-zstd in chunks of 64, are decoded once in fresh
processes. Prints one line of JSON: millions of voxels a second, and processors that were busy, of
each; and the voxels of each.

    python benchmarks/check_inputs.py [--edge 512]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.arrays import set_cache_bytes
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.preflight.chunks import Look, decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=512, help="voxels")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    found: dict[str, float] = {"voxels": arguments.edge**3}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.edge)
        for name in ("raw", "labels"):
            command = [sys.executable, __file__, "--measure", f"{folder}/{name}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            speed, busy = json.loads(done.stdout)
            found |= {f"{name}_mvoxels_per_s": speed, f"{name}_processors": busy}
    print(json.dumps(found))


def write(folder: Path, edge: int) -> None:
    """Raw with noise of a few grey values, and labels in blobs."""
    grid = Grid((8, 8, 8), (0, 0, 0), (edge,) * 3)
    rng = np.random.default_rng(0)
    slab = rng.normal(128, 12, (64, edge, edge)).clip(0, 255).astype(np.uint8)
    blobs = (np.kron(rng.random((8, edge // 8, edge // 8)), np.ones((8, 8, 8))) > 0.7).astype("u1")
    for name, voxels in (("raw", slab), ("labels", blobs)):
        array = create(folder / name, grid, "uint8")
        for z in range(0, edge, 64):
            array[z : z + 64].write(voxels[: edge - z]).result()


def measure(path: Path) -> tuple[float, float]:
    """Millions of voxels a second, and busy processors; files are in the system's memory."""
    set_cache_bytes(0)
    level = Volume.open(path).levels[0]
    look = Look(level)
    look.want((0, 0, 0), level.grid.shape)
    begin, used = time.perf_counter(), time.process_time()
    decode([look], os.cpu_count() or 1)
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    assert look.whole and not look.values.broken
    return round(level.grid.size / seconds / 1e6, 1), round(used / seconds, 2)


if __name__ == "__main__":
    main()
