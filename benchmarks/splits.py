"""How the run's split treats crops, datasets and classes, on the challenge's tables.

How much of each class a crop holds is not in the tables, so it is drawn: a class occurs in a part
of the crops that annotate it, with a volume from a log-normal distribution. For each draw, prints a
line of JSON:

- `seconds`: the time of the split
- `share`: the share of crops that validate
- `class_shares`: the least, the most and the root mean square deviation of the share of volume that
  validates, over the classes
- `lost`: datasets without a training crop
- `tested`: crops of each dataset with test crops, on both sides
- `lacking`: by training, classes of two crops or more of which its part of the split lacks a side

and one for folds: `seconds`, the least and the most crops of a fold, the `class_shares` over
classes and folds, and `incomplete`: how many classes some fold lacks, of those with as many crops
as folds or more.

    python benchmarks/splits.py train_crop_manifest.csv test_crop_manifest.csv [--draws 12]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellmap_pipeline.config.load import load_training
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.datasplit import MAX_LABEL_COARSENESS
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.data.split import SplitSettings, split_crops
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.levels import is_as_fine

FOLDER = Path(__file__).resolve().parents[1] / "config/training"
TRAININGS = ("all48_4nm", "all48_8nm", "organelles_16nm", "organelles_32nm", "mednext_mito")
# Of the part of the crops in which a class occurs, and of its volume as a part of the crop's.
OCCURRENCE = (0.1, 0.8)
MEDIAN_VOLUME, SIGMA_BETWEEN_CLASSES, SIGMA_BETWEEN_CROPS, MAX_VOLUME = 0.02, 1.2, 1.0, 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="the challenge's train_crop_manifest.csv, or .csv.gz")
    parser.add_argument("test", help="the challenge's test_crop_manifest.csv")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--fraction", type=float, default=0.15)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--trainings", nargs="+", default=TRAININGS)
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.train)
    tested = sorted(set(pd.read_csv(arguments.test)["dataset"]))
    classes = sorted(set(table["class_label"]))
    trainings = {name: load_training(name, [FOLDER]) for name in arguments.trainings}
    for draw in range(arguments.draws):
        crops = drawn_crops(table, classes, draw)
        held = [label for label in classes if any(crop.present.get(label) for crop in crops)]
        settings = SplitSettings(arguments.fraction, seed=draw, test_datasets=tested)
        usage, seconds = timed_split(crops, settings)
        lacking = {
            name: missing_classes(usable_crops(crops, usage, training), training)
            for name, training in trainings.items()
        }
        result = described(crops, usage, held, tested, arguments.fraction)
        print(json.dumps({"draw": draw, "seconds": seconds} | result | {"lacking": lacking}))
        folds, seconds = timed_split(crops, SplitSettings(folds=arguments.folds, seed=draw))
        print(json.dumps({"draw": draw, "seconds": seconds} | described_folds(crops, folds, held)))


def timed_split(crops: list[LabeledCrop], settings: SplitSettings) -> tuple[list[str], float]:
    """Return the part of each crop, and the seconds that the split took."""
    begin = time.perf_counter()
    parts = split_crops(crops, settings)
    return [parts[crop.name] for crop in crops], round(time.perf_counter() - begin, 1)


def usable_crops(
    crops: Sequence[LabeledCrop], usage: Sequence[str], training: Training
) -> list[tuple[LabeledCrop, str]]:
    """Return the crops that annotate a class of a training finely enough, and their sides."""
    return [
        (crop, use)
        for crop, use in zip(crops, usage, strict=True)
        if is_as_fine(crop.grid.voxel_size, training.voxel_size, MAX_LABEL_COARSENESS)
        and any(label in crop.present for label in training.classes)
    ]


def missing_classes(crops: Sequence[tuple[LabeledCrop, str]], training: Training) -> list[str]:
    """List classes of two crops or more of which all crops are on one side."""
    lacking = []
    for label in training.classes:
        sides = [use for crop, use in crops if crop.present.get(label)]
        if len(sides) >= 2 and len(set(sides)) == 1:
            lacking.append(label)
    return lacking


def described_folds(crops: list[LabeledCrop], folds: list[str], classes: list[str]) -> dict:
    """Describe folds."""
    sizes = Counter(folds)
    shares, incomplete = [], 0
    for label in classes:
        by_fold = {fold: 0.0 for fold in sizes}
        holding = set()
        for crop, fold in zip(crops, folds, strict=True):
            if crop.present.get(label):
                by_fold[fold] += crop.present[label]
                holding.add((crop.name, fold))
        shares += [volume / sum(by_fold.values()) for volume in by_fold.values()]
        if len(holding) >= len(sizes):
            incomplete += len({fold for _, fold in holding}) < len(sizes)
    deviation = np.sqrt(np.mean((np.array(shares) - 1 / len(sizes)) ** 2))
    return {
        "folds": len(sizes),
        "crops": [min(sizes.values()), max(sizes.values())],
        "class_shares": [round(float(v), 3) for v in (min(shares), max(shares), deviation)],
        "incomplete": incomplete,
    }


def drawn_crops(table: pd.DataFrame, classes: list[str], seed: int) -> list[LabeledCrop]:
    """Make the crops of the table, and draw the volume of each class in them."""
    rng = np.random.default_rng(seed)
    occurrence = dict(zip(classes, rng.uniform(*OCCURRENCE, len(classes)), strict=True))
    normal = rng.normal(0, SIGMA_BETWEEN_CLASSES, len(classes))
    median = dict(zip(classes, MEDIAN_VOLUME * np.exp(normal), strict=True))
    crops: dict[int, LabeledCrop] = {}
    for row in table.itertuples():
        size, translation, shape = map(numbers, (row.voxel_size, row.translation, row.shape))
        grid = Grid(size, translation, tuple(int(n) for n in shape))
        new = LabeledCrop(row.dataset, row.crop_name, "z", "raw", "labels", grid, {})
        crop = crops.setdefault(row.crop_name, new)
        part = min(MAX_VOLUME, median[row.class_label] * np.exp(rng.normal(0, SIGMA_BETWEEN_CROPS)))
        occurs = rng.random() < occurrence[row.class_label]
        crop.present[row.class_label] = occurs * part * crop.grid.size * float(np.prod(size))
    return list(crops.values())


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(value) for value in text.strip("[]").split(";"))


def described(
    crops: list[LabeledCrop],
    usage: list[str],
    classes: list[str],
    tested: list[str],
    fraction: float,
) -> dict:
    """Describe a split."""
    validates = np.array(usage) == "validate"
    shares = []
    for label in classes:
        volume = np.array([crop.present.get(label, 0.0) for crop in crops])
        shares.append(volume[validates].sum() / volume.sum())
    all_crops = Counter(crop.dataset for crop in crops)
    held_out = Counter(c.dataset for c, use in zip(crops, usage, strict=True) if use == "validate")
    deviation = np.sqrt(np.mean((np.array(shares) - fraction) ** 2))
    return {
        "share": round(float(validates.mean()), 3),
        "class_shares": [round(float(v), 3) for v in (min(shares), max(shares), deviation)],
        "lost": [name for name, n in all_crops.items() if held_out[name] == n],
        "tested": {name: f"{all_crops[name] - held_out[name]}+{held_out[name]}" for name in tested},
    }


if __name__ == "__main__":
    main()
