"""How often the worse of two or three trainings is chosen, and how often a choice stays open.

Trainings with a true difference of their scores are drawn on crops: crops differ in size and in
difficulty, which the trainings share, and the difference between trainings differs from crop to
crop. Counts of voxels or objects are drawn from that and compared by the workflow's own code. The
best training leads each other by `difference`.

Prints a line of JSON per kind of label, number of crops and of trainings, and difference: `open` is
the share of choices that are marked as open, `wrong` the share of wrong ones among the others (null
where there is no difference). Lines with `before` choose by scores on different crops, as earlier
versions did: 66 and 68, of which 25 are shared.

    python benchmarks/choices.py [--draws 400]
"""

from __future__ import annotations

import argparse
import json
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.rules.base import Counts, Rules
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.validation.comparison import compare

RULES_USED = RULES["2026-07"]
MEAN_SCORE = 0.65
# Scores of crops differ by what is easy or hard in them, for every training alike.
DIFFICULTY_DEVIATION = 0.15
# Logarithm of the voxels or objects of a label in a crop: pooled scores follow the largest crops.
SIZE_DEVIATION = 1.0
MEDIAN_VOXELS, MEDIAN_OBJECTS = 100_000, 15
# A crop does not show the same difference between two trainings as another one. No such numbers are
# published: a third of the crops' own deviation is assumed, and twice that, as between trainings
# whose mistakes have little in common.
DIFFERENCE_DEVIATIONS = (0.05, 0.1)
SCORED_BEFORE, SHARED_BEFORE = (66, 68), 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400)
    arguments = parser.parse_args()
    kinds = product((False, True), DIFFERENCE_DEVIATIONS)
    for instance, deviation in kinds:
        for n_crops, n, difference in product((25, 10, 60), (2, 3), (0.0, 0.02, 0.05)):
            result = chosen(arguments.draws, instance, deviation, n_crops, n, difference)
            print(json.dumps(result), flush=True)
        for difference in (0.02, 0.05):
            print(json.dumps(chosen_before(arguments.draws, instance, deviation, difference)))


def chosen(
    draws: int, instance: bool, deviation: float, n_crops: int, n_trainings: int, difference: float
) -> dict[str, object]:
    """Choose by scores on shared crops."""
    wrong, is_open = [], []
    for seed in range(draws):
        rng = np.random.default_rng([seed, n_crops])
        drawn = draw_counts(rng, instance, deviation, n_crops, n_trainings, difference)
        # The best one comes last, so that a tie is wrong.
        named = {f"{n}": by_crop for n, by_crop in enumerate(reversed(drawn))}
        found = compare(named, RULES_USED, instance)
        is_open.append(found.is_open)
        if difference and not found.is_open:
            wrong.append(found.best != f"{n_trainings - 1}")
    return {
        "label": "instance" if instance else "semantic",
        "crops": n_crops,
        "trainings": n_trainings,
        "deviation": deviation,
        "difference": difference,
        "open": round(float(np.mean(is_open)), 3),
        "wrong": round(float(np.mean(wrong)), 3) if wrong else None,
    }


def chosen_before(
    draws: int, instance: bool, deviation: float, difference: float
) -> dict[str, object]:
    """Choose by scores on crops of which only some are shared."""
    wrong = []
    first, second = SCORED_BEFORE
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        n_crops = first + second - SHARED_BEFORE
        better, worse = draw_counts(rng, instance, deviation, n_crops, 2, difference)
        scores = [
            score([by_crop[f"{i}"] for i in crops], instance)
            for by_crop, crops in (
                (better, range(first)), (worse, range(first - SHARED_BEFORE, n_crops))
            )
        ]  # fmt: skip
        wrong.append(scores[0] <= scores[1])
    return {
        "label": "instance" if instance else "semantic",
        "before": f"{first} and {second} crops, {SHARED_BEFORE} shared",
        "deviation": deviation,
        "difference": difference,
        "wrong": round(float(np.mean(wrong)), 3),
    }


def score(counts: list[Counts], instance: bool, rules: Rules = RULES_USED) -> float:
    return rules.score(sum(counts, Counts()), instance)


def draw_counts(
    rng: np.random.Generator,
    instance: bool,
    deviation: float,
    n_crops: int,
    n_trainings: int,
    difference: float,
) -> list[dict[str, Counts]]:
    """Draw the counts of each training by crop; the first is the best."""
    difficulty = rng.normal(0, DIFFICULTY_DEVIATION, n_crops)
    sizes = np.exp(rng.normal(0, SIZE_DEVIATION, n_crops))
    # The difference of two trainings deviates by the root of the sum of both.
    own = rng.normal(0, deviation / 2**0.5, (n_trainings, n_crops))
    lead = np.where(np.arange(n_trainings) == 0, difference, 0.0)[:, None]
    scores = np.clip(MEAN_SCORE + difficulty + own + lead, 0.02, 0.98)
    make = object_counts if instance else voxel_counts
    made = make(rng, scores, sizes)
    return [{f"{i}": counts for i, counts in enumerate(of_training)} for of_training in made]


def voxel_counts(
    rng: np.random.Generator, scores: NDArray[np.float64], sizes: NDArray[np.float64]
) -> list[list[Counts]]:
    """Make counts with these IoU (trainings, crops), and as many false voxels as missed ones."""
    voxels = np.rint(MEDIAN_VOXELS * sizes)
    missed = np.rint(voxels * (1 - scores) / (1 + scores))
    return [
        [Counts(int(n - m), int(m), int(m)) for n, m in zip(voxels, row, strict=True)]
        for row in missed
    ]


def object_counts(
    rng: np.random.Generator, scores: NDArray[np.float64], sizes: NDArray[np.float64]
) -> list[list[Counts]]:
    """Draw objects so that the combined score (trainings, crops) is expected to be `scores`.

    An object that is hard to find is so for all trainings.
    """
    # With a share p of found objects, as many false as missed ones and outlines that score p, the
    # combined score is p · √(p / (2 − p)).
    share = np.linspace(0, 1, 1_001)
    found_share = np.interp(scores, share * np.sqrt(share / (2 - share)), share)
    made: list[list[Counts]] = [[] for _ in scores]
    for crop, size in enumerate(sizes):
        n = 1 + rng.poisson(MEDIAN_OBJECTS * size)
        luck = rng.random((2, n))
        for training, p in enumerate(found_share[:, crop]):
            tp = int(np.count_nonzero(luck[0] < p))
            fp = int(np.count_nonzero(luck[1] > p))
            made[training].append(Counts(tp, fp, n - tp, float(tp * p)))
    return made


if __name__ == "__main__":
    main()
