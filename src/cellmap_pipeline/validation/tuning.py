"""Tuning: the post-processing settings with the best official score on validation crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES, auxiliary_kinds
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.rules.base import Counts
from cellmap_pipeline.scoring.summary import Scores
from cellmap_pipeline.segmentation import method_settings
from cellmap_pipeline.segmentation.methods import SearchSpace, Settings
from cellmap_pipeline.validation.case_fragments import CaseFragments
from cellmap_pipeline.validation.cases import LoadedCase
from cellmap_pipeline.validation.evaluators import Estimator, Scorer, Search, counts_of
from cellmap_pipeline.validation.levels import PROBABILITY_LEVELS, LevelScores, threshold_at_level
from cellmap_pipeline.validation.search import (
    expected_steps,
    plain_settings,
    search_instances,
    search_semantic,
)

# Distance between the points of a semantic label's curve.
CURVE_STEP_LEVELS = 5
# Instance settings are first tried on this share of each case, but on so many voxels at least.
SCREENED_SHARE = 1 / 8
MIN_SCREENED_VOXELS = 60**3
# Voxels of the fragments that are kept: those of the promising settings are scored next.
MAX_KEPT_VOXELS = 192_000_000
# Work of the search for each part of the cases, whose results it shares, relative to the first one.
SHARED_SEARCH_WORK = 1 / 6


def tune(
    search: Search,
    cases: Sequence[LoadedCase],
    budget: int | None = None,
    parts: Sequence[Sequence[int]] = (),
) -> Scores:
    """Search the settings for `label` that score best on all cases together.

    The values to try are those of `method_settings.search_spaces`. For semantic labels, the search
    starts at the exact optimum of all 256 thresholds; then one setting after another is moved as
    long as that improves the score. For instances, the settings that find fragments are varied in
    the same way for each method, by an estimate of the best score that any way to assemble the
    fragments can reach (`estimates`) in a part of each case. The promising ones are estimated on
    the whole cases, the best few of them are scored in full, then the neighbors of the winner. The
    same input gives the same result, with any number of workers.

    With `parts`, the search is repeated for each part on the cases of all others. It shares the
    results of each case with the other searches, and the values to try, which depend on all cases.

    Parameters
    ----------
    search
        The label, the rules, and the results of the same search so far, which are not computed
        again.
    cases
        Crops with probabilities and ground truth.
    budget
        Maximum number of settings to try in each search; for instances, of settings that find
        fragments, shared among the methods. None means no limit.
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
    label, rules, progress = search.label, search.rules, search.progress
    if not cases:
        raise InputError(f"{label}: there is no validation crop to tune post-processing on")
    if any(label not in case.channels for case in cases):
        raise InputError(f"{label}: a validation crop has no prediction of it to tune on")
    predicted = [
        kind
        for kind in AUXILIARY_SUFFIXES
        if all(kind in auxiliary_kinds(label, case.channels) for case in cases)
    ]
    spaces = _search_spaces(label, cases, predicted)
    fragments = CaseFragments(label, cases, MAX_KEPT_VOXELS)
    scorer = Scorer(search, cases, fragments)
    levels = LevelScores(label, cases, rules)
    screened = cases
    if is_instance(label):
        screened = [case.densest_part(screened_voxels(case.truth.size)) for case in cases]
    n_screened, n_voxels = (sum(case.truth.size for case in group) for group in (screened, cases))
    steps = expected_steps(label, spaces, budget, n_screened, n_voxels)
    progress.expect(n_voxels, *steps)
    for _ in parts:
        progress.expect(*(round(SHARED_SEARCH_WORK * voxels) for voxels in steps))
    at_half = scorer.score([plain_settings(label)])[0]
    progress.end_step()
    search_on: Callable[[Sequence[int]], Settings]
    if is_instance(label):
        screener = estimator = Estimator("estimate", search, cases, fragments, spaces)
        if n_screened < n_voxels:
            none_kept = CaseFragments(label, screened, max_kept_voxels=0)
            screener = Estimator("screen", search, screened, none_kept, spaces)
        search_on = partial(
            search_instances, label, scorer, screener, estimator, spaces, budget, progress
        )
    else:
        space = spaces["threshold"]
        search_on = partial(search_semantic, label, scorer, levels, space, budget, progress)
    occurs = [bool(case.where_known(case.truth).any()) for case in cases]

    def tuned_on(indices: Sequence[int]) -> Settings:
        if any(occurs[i] for i in indices):
            return search_on(indices)
        for _ in steps:
            progress.end_step()
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


def screened_voxels(voxels: int) -> int:
    """Return on how many voxels of a case of `voxels` instance settings are screened."""
    return min(voxels, max(MIN_SCREENED_VOXELS, round(SCREENED_SHARE * voxels)))


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


def score_each(
    search: Search, cases: Iterable[LoadedCase], candidates: Sequence[Sequence[Settings]]
) -> list[Scores]:
    """Return the pooled `score`, `official_score`, `counts` and `by_case` of each candidate.

    Parameters
    ----------
    search
        The label and the rules.
    cases
        Cases; an iterator lets only one of them at a time be in memory.
    candidates
        Each with the settings by case.

    Returns
    -------
    Scores of each candidate, as those of `tune`.
    """
    label, rules, instance = search.label, search.rules, is_instance(search.label)
    in_tests: list[list[Counts]] = [[] for _ in candidates]
    official = [Counts()] * len(candidates)
    for i, case in enumerate(cases):
        scorer = Scorer(search, [case], CaseFragments(label, [case], 0))
        for n, of_candidate in enumerate(candidates):
            numbers = search.results.get("whole", of_candidate[i], i)
            if numbers is None:
                both = scorer.case_counts(of_candidate[i], 0, official=True)
                numbers = np.array([astuple(counts) for counts in both])
                search.results.add("whole", of_candidate[i], i, numbers)
                search.progress.advance(case.truth.size)
            counts, own_counts = map(counts_of, numbers)
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
