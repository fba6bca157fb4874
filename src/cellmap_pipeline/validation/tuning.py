"""Tuning: the post-processing settings with the best official score on validation crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES, auxiliary_kinds
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.rules.base import Counts, Rules
from cellmap_pipeline.scoring.summary import Scores
from cellmap_pipeline.segmentation import method_settings
from cellmap_pipeline.segmentation.landscapes import smooth
from cellmap_pipeline.segmentation.method_settings import fragment_settings
from cellmap_pipeline.segmentation.methods import SearchSpace, Settings
from cellmap_pipeline.validation.cases import LoadedCase
from cellmap_pipeline.validation.evaluators import Estimator, Scorer

# Number of values of a uint8 probability.
PROBABILITY_LEVELS = 256
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
) -> Scores:
    """Search the settings for `label` that score best on all cases together.

    The values to try are those of `method_settings.search_spaces`. For semantic labels, the search
    starts at the exact optimum of all 256 thresholds; then one setting after another is moved as
    long as that improves the score. For instances, the settings that find fragments are varied in
    the same way for each method, by an estimate of the best score that any way to assemble the
    fragments can reach (`estimates`); the best few are scored in full, then the neighbors of the
    winner. The same input gives the same result, with any number of workers.

    Parameters
    ----------
    label
        Name of the label.
    cases
        Crops with probabilities and ground truth.
    rules
        The evaluator's rules.
    budget
        Maximum number of settings to try; for instances, of settings that find fragments, shared
        among the methods. None means no limit.
    workers
        Number of threads.

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
    plain = plain_settings(label)
    at_half = scorer.score([plain])[0]
    spaces = method_settings.search_spaces(label, predicted, _mean_voxel_size(cases))
    for space in spaces.values():
        space["threshold"] = _informative_thresholds(space["threshold"], label, cases)
        largest = _largest_object_nm3(cases)
        space["min_size_nm3"] = [v for v in space["min_size_nm3"] if v <= largest]
    if not any(case.where_known(case.truth).any() for case in cases):
        settings = method_settings.complete(label, {}, predicted)
    elif is_instance(label):
        settings = _search_instances(label, cases, rules, scorer, plain, spaces, budget, workers)
    else:
        settings = _search_semantic(label, cases, rules, scorer, spaces["threshold"], budget)
    best = scorer.score([settings])[0]
    return {
        "settings": settings,
        "score": best,
        "official_score": rules.score(scorer.official_counts(settings), is_instance(label)),
        "score_at_half": at_half,
        "curve": _instance_curve(label, cases, scorer, settings)
        if is_instance(label)
        else _semantic_curve(label, cases, rules),
        "counts": _fields(label, scorer.counts(settings), rules),
    }


def plain_settings(label: str) -> Settings:
    """Return the settings of a threshold of 0.5 and connected components."""
    return method_settings.defaults(method_settings.methods_for(label)[0]) | {"min_size_nm3": 0.0}


def score_each(
    label: str, cases: Iterable[LoadedCase], candidates: Sequence[Settings], rules: Rules
) -> list[Scores]:
    """Return the pooled `score`, `official_score` and `counts` of each candidate, as `tune` does.

    `cases` may be an iterator, so that only one case at a time is in memory.
    """
    in_tests, official = [Counts()] * len(candidates), [Counts()] * len(candidates)
    for case in cases:
        scorer = Scorer(label, [case], rules, workers=1)
        for i, settings in enumerate(candidates):
            counts, own_counts = scorer.case_counts(settings, 0, official=True)
            in_tests[i] += counts
            official[i] += own_counts
    return [
        {
            "score": rules.score(counts, is_instance(label)),
            "official_score": rules.score(own_counts, is_instance(label)),
            "counts": _fields(label, counts, rules),
        }
        for counts, own_counts in zip(in_tests, official, strict=True)
    ]


def _fields(label: str, counts: Counts, rules: Rules) -> Scores:
    return rules.object_fields(counts) if is_instance(label) else rules.voxel_fields(counts)


def _search_semantic(
    label: str,
    cases: Sequence[LoadedCase],
    rules: Rules,
    scorer: Scorer,
    space: SearchSpace,
    budget: int | None,
) -> Settings:
    scorer.limit(budget)
    base = method_settings.defaults("threshold")
    starts = []
    for nm in space["smooth_nm"]:
        by_level = _scores_by_level(label, cases, rules, nm)
        best = np.flatnonzero(by_level[1:] == by_level[1:].max()) + 1
        # The middle one of equally good levels is farthest from where the score decreases.
        level = int(best[best.size // 2])
        starts.append(base | {"threshold": _threshold_at_level(level), "smooth_nm": nm})
    scores = scorer.score(starts)
    first = int(np.argmax(scores))
    order = ("min_size_nm3", "fill_holes", "threshold")
    found = _hill_climb(scorer.score, starts[first], {n: space[n] for n in order}, (4, 2, 1))
    scorer.limit(None)
    return found


def _search_instances(
    label: str,
    cases: Sequence[LoadedCase],
    rules: Rules,
    scorer: Scorer,
    plain: Settings,
    spaces: Mapping[str, SearchSpace],
    budget: int | None,
    workers: int,
) -> Settings:
    estimator = Estimator(label, cases, rules, spaces, workers)
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
    finalists = [plain, *estimator.finalists()]
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


def _semantic_curve(
    label: str, cases: Sequence[LoadedCase], rules: Rules
) -> list[dict[str, float]]:
    by_level = _scores_by_level(label, cases, rules)
    return [
        {"threshold": _threshold_at_level(k), "score": float(by_level[k])}
        for k in range(1, PROBABILITY_LEVELS, CURVE_STEP_LEVELS)
    ]


def _scores_by_level(
    label: str, cases: Sequence[LoadedCase], rules: Rules, smooth_nm: float = 0.0
) -> NDArray[np.float64]:
    """Return the pooled score by level (0..255) from which voxels count as inside."""
    pooled = [Counts()] * PROBABILITY_LEVELS
    for case in cases:
        probability = np.rint(smooth(case.channels[label], case.voxel_size, smooth_nm))
        level, truth = probability.astype(np.uint8), case.truth > 0
        if case.known is not None:
            level, truth = level[case.known], truth[case.known]
        inside = np.bincount(level[truth], minlength=PROBABILITY_LEVELS)
        everywhere = np.bincount(level.ravel(), minlength=PROBABILITY_LEVELS)
        tp = inside[::-1].cumsum()[::-1]
        fp = everywhere[::-1].cumsum()[::-1] - tp
        fn = inside.sum() - tp
        for k, voxels in enumerate(zip(tp.tolist(), fp.tolist(), fn.tolist(), strict=True)):
            pooled[k] += rules.count_voxels(*voxels)
    return np.array([rules.score(counts, instance=False) for counts in pooled])


def _threshold_at_level(level: int) -> float:
    """Return a threshold that voxels of `level` reach and lower ones do not, despite rounding."""
    return round((level - 0.5) / 255, 4)


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
