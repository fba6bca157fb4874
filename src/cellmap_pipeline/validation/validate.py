"""Validation scores: post-processing tuned on the predictions of validation crops, and scored."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.geometry import Vector
from cellmap_pipeline.validation.cases import Truth, find_truths
from cellmap_pipeline.validation.tuning import plain_settings, score_each, tune

log = logging.getLogger(__name__)

# Settings are searched on so many voxels of all crops together, those of an instance class in parts
# of a crop of at most so many, as threads work on several at once.
SEMANTIC_VOXELS = 48_000_000
INSTANCE_VOXELS, MOST_INSTANCE_VOXELS = 16_000_000, 8_000_000
# Ways to find fragments that are tried, of all methods together.
INSTANCE_WAYS = 150
# What is found is scored on so many voxels of a crop.
MOST_SCORED = 28_000_000


def validate(
    labels: Mapping[str, Any],
    datasplits: Mapping[str, Path],
    voxel_size: Vector | None,
    everywhere: bool,
    workers: int = 1,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tune the post-processing of each label on validation crops, and score it.

    Parameters
    ----------
    labels : by label `voxel_sizes`, `sources` and `trainings`, as
        `plan_validation.validation_settings` gives them.
    datasplits
        By training; whose validation crops are used.
    voxel_size
        nm, for labels without `voxel_sizes`; None: each crop's finest.
    everywhere
        Only crops that validate in all of the `trainings`, else those of any of them.
    workers
        Threads.

    Returns
    -------
    scores
        `classes`: per label `score`, `score_at_half` (means over its voxel sizes), `parts` (what it
        is made of, if anything) and `voxel_sizes`: per size what `tuning.tune` found, `measured_at`
        (the truth's voxel size, nm) and `crops`; `overall_instance_score`,
        `overall_semantic_score`, `overall_score` as official.
    settings
        Per label a list of `voxel_size` and the `settings` found.
    """
    # Most labels take the same datasplits.
    crops_of = cache(partial(_validation_crops, everywhere=everywhere))
    classes: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for label, wanted in tqdm(labels.items(), desc="tuning", unit="label"):
        measured = []
        for one in wanted:
            crops = crops_of(tuple(datasplits[training] for training in one["trainings"]))
            for size in one["voxel_sizes"] or [voxel_size]:
                found = _at_size(label, size, one["sources"], crops, workers)
                measured += [found] if found else []
        if not measured:
            log.warning("no validation crop annotates %s: it keeps the default settings", label)
            continue
        settings[label] = [
            {"voxel_size": entry["voxel_size"], "settings": entry.pop("settings")}
            for entry in measured
        ]
        (_, parts), *_ = wanted[0]["sources"]
        classes[label] = {
            name: _mean([entry[name] for entry in measured]) for name in ("score", "score_at_half")
        } | {"parts": parts, "voxel_sizes": measured}
        log.info(
            "%s: %.4f (0.5: %.4f)", label, classes[label]["score"], classes[label]["score_at_half"]
        )
    return {"classes": classes} | _overall(classes), settings


def _at_size(
    label: str,
    voxel_size: Vector | None,
    sources: Sequence[tuple[str, Sequence[str]]],
    crops: Sequence[ValidationCrop],
    workers: int,
) -> dict[str, Any] | None:
    """What is found for a label at a voxel size; None where no crop annotates it."""
    truths = find_truths(label, voxel_size, sources, crops)
    if not truths:
        return None
    sizes = [truth.grid.voxel_size for truth in truths]
    tuned = _tuned(label, truths, workers)
    return tuned | {
        "voxel_size": list(voxel_size or min(sizes)),
        "measured_at": list(min(sizes)),
        "crops": [truth.crop for truth in truths],
    }


def _tuned(label: str, truths: Sequence[Truth], workers: int) -> dict[str, Any]:
    """Settings searched on parts of large crops, and scored on more of them."""
    if is_instance(label):
        most = min(INSTANCE_VOXELS // len(truths), MOST_INSTANCE_VOXELS)
        searched = [truth.densest(most) for truth in truths]
    else:
        searched = [truth.middle(SEMANTIC_VOXELS // len(truths)) for truth in truths]
    tuned = tune(label, [truth.load() for truth in searched], INSTANCE_WAYS, workers)
    scored = [truth.middle(MOST_SCORED) for truth in truths]
    if any(a.grid != b.grid for a, b in zip(searched, scored, strict=True)):
        plain = plain_settings(label)
        found, half = score_each(label, (t.load() for t in scored), [tuned["settings"], plain])
        tuned |= {"score": found["score"], "counts": found["counts"]}
        tuned["score_at_half"] = half["score"]
    return tuned


def _validation_crops(datasplits: Sequence[Path], everywhere: bool) -> list[ValidationCrop]:
    """Crops that validate in all datasplits, or in any."""
    splits = []
    for path in datasplits:
        rows = read_datasplit(path, None)
        listed = frozenset(label for *_, annotated in rows for label in annotated)
        crops = [
            ValidationCrop.of(folder, listed - set(annotated))
            for usage, _, folder, annotated in rows
            if usage == "validate"
        ]
        splits.append({crop.name: crop for crop in crops})
    merged = {name: crop for split in reversed(splits) for name, crop in split.items()}
    return [
        crop for name, crop in merged.items()
        if not everywhere or all(name in split for split in splits)
    ]  # fmt: skip


def _overall(classes: dict[str, Any]) -> dict[str, float]:
    """Class means and their geometric mean, as the official score takes them."""
    instance = [value["score"] for label, value in classes.items() if is_instance(label)]
    semantic = [value["score"] for label, value in classes.items() if not is_instance(label)]
    means = [_mean(instance), _mean(semantic)]
    return {
        "overall_instance_score": means[0],
        "overall_semantic_score": means[1],
        "overall_score": math.sqrt(means[0] * means[1]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
