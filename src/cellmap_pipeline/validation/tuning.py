"""Tuning: the post-processing settings with the best official score on validation crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES, auxiliary_kinds
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.rules.base import Counts, Rules
from cellmap_pipeline.scoring.summary import Scores
from cellmap_pipeline.segmentation import method_settings
from cellmap_pipeline.segmentation.method_settings import fragment_settings
from cellmap_pipeline.segmentation.methods import SearchSpace, Settings
from cellmap_pipeline.validation.cases import LoadedCase
from cellmap_pipeline.validation.evaluators import Estimator, Scorer
from cellmap_pipeline.validation.levels import PROBABILITY_LEVELS, LevelScores, threshold_at_level

# Distance between the points of a semantic label's curve.
CURVE_STEP_LEVELS = 5
# Values at which the search starts in addition to the defaults.
THRESHOLD_STARTS = (0.25, 0.75)
SEED_THRESHOLD_STARTS = (0.1, 0.5)


def tune(
    label: str,
    cases: Sequence[LoadedCase],
    rules: Rules,
    budget: int | None = None,
    workers: int = 1,
    parts: Sequence[Sequence[int]] = (),
) -> Scores:
    """Search the settings for `label` that score best on all cases together.

    The values to try are those of `method_settings.search_spaces`. For semantic labels, the search
    starts at the exact optimum of all 256 thresholds; then one setting after another is moved as
    long as that improves the score. For instances, the settings that find fragments are varied in
    the same way for each method, by an estimate of the best score that any way to assemble the
    fragments can reach (`estimates`); the best few are scored in full, then the neighbors of the
    winner. The same input gives the same result, with any number of workers.

    With `parts`, the search is repeated for each part on the cases of all others. It shares the
    results of each case with the other searches, and the values to try, which depend on all cases.

    Parameters
    ----------
    label
        Name of the label.
    cases
        Crops with probabilities and ground truth.
    rules
        The evaluator's rules.
    budget
        Maximum number of settings to try in each search; for instances, of settings that find
        fragments, shared among the methods. None means no limit.
    workers
        Number of threads.
    parts
        Indices of the cases that are scored together with settings tuned on the others; empty
        means that no cases are.

    Returns
    -------
    `settings`
        The best settings, complete.
    `score`
        Their score, pooled over the cases as the official evaluator does, with distances as they
        count in the test crops. In a crop that the evaluator would skip for too many objects, all
        true objects count as missed.
    `official_score`
        Their score with distances as they count in the cases' own crops.
    `score_at_half`
        The score of a threshold of 0.5 and connected components (`plain_settings`).
    `curve`
        List of `threshold` and `score`; for instances with the best other settings, for semantic
        labels with the threshold alone.
    `counts`
        Counts that `score` is computed from (tp, fp, fn, …), as `scores.json` has them.
    `auxiliary`
        The kinds of auxiliary channels that all cases have.
    `by_case`
        Counts of each case with the settings of `settings_by_case`.
    `settings_by_case`
        The settings tuned on the parts without the case; without `parts`, `settings`.
    `cross_fitted_score`
        The score pooled over `by_case`; None without `parts`.

    If the ground truth of all cases is empty, there is nothing to tune on, and the settings are the
    defaults.

    Raises
    ------
    InputError
        There are no cases, or they lack a channel.
    """
    if not cases:
        raise InputError(f"{label}: there is no validation crop to tune post-processing on")
    if any(label not in case.channels for case in cases):
        raise InputError(f"{label}: a validation crop has no prediction of it to tune on")
    predicted = [
        kind
        for kind in AUXILIARY_SUFFIXES
        if all(kind in auxiliary_kinds(label, case.channels) for case in cases)
    ]
    scorer = Scorer(label, cases, rules, workers)
    at_half = scorer.score([plain_settings(label)])[0]
    spaces = _search_spaces(label, cases, predicted)
    levels = LevelScores(label, cases, rules)
    search: Callable[[Sequence[int]], Settings]
    if is_instance(label):
        estimator = Estimator(label, cases, rules, spaces, workers)
        search = partial(_search_instances, label, scorer, estimator, spaces, budget)
    else:
        search = partial(_search_semantic, label, scorer, levels, spaces["threshold"], budget)
    occurs = [bool(case.where_known(case.truth).any()) for case in cases]

    def tuned_on(indices: Sequence[int]) -> Settings:
        if any(occurs[i] for i in indices):
            return search(indices)
        return method_settings.complete(label, {}, predicted)

    every = range(len(cases))
    settings = tuned_on(every)
    settings_by_case, by_case = [settings] * len(cases), scorer.counts_by_case(settings)
    for part in parts:
        of_part = tuned_on([i for i in every if i not in part])
        for i, counts in zip(part, scorer.on(part).counts_by_case(of_part), strict=True):
            settings_by_case[i], by_case[i] = of_part, counts
    best = scorer.score([settings])[0]
    return {
        "settings": settings,
        "score": best,
        "official_score": rules.score(scorer.official_counts(settings), is_instance(label)),
        "score_at_half": at_half,
        "curve": _instance_curve(label, cases, scorer, settings)
        if is_instance(label)
        else _semantic_curve(levels.scores(every)),
        "counts": rules.fields(scorer.counts(settings), is_instance(label)),
        "auxiliary": predicted,
        "by_case": [rules.fields(counts, is_instance(label)) for counts in by_case],
        "settings_by_case": settings_by_case,
        "cross_fitted_score": rules.score(sum(by_case, Counts()), is_instance(label))
        if parts
        else None,
    }


def _search_spaces(
    label: str, cases: Sequence[LoadedCase], predicted: Sequence[str]
) -> dict[str, SearchSpace]:
    """Return the values to try, by method, without those that make no difference in the cases."""
    spaces = method_settings.search_spaces(label, predicted, _mean_voxel_size(cases))
    largest = _largest_object_nm3(cases)
    for space in spaces.values():
        space["threshold"] = _informative_thresholds(space["threshold"], label, cases)
        space["min_size_nm3"] = [v for v in space["min_size_nm3"] if v <= largest]
    return spaces


def plain_settings(label: str) -> Settings:
    """Return the settings of a threshold of 0.5 and connected components."""
    return method_settings.defaults(method_settings.methods_for(label)[0]) | {"min_size_nm3": 0.0}


def score_each(
    label: str, cases: Iterable[LoadedCase], candidates: Sequence[Sequence[Settings]], rules: Rules
) -> list[Scores]:
    """Return the pooled `score`, `official_score`, `counts` and `by_case` of each candidate.

    Parameters
    ----------
    label
        Name of the label.
    cases
        Cases; an iterator lets only one of them at a time be in memory.
    candidates
        Each with the settings by case.
    rules
        The evaluator's rules.

    Returns
    -------
    Scores of each candidate, as those of `tune`.
    """
    instance = is_instance(label)
    in_tests: list[list[Counts]] = [[] for _ in candidates]
    official = [Counts()] * len(candidates)
    for i, case in enumerate(cases):
        scorer = Scorer(label, [case], rules, workers=1)
        found: list[tuple[Settings, tuple[Counts, ...]]] = []
        for n, of_candidate in enumerate(candidates):
            settings = of_candidate[i]
            known = [counts for other, counts in found if other == settings]
            counts, own_counts = (known or [scorer.case_counts(settings, 0, official=True)])[0]
            found.append((settings, (counts, own_counts)))
            in_tests[n].append(counts)
            official[n] += own_counts
    return [
        {
            "score": rules.score(sum(by_case, Counts()), instance),
            "official_score": rules.score(own_counts, instance),
            "counts": rules.fields(sum(by_case, Counts()), instance),
            "by_case": [rules.fields(counts, instance) for counts in by_case],
        }
        for by_case, own_counts in zip(in_tests, official, strict=True)
    ]


def _search_semantic(
    label: str,
    scorer: Scorer,
    levels: LevelScores,
    space: SearchSpace,
    budget: int | None,
    indices: Sequence[int],
) -> Settings:
    """Search the settings of a semantic label on the cases with these indices."""
    scorer = scorer.on(indices)
    # They are always scored, and cost nothing of the budget.
    scorer.score([plain_settings(label)])
    scorer.limit(budget)
    base = method_settings.defaults("threshold")
    starts = []
    for nm in space["smooth_nm"]:
        by_level = levels.scores(indices, nm)
        best = np.flatnonzero(by_level[1:] == by_level[1:].max()) + 1
        # The middle one of equally good levels is farthest from where the score decreases.
        level = int(best[best.size // 2])
        starts.append(base | {"threshold": threshold_at_level(level), "smooth_nm": nm})
    scores = scorer.score(starts)
    first = int(np.argmax(scores))
    order = ("min_size_nm3", "fill_holes", "threshold")
    return _hill_climb(scorer.score, starts[first], {n: space[n] for n in order}, (4, 2, 1))


def _search_instances(
    label: str,
    scorer: Scorer,
    estimator: Estimator,
    spaces: Mapping[str, SearchSpace],
    budget: int | None,
    indices: Sequence[int],
) -> Settings:
    """Search the settings of an instance label on the cases with these indices."""
    scorer, estimator = scorer.on(indices), estimator.on(indices)
    for method, space in spaces.items():
        estimator.limit(None if budget is None else max(1, budget // len(spaces)))
        fragment_space = {n: v for n, v in space.items() if n in fragment_settings(method)}
        base = method_settings.defaults(method)
        starts = [
            base,
            *(
                base | {"threshold": t}
                for t in THRESHOLD_STARTS
                if t in fragment_space["threshold"]
            ),
        ]
        if "seed_threshold" in fragment_space:
            starts += [base | {"seed_threshold": t} for t in SEED_THRESHOLD_STARTS]
        scores = estimator.score(starts)
        _hill_climb(estimator.score, starts[int(np.argmax(scores))], fragment_space, (2, 1))
    finalists = [plain_settings(label), *estimator.finalists()]
    scores = scorer.score(finalists)
    winner = finalists[int(np.argmax(scores))]
    space, finding = spaces[winner["method"]], fragment_settings(winner["method"])
    assembly_space = {n: space[n] for n in reversed(space) if n not in finding}
    return _hill_climb(scorer.score, winner, assembly_space, (1,))


def _hill_climb(
    score: Callable[[Sequence[Settings]], list[float]],
    settings: Settings,
    space: SearchSpace,
    steps: Iterable[int],
) -> Settings:
    """Move one setting after another along its values, as long as a move improves the score."""
    best = score([settings])[0]
    for step in steps:
        moved = True
        while moved:
            moved = False
            for name, values in space.items():
                moves = _neighboring_values(values, settings[name], step)
                candidates = [settings | {name: v} for v in moves]
                for candidate, value in zip(candidates, score(candidates), strict=True):
                    if value > best:
                        settings, best, moved = candidate, value, True
    return settings


def _neighboring_values(values: Sequence[Any], current: Any, step: int) -> list[Any]:
    """Return the values `step` below and above the current one, which may lie between values."""
    if isinstance(current, bool):
        return [not current]
    below = [v for v in values if v < current]
    above = [v for v in values if v > current]
    return below[-step:][:1] + above[:step][-1:]


def _probability_range(label: str, cases: Sequence[LoadedCase]) -> tuple[float, float]:
    """Return the lowest and the highest predicted probability."""
    volumes = [case.channels[label] for case in cases]
    return min(int(v.min()) for v in volumes) / 255, max(int(v.max()) for v in volumes) / 255


def _informative_thresholds(
    thresholds: list[float], label: str, cases: Sequence[LoadedCase]
) -> list[float]:
    """Return the thresholds with different results.

    Those that no voxel reaches are left out; of those that all voxels reach, only the last one up
    to 0.5 remains.
    """
    low, high = _probability_range(label, cases)
    all_inside = [t for t in thresholds if t <= min(low, 0.5)]
    return all_inside[-1:] + [t for t in thresholds if low < t <= high]


def _instance_curve(
    label: str, cases: Sequence[LoadedCase], scorer: Scorer, settings: Settings
) -> list[dict[str, float]]:
    thresholds = sorted({0.1, 0.3, 0.5, 0.7, 0.9, settings["threshold"]})
    # If all voxels have probability 1, as for cells that fill a volume, all thresholds score alike.
    all_inside = _probability_range(label, cases)[0] == 1
    tried = [settings["threshold"] if all_inside else t for t in thresholds]
    scores = scorer.score([settings | {"threshold": t} for t in tried])
    return [{"threshold": t, "score": s} for t, s in zip(thresholds, scores, strict=True)]


def _semantic_curve(by_level: NDArray[np.float64]) -> list[dict[str, float]]:
    return [
        {"threshold": threshold_at_level(k), "score": float(by_level[k])}
        for k in range(1, PROBABILITY_LEVELS, CURVE_STEP_LEVELS)
    ]


def _largest_object_nm3(cases: Sequence[LoadedCase]) -> float:
    """Return the volume of the largest true object, nm³."""
    volumes = [0.0]
    for case in cases:
        ids, counts = np.unique(case.where_known(case.truth), return_counts=True)
        volumes += (counts[ids != 0] * math.prod(case.voxel_size)).tolist()
    return max(volumes)


def _mean_voxel_size(cases: Sequence[LoadedCase]) -> list[float]:
    """Return the geometric mean over the cases, nm."""
    logs = np.log([list(case.voxel_size) for case in cases])
    return [float(v) for v in np.exp(logs.mean(axis=0))]
