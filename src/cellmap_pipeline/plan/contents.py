"""Contents of a plan that come from the manifest and from the tables of the configuration.

They are read while Snakemake parses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.config.run import RunConfig
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.class_table import ClassTable, parts_of
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import SAME_SIZE, Grid, size_ratio, union
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.scoring.rules.base import DistanceScale


def submitted_rows(rows: Sequence[CropLabel], run: RunConfig, source: str) -> list[CropLabel]:
    """Select the rows that a run submits.

    Parameters
    ----------
    rows
        All rows of the manifest.
    run
        The run's configuration.
    source
        How errors refer to the configuration.

    Raises
    ------
    InputError
        `submission` names crops or classes that the manifest does not have.
    """
    crops, classes = run.submission.crops, run.submission.classes
    for key, wanted, known in (
        ("crops", crops, {row.crop for row in rows}),
        ("classes", classes, {row.label for row in rows}),
    ):
        unknown = [] if wanted == "all" else [str(v) for v in wanted if v not in known]
        if unknown:
            raise InputError(
                f"{source}: submission.{key}: {', '.join(unknown)} not in {run.test_crops}: the "
                f"manifest has {', '.join(sorted(str(v) for v in known))}"
            )
    return [
        row
        for row in rows
        if (crops == "all" or row.crop in crops) and (classes == "all" or row.label in classes)
    ]


def parts_by_training(plan: Plan, table: ClassTable) -> dict[str, dict[str, list[str]]]:
    """By training and label that it does not predict, its classes that compose the label."""
    labels = dict.fromkeys(row.label for row in plan.crop_labels)
    return {
        name: {
            label: parts
            for label in labels
            if label not in training.classes and (parts := parts_of(label, training.classes, table))
        }
        for name, training in plan.trainings.items()
    }


def voxel_sizes(rows: Iterable[CropLabel]) -> list[list[float]]:
    """List the voxel sizes of rows (nm; z, y, x), once for all that count as the same."""
    sizes: list[list[float]] = []
    for size in sorted({row.grid.voxel_size for row in rows}):
        if all(size_ratio(size, other) > SAME_SIZE for other in sizes):
            sizes.append(list(size))
    return sizes


def test_crop_extents(plan: Plan) -> dict[str, list[Grid]]:
    """By dataset, the extent of each test crop of the manifest."""
    by_crop: dict[tuple[str, int], list[Grid]] = {}
    for row in plan.manifest_rows:
        by_crop.setdefault((row.dataset, row.crop), []).append(row.grid)
    extents: dict[str, list[Grid]] = {}
    for (dataset, _), grids in sorted(by_crop.items()):
        extents.setdefault(dataset, []).append(union(grids))
    return extents


def caps_in_test_crops_nm(plan: Plan, label: str, size: Sequence[float]) -> list[float]:
    """List the largest distances, ascending, that the evaluator measures in a label's test crops.

    All crops of the manifest count, so that what is submitted changes no setting. Only their shares
    matter, so another crop of the same size as all others changes nothing, either.
    """
    if not is_instance(label):
        return []
    grids = [row.grid for row in plan.manifest_rows if row.label == label]
    same = [grid for grid in grids if size_ratio(grid.voxel_size, size) <= SAME_SIZE]
    found = Counter(DistanceScale.of(grid.shape, grid.voxel_size).cap_nm for grid in same)
    divisor = math.gcd(*found.values())
    return [cap_nm for cap_nm, n in sorted(found.items()) for _ in range(n // divisor)]
