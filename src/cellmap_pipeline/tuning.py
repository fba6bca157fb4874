"""Post-processing settings that score best on validation crops, by the official metric."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline import postprocess
from cellmap_pipeline.classes import BOUNDARY_SUFFIX, is_instance
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.postprocess import FRAGMENT_SETTINGS, Settings
from cellmap_pipeline.scoring import combine, score_instance, score_semantic
from cellmap_pipeline.segmentation import Fragments, assemble, fragments, segment

Counts = dict[str, Any]

LEVELS = 256  # of a probability
CURVE_STEP = 5  # levels between the points of a semantic label's curve
STEPS = (4, 2, 1)  # along an ordered grid of values, from coarse to fine


@dataclass(frozen=True)
class Case:
    """One crop to tune on.

    Parameters
    ----------
    channels : probabilities as `segmentation.segment` takes them.
    truth : ids (z, y, x), 0 is background; for semantic labels all above 0 is inside.
    known : bool (z, y, x), where the truth is known; None: everywhere.
    voxel_size : nm, z, y, x.
    """

    channels: Mapping[str, NDArray[np.uint8]]
    truth: NDArray[Any]
    known: NDArray[np.bool_] | None
    voxel_size: Sequence[float]


def tune(
    label: str, cases: Sequence[Case], budget: int | None = None, workers: int = 1
) -> dict[str, Any]:
    """Search the settings for `label` that score best on all cases together.

    Each method starts at its defaults; then one setting after the other is moved along its values
    (`postprocess.candidates`), in ever finer steps, until none helps. The same input gives the
    same result, with any number of workers.

    Parameters
    ----------
    cases : crops with probabilities and truth. Unknown voxels count for nothing.
    budget : most settings to try; None: as many as it takes.
    workers : threads.

    Returns
    -------
    `settings` : the best, complete.
    `score` : theirs, as the official evaluator pools it over the cases: IoU for semantic labels,
        else the root of F1 times the normalised Hausdorff distance. A crop that the evaluator
        would skip for too many objects counts as if nothing in it were found.
    `score_at_half` : the same for a plain threshold of 0.5, and connected components.
    `curve` : list of `threshold` and `score`, else with the settings found for instances, and
        without more for semantic labels.
    `counts` : what `score` is made of (tp, fp, fn, …).

    Where the truth of all cases is empty there is nothing to tune on, and the settings are the
    defaults.

    Raises
    ------
    InputError
        There are no cases, or a channel of theirs is missing.
    """
    if not cases:
        raise InputError(f"{label}: there is no validation crop to tune post-processing on")
    for case in cases:
        if label not in case.channels:
            raise InputError(f"{label}: a validation crop has no prediction of it to tune on")
    has_boundary = all(label + BOUNDARY_SUFFIX in case.channels for case in cases)
    scorer = _Scorer(label, cases, workers)
    plain = "connected_components" if is_instance(label) else "threshold"
    at_half = {"min_size_nm3": 0.0}
    at_half_score = scorer.score([postprocess.complete(label, {"method": plain} | at_half, False)])
    grids = postprocess.candidates(label, has_boundary, _mean_voxel_size(cases))
    if not any(_known(case.truth, case).any() for case in cases):
        settings = postprocess.complete(label, {}, has_boundary)
    elif is_instance(label):
        settings = _search(scorer, [postprocess.defaults(m) for m in grids], grids, budget)
    else:
        settings = _search(scorer, [_best_plain(label, cases)], grids, budget)
    best = scorer.score([settings])[0]
    if is_instance(label):
        curve = _instance_curve(scorer, settings, grids[settings["method"]]["threshold"])
    else:
        iou = _iou_by_level(label, cases)
        curve = [_point(_threshold(k), iou[k]) for k in range(1, LEVELS, CURVE_STEP)]
    return {
        "settings": settings,
        "score": best,
        "score_at_half": at_half_score[0],
        "curve": curve,
        "counts": scorer.counts(settings),
    }


class _Scorer:
    """Scores settings; keeps the scores, and the fragments that were used last."""

    def __init__(self, label: str, cases: Sequence[Case], workers: int) -> None:
        self._label = label
        self._cases = cases
        self._workers = workers
        self._truths = [_known(_compact(case.truth), case) for case in cases]
        self._counts: dict[tuple[Any, ...], Counts] = {}
        self._pieces: OrderedDict[tuple[Any, ...], Fragments] = OrderedDict()
        self._lock = Lock()

    @property
    def tried(self) -> int:
        """How many settings were scored."""
        return len(self._counts)

    def knows(self, settings: Settings) -> bool:
        """Whether these settings were scored before, so that their score costs nothing."""
        return _key(settings) in self._counts

    def score(self, many: Sequence[Settings]) -> list[float]:
        """Pooled score of each."""
        new = list({_key(s): s for s in many if not self.knows(s)}.values())
        jobs = [(settings, i) for settings in new for i in range(len(self._cases))]
        counts = list(self._map(lambda job: self._case_counts(*job), jobs))
        for n, settings in enumerate(new):
            own = counts[n * len(self._cases) : (n + 1) * len(self._cases)]
            self._counts[_key(settings)] = self._pooled(own)
        return [float(self._counts[_key(s)]["score"]) for s in many]

    def counts(self, settings: Settings) -> Counts:
        """What the score of settings that were scored is made of."""
        return {k: v for k, v in self._counts[_key(settings)].items() if k != "score"}

    def _map(self, work: Callable[[Any], Counts], jobs: Sequence[Any]) -> Iterable[Counts]:
        # Threads: most of the time is spent in libraries that let others run meanwhile, and a
        # fork of a process with a network on a GPU would not be safe.
        if self._workers == 1:
            return map(work, jobs)
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(work, jobs))

    def _case_counts(self, settings: Settings, i: int) -> Counts:
        case, truth = self._cases[i], self._truths[i]
        if not is_instance(self._label):
            labels = segment(self._label, case.channels, case.voxel_size, settings)
            return score_semantic(_known(labels, case), truth)
        labels = assemble(self._fragments(settings, i), case.voxel_size, settings)
        counts = score_instance(_known(labels, case), truth, case.voxel_size)
        if counts["status"] != "scored":
            found_none = int(truth.max())
            counts |= {"fn": found_none, "n_hausdorff": found_none}
        return counts

    def _fragments(self, settings: Settings, i: int) -> Fragments:
        key = (i, *(settings.get(name) for name in FRAGMENT_SETTINGS))
        with self._lock:
            if key in self._pieces:
                self._pieces.move_to_end(key)
                return self._pieces[key]
        case = self._cases[i]
        made = fragments(self._label, case.channels, case.voxel_size, settings)
        with self._lock:
            self._pieces[key] = made
            # Those of the best settings so far, and of what is being tried.
            while len(self._pieces) > len(self._cases) + self._workers:
                self._pieces.popitem(last=False)
        return made

    def _pooled(self, counts: Sequence[Counts]) -> Counts:
        per_crop = {f"crop{i}": {self._label: count} for i, count in enumerate(counts)}
        pooled = dict(combine(per_crop)["label_scores"][self._label])
        return pooled | {"score": pooled["combined_score" if is_instance(self._label) else "iou"]}


def _search(
    scorer: _Scorer,
    starts: Sequence[Settings],
    grids: Mapping[str, Mapping[str, list[Any]]],
    budget: int | None,
) -> Settings:
    """The best settings found from each start; the start that scores best goes first."""
    limit = math.inf if budget is None else scorer.tried + budget
    starts = list(starts)[: max(1, int(min(limit - scorer.tried, len(starts))))]
    scores = scorer.score(starts)
    order = sorted(range(len(starts)), key=lambda i: -scores[i])
    best, best_score = starts[order[0]], scores[order[0]]
    for i in order:
        found, score = _climb(scorer, starts[i], scores[i], grids[starts[i]["method"]], limit)
        if score > best_score:
            best, best_score = found, score
    return best


def _climb(
    scorer: _Scorer, settings: Settings, score: float, grid: Mapping[str, list[Any]], limit: float
) -> tuple[Settings, float]:
    """Move one setting after the other, as long as any move helps."""
    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for name in reversed(grid):
                tries = [settings | {name: v} for v in _steps(grid[name], settings[name], step)]
                fresh = [t for t in tries if not scorer.knows(t)]
                if scorer.tried + len(fresh) > limit:
                    return settings, score
                for other, other_score in zip(tries, scorer.score(tries), strict=True):
                    if other_score > score:
                        settings, score, moved = other, other_score, True
    return settings, score


def _steps(values: Sequence[Any], current: Any, step: int) -> list[Any]:
    """The values `step` below and above the current one, which need not be among them."""
    if isinstance(current, bool):
        return [not current]
    below = [v for v in values if v < current]
    above = [v for v in values if v > current]
    return below[-step:][:1] + above[:step][-1:]


def _instance_curve(
    scorer: _Scorer, settings: Settings, thresholds: Sequence[float]
) -> list[dict[str, float]]:
    every_second = [t for t in thresholds if round(t * 20) % 2 == 0]
    tried = sorted({*every_second, settings["threshold"]})
    scores = scorer.score([settings | {"threshold": t} for t in tried])
    return [_point(t, s) for t, s in zip(tried, scores, strict=True)]


def _best_plain(label: str, cases: Sequence[Case]) -> Settings:
    """The best plain threshold of all 256; the middle one where several are as good."""
    iou = _iou_by_level(label, cases)
    best = np.flatnonzero(iou[1:] == iou[1:].max()) + 1
    threshold = _threshold(int(best[len(best) // 2]))
    return postprocess.defaults("threshold") | {"threshold": threshold}


def _iou_by_level(label: str, cases: Sequence[Case]) -> NDArray[np.float64]:
    """Pooled IoU where all voxels of at least this level (0..255) are inside."""
    inside, all_voxels = np.zeros(LEVELS), np.zeros(LEVELS)
    for case in cases:
        probability, truth = case.channels[label], case.truth > 0
        if case.known is not None:
            probability, truth = probability[case.known], truth[case.known]
        inside += np.bincount(probability[truth], minlength=LEVELS)
        all_voxels += np.bincount(probability.ravel(), minlength=LEVELS)
    tp = inside[::-1].cumsum()[::-1]
    predicted = all_voxels[::-1].cumsum()[::-1]
    union = predicted + inside.sum() - tp
    return np.divide(tp, union, out=np.ones(LEVELS), where=union > 0)


def _threshold(level: int) -> float:
    """A threshold that voxels of `level` just reach, whatever rounding does."""
    return round((level - 0.5) / 255, 4)


def _point(threshold: float, score: float) -> dict[str, float]:
    return {"threshold": float(threshold), "score": float(score)}


def _known(labels: NDArray[Any], case: Case) -> NDArray[Any]:
    """`labels` without the voxels of unknown truth."""
    return labels if case.known is None else np.where(case.known, labels, 0).astype(labels.dtype)


def _compact(truth: NDArray[Any]) -> NDArray[Any]:
    ids, _ = fastremap.renumber(truth, in_place=False)
    return ids


def _mean_voxel_size(cases: Sequence[Case]) -> list[float]:
    """Geometric mean over the cases, nm."""
    logs = np.log([list(case.voxel_size) for case in cases])
    return [float(v) for v in np.exp(logs.mean(axis=0))]


def _key(settings: Settings) -> tuple[Any, ...]:
    return tuple(settings.items())
