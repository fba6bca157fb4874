"""What tuning compares settings by, pooled over crops: the official score and estimates of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.scoring.instances import score_instance
from cellmap_pipeline.scoring.semantic import score_semantic
from cellmap_pipeline.scoring.summary import combine
from cellmap_pipeline.segmentation.fragments import Fragments, fragments, smoothed
from cellmap_pipeline.segmentation.methods import FRAGMENT_SETTINGS, Settings
from cellmap_pipeline.segmentation.segment import assemble, segment
from cellmap_pipeline.validation.cases import Case
from cellmap_pipeline.validation.estimates import Estimate, Overlap, estimates

Grid = dict[str, list[Any]]

FINALISTS = 12  # settings that are scored in full
PER_FRAGMENTS = 2  # of them, at most, from the same fragments


class SmoothedChannels(Mapping[str, NDArray[Any]]):
    """The channels of a case, each smoothed when it is first read.

    Many settings share a smoothing, which takes longer than much of what follows it.
    """

    def __init__(self, case: Case, sigma_nm: float) -> None:
        self._case, self._sigma_nm = case, sigma_nm
        self._made: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._made:
            case = self._case
            self._made[name] = smoothed(case.channels[name], case.voxel_size, self._sigma_nm)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._case.channels)

    def __len__(self) -> int:
        return len(self._case.channels)


class Evaluator:
    """Scores settings side by side and remembers them; beyond a limit, scores are -1."""

    # Per case: that of the best settings so far, and that of a neighbour.
    SMOOTHINGS_KEPT = 2

    def __init__(self, label: str, cases: Sequence[Case], workers: int) -> None:
        self._label, self._cases, self._workers = label, cases, workers
        self._lock = Lock()
        self._smoothed: OrderedDict[tuple[int, float], SmoothedChannels] = OrderedDict()
        self._left: int | None = None
        self._scores: dict[tuple[Any, ...], float] = {}

    def limit(self, budget: int | None) -> None:
        """Score at most this many settings more."""
        self._left = budget

    def score(self, many: Sequence[Settings]) -> list[float]:
        """Score of each."""
        new = list({_key(s): s for s in many if _key(s) not in self._scores}.values())
        if self._left is not None:
            new = new[: self._left]
            self._left -= len(new)
        for settings, score in zip(new, self._run(new), strict=True):
            self._scores[_key(settings)] = score
        return [self._scores.get(_key(s), -1.0) for s in many]

    def _run(self, many: Sequence[Settings]) -> list[float]:
        raise NotImplementedError

    def _fragments(self, settings: Settings, i: int) -> Fragments:
        """The pieces that settings find in a case."""
        unsmoothed = settings | {"smooth_nm": 0.0}
        return fragments(
            self._label, self._channels(settings, i), self._cases[i].voxel_size, unsmoothed
        )

    def _channels(self, settings: Settings, i: int) -> SmoothedChannels:
        """The channels of a case as settings smooth them."""
        key = (i, settings["smooth_nm"])
        with self._lock:
            if key not in self._smoothed:
                self._smoothed[key] = SmoothedChannels(self._cases[i], settings["smooth_nm"])
            self._smoothed.move_to_end(key)
            while len(self._smoothed) > self.SMOOTHINGS_KEPT * len(self._cases):
                self._smoothed.popitem(last=False)
            return self._smoothed[key]

    def _map(self, work: Callable[..., Any], cases: int, many: Sequence[Settings]) -> list[Any]:
        """For each settings the list of `work(settings, case)`.

        Threads do it: most time is spent in libraries that let others run meanwhile, and to fork
        a process that holds a network on a GPU would not be safe.
        """
        jobs = [(settings, i) for settings in many for i in range(cases)]
        with ThreadPoolExecutor(self._workers) as pool:
            done = list(pool.map(lambda job: work(*job), jobs))
        return [done[n : n + cases] for n in range(0, len(done), cases)]


class Scorer(Evaluator):
    """The official score, pooled over the cases."""

    def __init__(self, label: str, cases: Sequence[Case], workers: int) -> None:
        super().__init__(label, cases, workers)
        self._truths = [case.where_known(case.truth) for case in cases]
        self._pooled: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._pieces: OrderedDict[tuple[Any, ...], Fragments] = OrderedDict()

    def counts(self, settings: Settings) -> dict[str, Any]:
        """What the score of settings that were scored is made of."""
        return self._pooled[_key(settings)]

    def _run(self, many: Sequence[Settings]) -> list[float]:
        name = "combined_score" if is_instance(self._label) else "iou"
        for settings, counts in zip(
            many, self._map(self.case_counts, len(self._cases), many), strict=True
        ):
            per_crop = {f"crop{i}": {self._label: count} for i, count in enumerate(counts)}
            self._pooled[_key(settings)] = combine(per_crop)["label_scores"][self._label]
        return [float(self._pooled[_key(s)][name]) for s in many]

    def case_counts(self, settings: Settings, i: int) -> dict[str, Any]:
        """Counts of one case."""
        case, truth = self._cases[i], self._truths[i]
        if not is_instance(self._label):
            unsmoothed = settings | {"smooth_nm": 0.0}
            channels = self._channels(settings, i)
            labels = segment(self._label, channels, case.voxel_size, unsmoothed)
            return score_semantic(case.where_known(labels), truth)
        labels = assemble(self._fragments(settings, i), case.voxel_size, settings)
        counts = score_instance(case.where_known(labels), truth, case.voxel_size)
        if counts["status"] != "scored":
            missed = int(np.count_nonzero(np.unique(truth)))
            counts |= {"fn": missed, "n_hausdorff": missed}
        return counts

    def _fragments(self, settings: Settings, i: int) -> Fragments:
        key = (i, *(settings.get(name) for name in FRAGMENT_SETTINGS))
        with self._lock:
            if key in self._pieces:
                self._pieces.move_to_end(key)
                return self._pieces[key]
        made = super()._fragments(settings, i)
        with self._lock:
            self._pieces[key] = made
            # Those of the best settings so far, and of what is being tried.
            while len(self._pieces) > len(self._cases) + self._workers:
                self._pieces.popitem(last=False)
        return made


class Estimator(Evaluator):
    """How good the best is that can be put together from fragments."""

    def __init__(
        self,
        label: str,
        cases: Sequence[Case],
        grids: Mapping[str, Grid],
        workers: int,
    ) -> None:
        super().__init__(label, cases, workers)
        self._grids = {
            method: {n: v for n, v in grid.items() if n not in FRAGMENT_SETTINGS}
            for method, grid in grids.items()
        }
        self._found: list[list[tuple[float, Settings]]] = []

    def best(self) -> list[Settings]:
        """The finalists."""
        found = [pair for pairs in self._found for pair in pairs]
        ranked = sorted(found, key=lambda pair: -pair[0])[:FINALISTS]
        return [settings for _, settings in ranked]

    def _run(self, many: Sequence[Settings]) -> list[float]:
        scores = []
        for per_case in self._map(self._case_estimates, len(self._cases), many):
            pooled = [
                (sum((e for _, e in same), Estimate()).score, same[0][0])
                for same in zip(*per_case, strict=True)
            ]
            pooled.sort(key=lambda pair: -pair[0])
            self._found.append(pooled[:PER_FRAGMENTS])
            scores.append(pooled[0][0])
        return scores

    def _case_estimates(self, settings: Settings, i: int) -> list[tuple[Settings, Estimate]]:
        case = self._cases[i]
        pieces = self._fragments(settings, i)
        overlap = Overlap.of(pieces.labels, case.truth, case.known, case.voxel_size)
        grid = self._grids[settings["method"]]
        return estimates(pieces, overlap, settings, grid, case.voxel_size)


def _key(settings: Settings) -> tuple[Any, ...]:
    return tuple(settings.items())
