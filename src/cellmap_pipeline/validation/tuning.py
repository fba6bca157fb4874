"""Post-processing settings that score best on validation crops, by the official metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import FURTHER, further
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.summary import combine
from cellmap_pipeline.segmentation import methods as postprocess
from cellmap_pipeline.segmentation.fragments import smoothed
from cellmap_pipeline.segmentation.methods import FRAGMENT_SETTINGS, Settings
from cellmap_pipeline.validation.cases import Case
from cellmap_pipeline.validation.evaluators import Estimator, Grid, Scorer

LEVELS = 256  # of a probability
CURVE_STEP = 5  # levels between the points of a semantic label's curve
SEED_STARTS = (0.1, 0.5)  # where the search starts besides the defaults
THRESHOLD_STARTS = (0.25, 0.75)


def tune(
    label: str, cases: Sequence[Case], budget: int | None = None, workers: int = 1
) -> dict[str, Any]:
    """Search the settings for `label` that score best on all cases together.

    The values tried are those of `postprocess.candidates`. Semantic labels start at the best of
    all 256 thresholds, exactly; then one setting after the other is moved as long as that helps.
    For instances each method's way to find fragments is varied likewise, judging what could be
    put together from them by estimates (`tuning_instances`); the best few are scored in full, and
    the winner's neighbours after it. The same input gives the same result, with any number of
    workers.

    Parameters
    ----------
    cases
        Crops with probabilities and truth.
    budget
        Most settings to try, for instances most ways to find fragments, shared among the methods;
        None: no limit.
    workers
        Threads.

    Returns
    -------
    `settings`
        The best, complete.
    `score`
        Theirs, as the official evaluator pools it over the cases: IoU for semantic labels, else the
        root of F1 times the normalised Hausdorff distance. A crop that the evaluator would skip for
        too many objects counts as if nothing in it were found.
    `score_at_half`
        The same for a plain threshold of 0.5, and connected components.
    `curve`
        list of `threshold` and `score`; for instances with the other settings as found, for
        semantic labels with nothing but the threshold.
    `counts`
        What `score` is made of (tp, fp, fn, …).

    Where the truth of all cases is empty there is nothing to tune on, and the settings are the
    defaults.

    Raises
    ------
    InputError
        There are no cases, or a channel of theirs is missing.
    """
    if not cases:
        raise InputError(f"{label}: there is no validation crop to tune post-processing on")
    if any(label not in case.channels for case in cases):
        raise InputError(f"{label}: a validation crop has no prediction of it to tune on")
    predicted = [kind for kind in FURTHER if all(kind in further(label, c.channels) for c in cases)]
    scorer = Scorer(label, cases, workers)
    plain = plain_settings(label)
    at_half = scorer.score([plain])[0]
    grids = postprocess.candidates(label, predicted, _mean_voxel_size(cases))
    for grid in grids.values():
        grid["threshold"] = _telling(grid["threshold"], label, cases)
        grid["min_size_nm3"] = [v for v in grid["min_size_nm3"] if v <= _largest(cases)]
    if not any(case.where_known(case.truth).any() for case in cases):
        settings = postprocess.complete(label, {}, predicted)
    elif is_instance(label):
        settings = _search_instances(label, cases, scorer, plain, grids, budget, workers)
    else:
        settings = _search_semantic(label, cases, scorer, grids["threshold"], budget)
    best = scorer.score([settings])[0]
    return {
        "settings": settings,
        "score": best,
        "score_at_half": at_half,
        "curve": _instance_curve(label, cases, scorer, settings)
        if is_instance(label)
        else _semantic_curve(label, cases),
        "counts": scorer.counts(settings),
    }


def plain_settings(label: str) -> Settings:
    """A threshold of 0.5, and connected components."""
    return postprocess.defaults(postprocess.methods(label)[0]) | {"min_size_nm3": 0.0}


def score_each(label: str, cases: Iterable[Case], many: Sequence[Settings]) -> list[dict[str, Any]]:
    """By settings the `score` pooled over cases, and its `counts`, as `tune` gives them.

    `cases` may be read one at a time.
    """
    per_crop: list[dict[str, Any]] = [{} for _ in many]
    for i, case in enumerate(cases):
        scorer = Scorer(label, [case], workers=1)
        for counted, settings in zip(per_crop, many, strict=True):
            counted[f"crop{i}"] = {label: scorer.case_counts(settings, 0)}
    pooled = [combine(counted)["label_scores"][label] for counted in per_crop]
    name = "combined_score" if is_instance(label) else "iou"
    return [{"score": float(counts[name]), "counts": counts} for counts in pooled]


def _search_semantic(
    label: str, cases: Sequence[Case], scorer: Scorer, grid: Grid, budget: int | None
) -> Settings:
    scorer.limit(budget)
    base = postprocess.defaults("threshold")
    starts = []
    for nm in grid["smooth_nm"]:
        iou = _iou_by_level(label, cases, nm)
        best = np.flatnonzero(iou[1:] == iou[1:].max()) + 1
        level = int(best[best.size // 2])  # far from where it gets worse
        starts.append(base | {"threshold": _threshold(level), "smooth_nm": nm})
    scores = scorer.score(starts)
    first = int(np.argmax(scores))
    order = ("min_size_nm3", "fill_holes", "threshold")
    found = _climb(scorer.score, starts[first], {n: grid[n] for n in order}, (4, 2, 1))
    scorer.limit(None)
    return found


def _search_instances(
    label: str,
    cases: Sequence[Case],
    scorer: Scorer,
    plain: Settings,
    grids: Mapping[str, Grid],
    budget: int | None,
    workers: int,
) -> Settings:
    estimator = Estimator(label, cases, grids, workers)
    for method, grid in grids.items():
        estimator.limit(None if budget is None else max(1, budget // len(grids)))
        ways = {n: values for n, values in grid.items() if n in FRAGMENT_SETTINGS}
        base = postprocess.defaults(method)
        starts = [
            base,
            *(base | {"threshold": t} for t in THRESHOLD_STARTS if t in ways["threshold"]),
        ]
        if "seed_threshold" in ways:
            starts += [base | {"seed_threshold": t} for t in SEED_STARTS]
        scores = estimator.score(starts)
        _climb(estimator.score, starts[int(np.argmax(scores))], ways, (2, 1))
    finalists = [plain, *estimator.best()]
    scores = scorer.score(finalists)
    winner = finalists[int(np.argmax(scores))]
    grid = grids[winner["method"]]
    rest = {n: grid[n] for n in reversed(grid) if n not in FRAGMENT_SETTINGS}
    return _climb(scorer.score, winner, rest, (1,))


def _climb(
    score: Callable[[Sequence[Settings]], list[float]],
    settings: Settings,
    grid: Grid,
    steps: Iterable[int],
) -> Settings:
    """Move one setting after the other along its values, as long as any move helps."""
    best = score([settings])[0]
    for step in steps:
        moved = True
        while moved:
            moved = False
            for name, values in grid.items():
                tries = [settings | {name: v} for v in _beside(values, settings[name], step)]
                for other, value in zip(tries, score(tries), strict=True):
                    if value > best:
                        settings, best, moved = other, value, True
    return settings


def _beside(values: Sequence[Any], current: Any, step: int) -> list[Any]:
    """The values `step` below and above the current one, which need not be among them."""
    if isinstance(current, bool):
        return [not current]
    below = [v for v in values if v < current]
    above = [v for v in values if v > current]
    return below[-step:][:1] + above[:step][-1:]


def _extremes(label: str, cases: Sequence[Case]) -> tuple[float, float]:
    """The lowest and the highest probability that is predicted at all."""
    volumes = [case.channels[label] for case in cases]
    return min(int(v.min()) for v in volumes) / 255, max(int(v.max()) for v in volumes) / 255


def _telling(thresholds: list[float], label: str, cases: Sequence[Case]) -> list[float]:
    """The thresholds that differ in what they find; of those below all voxels the middle one."""
    low, high = _extremes(label, cases)
    all_inside = [t for t in thresholds if t <= min(low, 0.5)]
    return all_inside[-1:] + [t for t in thresholds if low < t <= high]


def _instance_curve(
    label: str, cases: Sequence[Case], scorer: Scorer, settings: Settings
) -> list[dict[str, float]]:
    thresholds = sorted({0.1, 0.3, 0.5, 0.7, 0.9, settings["threshold"]})
    # Where every voxel is surely inside, as in cells that fill a volume, one stands for all.
    same = _extremes(label, cases)[0] == 1
    tried = [settings["threshold"] if same else t for t in thresholds]
    scores = scorer.score([settings | {"threshold": t} for t in tried])
    return [{"threshold": t, "score": s} for t, s in zip(thresholds, scores, strict=True)]


def _semantic_curve(label: str, cases: Sequence[Case]) -> list[dict[str, float]]:
    iou = _iou_by_level(label, cases)
    return [
        {"threshold": _threshold(k), "score": float(iou[k])} for k in range(1, LEVELS, CURVE_STEP)
    ]


def _iou_by_level(label: str, cases: Sequence[Case], smooth_nm: float = 0.0) -> NDArray[np.float64]:
    """Pooled IoU where all voxels of at least this level (0..255) are inside."""
    inside, everywhere = np.zeros(LEVELS), np.zeros(LEVELS)
    for case in cases:
        probability = np.rint(smoothed(case.channels[label], case.voxel_size, smooth_nm))
        level, truth = probability.astype(np.uint8), case.truth > 0
        if case.known is not None:
            level, truth = level[case.known], truth[case.known]
        inside += np.bincount(level[truth], minlength=LEVELS)
        everywhere += np.bincount(level.ravel(), minlength=LEVELS)
    tp = inside[::-1].cumsum()[::-1]
    union = everywhere[::-1].cumsum()[::-1] + inside.sum() - tp
    return np.divide(tp, union, out=np.ones(LEVELS), where=union > 0)


def _threshold(level: int) -> float:
    """A threshold that voxels of `level` reach and those below do not, whatever rounding does."""
    return round((level - 0.5) / 255, 4)


def _largest(cases: Sequence[Case]) -> float:
    """Volume of the largest true object, nm³."""
    volumes = [0.0]
    for case in cases:
        ids, counts = np.unique(case.where_known(case.truth), return_counts=True)
        volumes += (counts[ids != 0] * math.prod(case.voxel_size)).tolist()
    return max(volumes)


def _mean_voxel_size(cases: Sequence[Case]) -> list[float]:
    """Geometric mean over the cases, nm."""
    logs = np.log([list(case.voxel_size) for case in cases])
    return [float(v) for v in np.exp(logs.mean(axis=0))]
