"""Time and memory of opening all crops of the challenge for a training on all tested classes.

The crops consist of metadata only. They are the 289 crops of a table in the challenge's format, or
of a random one of the same size. Prints one line of JSON: `seconds` and `peak_mb` of opening in a
new process, without the import; `crops` and `labels`; and for the data split `split_seconds`,
`split_crops` (crops fine enough for 8 nm) and the `largest_deviation` of a class's validation share
from the configured fraction.

    python benchmarks/opening.py [--table train_crop_manifest.csv]
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from challenge_mock import CLASSES, made_up_labels, make_challenge

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import read_manifest

VOXEL_SIZE = (8.0, 8.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="train_crop_manifest.csv of the challenge")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        which, folder = arguments.measure
        print(json.dumps(MEASURES[which](Path(folder))))
        return
    rows = read_manifest(arguments.table) if arguments.table else made_up_labels()
    with tempfile.TemporaryDirectory() as folder:
        make_challenge(Path(folder), rows)
        write_all(Path(folder), rows)
        print(json.dumps({which: value for part in MEASURES for which, value in
                          measure(part, folder).items()}))  # fmt: skip


def measure(which: str, folder: str) -> dict[str, Any]:
    """Measure in a new process."""
    command = [sys.executable, __file__, "--measure", which, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_all(folder: Path, rows: Sequence[CropLabel]) -> None:
    """Write a data split of all crops, whatever their voxel size."""
    labels: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        labels.setdefault((row.dataset, row.crop), []).append(row.label)
    with open(folder / "all.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for i, ((dataset, crop), annotated) in enumerate(labels.items()):
            zarr = folder / dataset / f"{dataset}.zarr"
            path = f"recon-1/labels/groundtruth/crop{crop}/[{','.join(annotated)}]"
            use = "train" if i % 7 else "validate"
            writer.writerow([use, zarr, "recon-1/em/fibsem-uint8", zarr, path])


def opening(folder: Path) -> dict[str, Any]:
    """Measure the opening of crops by a training: their grids and the classes in them."""
    from cellmap_pipeline.patches.crops import open_crops

    before, begin = peak_mb(), time.perf_counter()
    crops = [
        crop for side in open_crops(folder / "all.csv", CLASSES, VOXEL_SIZE).values()
        for crop in side
    ]  # fmt: skip
    held = sum(len(crop.present_classes) for crop in crops if crop.grid.size)
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        "peak_mb": round(peak_mb() - before, 1),
        "crops": len(crops),
        "labels": sum(len(crop.labels) for crop in crops),
        "labels_with_voxels": held,
    }


def splitting(folder: Path) -> dict[str, Any]:
    """Measure the creation of the data split."""
    from cellmap_pipeline.data.datasplit import (
        DatasplitSettings,
        find_labeled_crops,
        make_datasplit,
    )
    from cellmap_pipeline.data.split import SplitSettings, split_crops

    settings = DatasplitSettings(CLASSES, VOXEL_SIZE)
    begin = time.perf_counter()
    parts = split_crops(find_labeled_crops(folder, []), SplitSettings(0.15))
    make_datasplit(
        folder, settings, None, parts, None, folder / "split.csv", folder / "summary.csv"
    )
    seconds = time.perf_counter() - begin
    with open(folder / "summary.csv", encoding="utf-8") as file:
        off = [abs(float(row["share"]) - 0.15)
               for row in csv.DictReader(file)]  # fmt: skip
    return {
        "split_seconds": round(seconds, 2),
        "split_crops": len((folder / "split.csv").read_text().splitlines()),
        "largest_deviation": round(max(off), 3),
    }


def peak_mb() -> float:
    """Return the peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASURES = {"opening": opening, "splitting": splitting}

if __name__ == "__main__":
    main()
