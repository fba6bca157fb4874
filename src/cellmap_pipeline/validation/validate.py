"""Validation: post-processing is tuned on the predictions of validation crops, and scored."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.plan.validation import ValidationTask
from cellmap_pipeline.scoring.rules.base import Rules, mean
from cellmap_pipeline.scoring.summary import Scores
from cellmap_pipeline.segmentation.methods import Settings
from cellmap_pipeline.validation.case_results import CaseResults, fingerprint_of_cases
from cellmap_pipeline.validation.cases import LoadedCase, ValidationCase, find_cases
from cellmap_pipeline.validation.evaluators import Search
from cellmap_pipeline.validation.progress import TuningProgress
from cellmap_pipeline.validation.search import plain_settings
from cellmap_pipeline.validation.tuning import score_each, tune

log = logging.getLogger(__name__)

# Voxels on which settings are searched, all crops together.
MAX_SEMANTIC_VOXELS = 48_000_000
MAX_INSTANCE_VOXELS = 16_000_000
# Threads work on several crops at once, so the part of a single crop is limited, too.
MAX_INSTANCE_VOXELS_PER_CROP = 8_000_000
# Settings that find fragments, all methods together.
MAX_FRAGMENT_SETTINGS = 150
MAX_SCORED_VOXELS_PER_CROP = 28_000_000
# Crops with a label from which its score is cross-fitted: settings are tuned on two or more.
MIN_CROSS_FITTED_CROPS = 4
# Parts that the crops are cut into. Searches share the results of crops, so that three parts add
# about half to the time of tuning instances; two take as long, and four double it.
N_PARTS = 3


def validate(
    tasks: Mapping[str, Sequence[ValidationTask]],
    datasplits: Mapping[str, Sequence[Path]],
    voxel_size: Sequence[float] | None,
    everywhere: bool,
    rules: Rules,
    workers: int = 1,
    state: Path | None = None,
) -> tuple[Scores, dict[str, list[Settings]]]:
    """Tune the post-processing of each label on validation crops, and score it.

    Parameters
    ----------
    tasks
        Tasks by label.
    datasplits
        By training, the datasplits of its networks, whose validation crops are used.
    voxel_size
        nm, for tasks without `voxel_sizes`; None means each crop's finest.
    everywhere
        Whether to use only crops that validate in all of a task's `trainings`, instead of any.
    rules
        The evaluator's rules.
    workers
        Number of threads.
    state
        Folder for the results so far, bound to these arguments (`run.resume`), from which a job
        that was killed resumes. None keeps none.

    Returns
    -------
    scores
        `rules`: their name; `classes`: per label `score`, `official_score`, `score_at_half` (means
        over its voxel sizes), `cross_fitted_score` (None where one of them has none), `parts`
        (parts that it is composed of, if any) and `voxel_sizes`: per voxel size the results of
        `tuning.tune`, `measured_at` (the ground truth's voxel size, nm), `crops` and `by_crop`, the
        counts of each crop, with settings that were not tuned on it where there is a
        `cross_fitted_score`; `overall_instance_score`, `overall_semantic_score`, `overall_score` as
        official.
    settings
        Per label a list of `voxel_size` and the tuned `settings`.
    """
    # Most labels use the same datasplits.
    crops_of = cache(partial(_validation_crops, everywhere=everywhere))
    classes: Scores = {}
    settings: dict[str, list[Settings]] = {}
    for number, (label, label_tasks) in enumerate(tasks.items(), 1):
        description = f"label {number} of {len(tasks)}, {label}"
        measured = []
        for task in label_tasks:
            crops = crops_of(tuple(tuple(datasplits[training]) for training in task.trainings))
            sizes: Sequence[Sequence[float] | None] = task.voxel_sizes or [voxel_size]
            for size, caps_nm in zip(sizes, task.caps_nm or [()], strict=True):
                cases = find_cases(label, size, task.sources, crops, caps_nm)
                with TuningProgress(description if cases else None) as progress:
                    search = Search(label, rules, workers, progress=progress)
                    found = _validate_at_size(search, size, cases, state)
                measured += [found] if found else []
        if not measured:
            log.warning(
                "%s occurs in no validation crop: it is not scored, and keeps the default settings",
                label,
            )
            continue
        settings[label] = [
            {"voxel_size": entry["voxel_size"], "settings": entry.pop("settings")}
            for entry in measured
        ]
        parts = list(label_tasks[0].sources[0].parts)
        cross_fitted = [entry["cross_fitted_score"] for entry in measured]
        classes[label] = {
            name: mean([entry[name] for entry in measured])
            for name in ("score", "official_score", "score_at_half")
        } | {
            "cross_fitted_score": None if None in cross_fitted else mean(cross_fitted),
            "parts": parts,
            "voxel_sizes": measured,
        }
        log.info(
            "%s: %.4f (0.5: %.4f)", label, classes[label]["score"], classes[label]["score_at_half"]
        )
    return {"rules": rules.name, "classes": classes} | _overall(classes, rules), settings


def _validate_at_size(
    search: Search,
    voxel_size: Sequence[float] | None,
    cases: Sequence[ValidationCase],
    state: Path | None,
) -> Scores | None:
    """Tune and score a label at a voxel size; None if it occurs in no crop."""
    if not cases:
        return None
    sizes = [case.grid.voxel_size for case in cases]
    tuned = _tune_and_score(search, cases, state)
    if not tuned["counts"]["tp"] + tuned["counts"]["fn"]:
        # Its score would be 1 or 0, whatever the prediction is worth.
        return None
    crops = [case.crop for case in cases]
    return tuned | {
        "voxel_size": list(voxel_size or min(sizes)),
        "measured_at": list(min(sizes)),
        "crops": crops,
        "by_crop": dict(zip(crops, tuned.pop("by_case"), strict=True)),
    }


def _tune_and_score(
    search: Search, cases: Sequence[ValidationCase], state: Path | None = None
) -> Scores:
    """Search settings on parts of large crops, and score them on larger parts."""
    if is_instance(search.label):
        max_voxels = min(MAX_INSTANCE_VOXELS // len(cases), MAX_INSTANCE_VOXELS_PER_CROP)
        searched = [case.densest_box(max_voxels) for case in cases]
        scored = [case.densest_box(MAX_SCORED_VOXELS_PER_CROP) for case in cases]
    else:
        max_voxels = MAX_SEMANTIC_VOXELS // len(cases)
        searched = [case.central_box(max_voxels) for case in cases]
        max_voxels = max(max_voxels, MAX_SCORED_VOXELS_PER_CROP)
        scored = [case.central_box(max_voxels) for case in cases]
    loaded = [case.load() for case in searched]
    if state is None:
        return _tune_and_score_loaded(search, cases, searched, scored, loaded)
    # The same label is tuned at several voxel sizes, and on different predictions.
    # What is scored may be larger than what is searched.
    whole = (b.load() for a, b in zip(searched, scored, strict=True) if a.grid != b.grid)
    name = f"{search.label}-{fingerprint_of_cases(chain(loaded, whole))}"
    finished = state / f"{name}.json"
    if not finished.exists():
        search.results = CaseResults(state / f"{name}.jsonl")
        write_json(finished, _tune_and_score_loaded(search, cases, searched, scored, loaded))
    return json.loads(finished.read_text())


def _tune_and_score_loaded(
    search: Search,
    cases: Sequence[ValidationCase],
    searched: Sequence[ValidationCase],
    scored: Sequence[ValidationCase],
    loaded: Sequence[LoadedCase],
) -> Scores:
    parts = _cross_fitted_parts(cases, loaded)
    tuned = tune(search, loaded, MAX_FRAGMENT_SETTINGS, parts)
    settings_by_case = tuned.pop("settings_by_case")
    if any(a.grid != b.grid for a, b in zip(searched, scored, strict=True)):
        everywhere = [
            [settings] * len(cases)
            for settings in (tuned["settings"], plain_settings(search.label))
        ]
        voxels = sum(case.grid.size for case in scored)
        search.progress.expect(len(everywhere) * voxels)
        best, plain, cross_fitted = score_each(
            search, (case.load() for case in scored), [*everywhere, settings_by_case]
        )
        search.progress.end_step()
        tuned |= best | {"score_at_half": plain["score"], "by_case": cross_fitted["by_case"]}
        if parts:
            tuned["cross_fitted_score"] = cross_fitted["score"]
    return tuned


def _cross_fitted_parts(
    cases: Sequence[ValidationCase], loaded: Sequence[LoadedCase]
) -> list[list[int]]:
    """Cut the cases into parts, in turn by name, those with the label first; none if they are few.

    Returns
    -------
    Indices of the cases of each part.
    """
    occurs = [bool(case.where_known(case.truth).any()) for case in loaded]
    if sum(occurs) < MIN_CROSS_FITTED_CROPS:
        return []
    order = sorted(range(len(cases)), key=lambda i: (not occurs[i], cases[i].crop))
    return [order[n::N_PARTS] for n in range(N_PARTS)]


def _validation_crops(
    datasplits: Sequence[Sequence[Path]], everywhere: bool
) -> list[ValidationCrop]:
    """Return the crops that validate in all trainings, or in any, given their datasplits."""
    splits = []
    for paths in datasplits:
        of_training: dict[str, ValidationCrop] = {}
        for path in paths:
            rows = read_datasplit(path, None)
            listed = frozenset(label for row in rows for label in row.classes)
            crops = [
                ValidationCrop.of(row.labels, listed - set(row.classes))
                for row in rows
                if row.usage == "validate"
            ]
            of_training |= {crop.name: crop for crop in crops}
        splits.append(of_training)
    merged = {name: crop for split in reversed(splits) for name, crop in split.items()}
    return [
        crop for name, crop in merged.items()
        if not everywhere or all(name in split for split in splits)
    ]  # fmt: skip


def _overall(classes: Scores, rules: Rules) -> dict[str, float]:
    """Compute class means and the overall score, as the evaluator does."""
    instance = [value["score"] for label, value in classes.items() if is_instance(label)]
    semantic = [value["score"] for label, value in classes.items() if not is_instance(label)]
    return {
        "overall_instance_score": mean(instance),
        "overall_semantic_score": mean(semantic),
        "overall_score": rules.overall_score(instance, semantic),
    }
