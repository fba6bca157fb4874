"""How the data split treats crops, datasets and classes, on the challenge's tables.

How much of each class a crop holds is not in the tables, so it is drawn: a class occurs in a part
of the crops that annotate it, with a volume from a log-normal distribution. For each draw, prints a
line of JSON: `seconds`, the `share` of crops that validate, the least, the most and the root mean
square deviation of the share of the classes' volumes, datasets that `lost` all of their crops to
validation, and the crops of each dataset with test crops on both sides.

    python benchmarks/splits.py train_crop_manifest.csv test_crop_manifest.csv [--draws 12]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter

import numpy as np
import pandas as pd

from cellmap_pipeline.data.datasplit import SplitSettings, split
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.geometry import Grid

# Of the part of the crops in which a class occurs, and of its volume as a part of the crop's.
OCCURRENCE = (0.1, 0.8)
MEDIAN_VOLUME, SIGMA_BETWEEN_CLASSES, SIGMA_BETWEEN_CROPS, MAX_VOLUME = 0.02, 1.2, 1.0, 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="the challenge's train_crop_manifest.csv, or .csv.gz")
    parser.add_argument("test", help="the challenge's test_crop_manifest.csv")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--fraction", type=float, default=0.15)
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.train)
    tested = sorted(set(pd.read_csv(arguments.test)["dataset"]))
    classes = sorted(set(table["class_label"]))
    for draw in range(arguments.draws):
        crops = drawn_crops(table, classes, draw)
        held = [label for label in classes if any(crop.present.get(label) for crop in crops)]
        settings = SplitSettings(
            held, (8, 8, 8), validation_fraction=arguments.fraction, test_datasets=tested
        )
        begin = time.perf_counter()
        usage = split(crops, settings)
        seconds = time.perf_counter() - begin
        result = {"draw": draw, "seconds": round(seconds, 1)}
        print(json.dumps(result | described(crops, usage, held, tested, arguments.fraction)))


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
