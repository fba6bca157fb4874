"""Speed at which check_inputs decodes the chunks that a run reads.

A volume of noisy raw and one of labels, in blosc-zstd chunks of 64³ voxels, are each decoded once
in a new process. Prints one line of JSON: the number of voxels of a volume, and for each volume
millions of voxels per second and the number of busy processors.

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
from cellmap_pipeline.preflight.chunks import ChunkRequest, decode_chunks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=512, help="edge of the volumes, voxels")
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
    """Write raw with noise of a few gray values, and labels with blobs."""
    grid = Grid((8, 8, 8), (0, 0, 0), (edge,) * 3)
    rng = np.random.default_rng(0)
    slab = rng.normal(128, 12, (64, edge, edge)).clip(0, 255).astype(np.uint8)
    blobs = (np.kron(rng.random((8, edge // 8, edge // 8)), np.ones((8, 8, 8))) > 0.7).astype("u1")
    for name, voxels in (("raw", slab), ("labels", blobs)):
        array = create(folder / name, grid, "uint8")
        for z in range(0, edge, 64):
            array[z : z + 64].write(voxels[: edge - z]).result()


def measure(path: Path) -> tuple[float, float]:
    """Return millions of voxels per second and busy processors; the files are in the page cache."""
    set_cache_bytes(0)
    level = Volume.open(path).levels[0]
    request = ChunkRequest(level)
    request.add_box((0, 0, 0), level.grid.shape)
    begin, used = time.perf_counter(), time.process_time()
    decode_chunks([request], os.cpu_count() or 1)
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    assert request.is_complete and not request.statistics.broken
    return round(level.grid.size / seconds / 1e6, 1), round(used / seconds, 2)


if __name__ == "__main__":
    main()
