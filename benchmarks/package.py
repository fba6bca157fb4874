"""Speed of creating submission.zip, and of checking it.

Prints one line of JSON. For two kinds of chunks of 64³ voxels, `noise` (hardly compressible) and
`labels` (small chunks, as of real labels), it contains the MB/s of `package`, of `copying` the same
files one by one (like `cp -r`), and of `copying_zip`, the finished zip as one file (like `cp`), and
the speed of `package` relative to both. A zip is complete when it is on the disk (fsync; not so the
many files, which would take even longer). The three take turns, and the fastest run of each counts.
`check_seconds`, by number of workers, is for a zip of 48 labels of 800³ voxels whose chunks are
mostly empty, but stored.

    python benchmarks/package.py [--folder DISK] [--labels 4] [--side 512]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.submission.check import check
from cellmap_pipeline.submission.package import package

CHUNK, CHECKED_SIDE, CHECKED_LABELS = 64, 800, 48
GROUP = b'{"zarr_format": 2}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure")
    parser.add_argument("--labels", type=int, default=4)
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for kind, draw in (("noise", noise), ("labels", blobs)):
            rows = write_labels(Path(folder) / kind, draw, arguments.labels, arguments.side)
            result[kind] = packaging_speed(Path(folder) / kind, rows, arguments.turns)
            shutil.rmtree(Path(folder) / kind)
        result["check_seconds"] = checking_speed(Path(folder))
    print(json.dumps(result))


def noise(side: int, seed: int) -> NDArray[np.uint8]:
    """Set a random half of the voxels."""
    return np.random.default_rng(seed).integers(0, 2, (side,) * 3).astype(np.uint8)


def blobs(side: int, seed: int) -> NDArray[np.uint8]:
    """Create smooth shapes of some tens of voxels."""
    rough = np.random.default_rng(seed).random((side // 4,) * 3, np.float32)
    small = uniform_filter(rough, 5) > 0.5
    return small.repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.uint8)


def write_labels(
    folder: Path, draw: Callable[[int, int], NDArray[np.uint8]], labels: int, side: int
) -> list[CropLabel]:
    """Write segmentations like the workflow does."""
    grid = Grid((8, 8, 8), (0, 0, 0), (side,) * 3)
    rows = [CropLabel(1, "d", f"label{i}", grid) for i in range(labels)]
    marked = {"cellmap_pipeline": {"kind": "labels"}}
    for i, row in enumerate(rows):
        path = folder / "segmentations" / "d" / "crop1" / row.label
        create(path, grid, "uint8", marked).write(draw(side, i)).result()
    return rows


def packaging_speed(folder: Path, rows: list[CropLabel], turns: int) -> dict[str, Any]:
    source, output = folder / "segmentations", folder / "submission.zip"
    copy = folder / "copy.zip"
    ways: dict[str, Callable[[], Any]] = {
        "package": lambda: (package(source, rows, output), to_disk(output)),
        "copying": lambda: shutil.copytree(source, folder / "copy"),
        "copying_zip": lambda: (shutil.copyfile(output, copy), to_disk(copy)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            clear(folder, output if name == "package" else None)
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    megabytes = output.stat().st_size / 1e6
    speed = {name: megabytes / min(values) for name, values in seconds.items()}
    return {
        "megabytes": round(megabytes),
        "files": sum(path.is_file() for path in source.rglob("*")),
        "mb_per_s": {name: round(value) for name, value in speed.items()},
        "of_copying": round(speed["package"] / speed["copying"], 2),
        "of_copying_zip": round(speed["package"] / speed["copying_zip"], 2),
    }


def to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file)


def clear(folder: Path, output: Path | None) -> None:
    shutil.rmtree(folder / "copy", ignore_errors=True)
    for path in (folder / "copy.zip", output):
        if path:
            path.unlink(missing_ok=True)


def checking_speed(folder: Path) -> dict[str, float]:
    path, rows = folder / "large.zip", write_large(folder / "large.zip")
    result = {}
    for workers in sorted({1, os.cpu_count() or 1}):
        begin = time.perf_counter()
        problems = check(path, rows, workers=workers)
        result[str(workers)] = round(time.perf_counter() - begin, 1)
        assert not problems, problems[:3]
    return result


def write_large(path: Path) -> list[CropLabel]:
    """Write a submission in which nine of ten chunks are empty."""
    grid = Grid((1.74, 2, 2), (0, 0, 0), (CHECKED_SIDE,) * 3)
    names = ["mito", "ves", *(f"label{i}" for i in range(CHECKED_LABELS - 2))]
    rows = [CropLabel(1, "d", name, grid) for name in names]
    codec = Zstd(3)
    chunks = [codec.encode(np.zeros((CHUNK,) * 3, np.uint8))] * 10
    chunks[0] = codec.encode(blobs(CHUNK, 0))
    metadata = {
        "zarr_format": 2, "shape": grid.shape, "chunks": [CHUNK] * 3, "dtype": "|u1", "order": "C",
        "fill_value": 0, "filters": None, "compressor": codec.get_config(),
    }  # fmt: skip
    attributes = {"voxel_size": grid.voxel_size, "translation": grid.translation}
    count = -(-CHECKED_SIDE // CHUNK)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(".zgroup", GROUP)
        archive.writestr("crop1/.zgroup", GROUP)
        for row in rows:
            entries = {".zarray": json.dumps(metadata).encode()}
            entries[".zattrs"] = json.dumps(attributes).encode()
            for n, index in enumerate(np.ndindex((count,) * 3)):
                entries[".".join(map(str, index))] = chunks[n % 10]
            for name, data in entries.items():
                archive.writestr(f"crop1/{row.label}/{name}", data)
    return rows


if __name__ == "__main__":
    main()
