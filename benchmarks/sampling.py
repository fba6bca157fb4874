"""How training patches and validation tiles are shared among classes, on the challenge's tables.

As in `splits.py`, how much of each class a crop holds is drawn; where it lies, too. For each draw
and training, prints a line of JSON for a choice by voxels (`before`, as it was up to commit
5b7aad0) and one for quotas of classes (`after`):

- `one_class`: the share of the patches anywhere, and of the tiles, from crops that annotate one
  class
- `annotated`: the share of the patches anywhere whose crop annotates a class; least, median class
- `tiles`: the number of tiles in which a class occurs; least, median class
- `at_most`: the same if there were no limit
- `chosen`, `crops`: the number of tiles, and of crops that they are from
- `seconds`: the time to choose the tiles, without reading labels

    python benchmarks/sampling.py train_crop_manifest.csv test_crop_manifest.csv [--draws 4]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
from splits import drawn_crops, timed_split, usable_crops

from cellmap_pipeline.config.load import load_training
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.data.split import SplitSettings
from cellmap_pipeline.patches import tiles
from cellmap_pipeline.patches.crops import MAX_POSITIONS
from cellmap_pipeline.patches.sampling import RandomPatches

FOLDER = Path(__file__).resolve().parents[1] / "config/training"
# A class lies in a box of the crop, of which it fills this part.
FILLED_PART = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="the challenge's train_crop_manifest.csv, or .csv.gz")
    parser.add_argument("test", help="the challenge's test_crop_manifest.csv")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--trainings", nargs="+", default=["organelles_32nm", "all48_8nm"])
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.train)
    tested = sorted(set(pd.read_csv(arguments.test)["dataset"]))
    classes = sorted(set(table["class_label"]))
    for draw in range(arguments.draws):
        drawn = drawn_crops(table, classes, draw)
        usage, _ = timed_split(drawn, SplitSettings(test_datasets=tested))
        for name in arguments.trainings:
            training = load_training(name, [FOLDER])
            crops = usable_crops(drawn, usage, training)
            sides = {
                side: [reader(crop, training) for crop, use in crops if use == side]
                for side in ("train", "validate")
            }
            for when, result in compared(sides, training).items():
                print(json.dumps({"draw": draw, "training": name, "when": when} | result))


def reader(crop: LabeledCrop, training: Training) -> SimpleNamespace:
    """Make a reader without volumes; a class lies in a box, the same one each time."""
    grid = crop.grid.at(training.voxel_size)
    annotated = [label for label in training.classes if label in crop.present]
    volume_nm3 = grid.size * float(np.prod(training.voxel_size))

    def positions(label: str) -> np.ndarray:
        rng = np.random.default_rng([crop.crop, training.classes.index(label)])
        filled = min(1.0, crop.present[label] / volume_nm3 / FILLED_PART)
        side = np.maximum(1, np.array(grid.shape) * filled ** (1 / 3))
        start = rng.random(3) * (grid.shape - side)
        return (start + rng.random((MAX_POSITIONS, 3)) * side).astype(np.int32)

    data = SimpleNamespace(
        grid=grid,
        dataset=crop.dataset,
        annotated=annotated,
        present_classes=[label for label in annotated if crop.present[label]],
        positions=positions,
    )
    return SimpleNamespace(crop=data)


def compared(sides: dict[str, list[SimpleNamespace]], training: Training) -> dict[str, dict]:
    """Describe patches and tiles, by voxels and by quotas."""
    voxels = np.array([reader.crop.grid.size for reader in sides["train"]], float)
    by_crop = {"before": voxels / voxels.sum(), "after": np.zeros(len(voxels))}
    by_class = RandomPatches(sides["train"], training).anywhere
    for crops in by_class:
        for reader, share in zip(crops.readers, crops.shares, strict=True):
            by_crop["after"][sides["train"].index(reader)] += share / len(by_class)
    is_single = np.array([len(reader.crop.annotated) == 1 for reader in sides["train"]])
    limitless = training.model_copy(update={"validation_iterations": 10**6})
    unlimited = tiles.ValidationTiles(sides["validate"], limitless)
    results = {}
    for when, choose in (("before", by_voxels), ("after", tiles.choose_tiles)):
        with patch.object(tiles, "choose_tiles", choose):
            begin = time.perf_counter()
            chosen = tiles.ValidationTiles(sides["validate"], training)
            seconds = time.perf_counter() - begin
        readers = [reader for reader, _ in chosen.tiles]
        by_reader = list(zip(sides["train"], by_crop[when], strict=True))
        annotated = [
            sum(share for reader, share in by_reader if label in reader.crop.annotated)
            for label in training.classes
        ]
        results[when] = {
            "one_class": [
                round(float(by_crop[when][is_single].sum()), 3),
                round(float(np.mean([len(r.crop.annotated) == 1 for r in readers])), 3),
            ],
            "annotated": least_and_median(annotated),
            "tiles": least_and_median(tiles_by_class(chosen, training)),
            "at_most": least_and_median(tiles_by_class(unlimited, training)),
            "chosen": len(chosen),
            "crops": len({id(reader) for reader in readers}),
            "seconds": round(seconds, 2),
        }
    return results


def least_and_median(values: Sequence[float]) -> list[float]:
    return [round(float(value), 3) for value in (np.min(values), np.median(values))]


def by_voxels(crops: Sequence, classes: Sequence[str], max_tiles: int) -> set[tiles.Tile]:
    """Choose tiles at equal distances in the list of all tiles."""
    every = [(i, tile) for i, crop in enumerate(crops) for tile in range(len(crop.starts))]
    return {every[k] for k in np.linspace(0, len(every) - 1, max_tiles).astype(int)}


def tiles_by_class(chosen: tiles.ValidationTiles, training: Training) -> list[int]:
    """Count the tiles in which each class occurs, of the classes that occur in some crop."""
    places: dict[int, list] = {}
    for reader, start in chosen.tiles:
        places.setdefault(id(reader), [reader]).append(start)
    counts = dict.fromkeys(training.classes, 0)
    for reader, *starts in places.values():
        first = np.array(starts)[:, None]
        for label in reader.crop.present_classes:
            voxels = reader.crop.positions(label)
            inside = ((voxels >= first) & (voxels < first + training.patch_size)).all(axis=2)
            counts[label] += int(inside.any(axis=1).sum())
    return list(counts.values())


if __name__ == "__main__":
    main()
