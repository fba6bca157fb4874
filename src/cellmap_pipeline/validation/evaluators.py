"""Evaluators that compare settings, pooled over crops: by the official score and by estimates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.scoring.matching import match_objects
from cellmap_pipeline.scoring.rules.base import Counts, Rules
from cellmap_pipeline.scoring.semantic import count_semantic
from cellmap_pipeline.segmentation.fragments import Fragments, find_fragments
from cellmap_pipeline.segmentation.landscapes import smooth
from cellmap_pipeline.segmentation.method_settings import fragment_settings
from cellmap_pipeline.segmentation.methods import SearchSpace, Settings
from cellmap_pipeline.segmentation.segment import assemble, segment
from cellmap_pipeline.validation.cases import LoadedCase
from cellmap_pipeline.validation.estimates import Overlap, assemblies, estimate_all

# Settings that are scored in full after the estimates.
MAX_FINALISTS = 12
MAX_FINALISTS_PER_FRAGMENTS = 2


class SmoothedChannels(Mapping[str, NDArray[Any]]):
    """The channels of a case, each smoothed when it is first read.

    Many settings share a smoothing, which takes longer than many of the steps after it.
    """

    def __init__(self, case: LoadedCase, sigma_nm: float) -> None:
        self._case, self._sigma_nm = case, sigma_nm
        self._smoothed: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._smoothed:
            case = self._case
            self._smoothed[name] = smooth(case.channels[name], case.voxel_size, self._sigma_nm)
        return self._smoothed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._case.channels)

    def __len__(self) -> int:
        return len(self._case.channels)


class Evaluator:
    """Scores settings in parallel; beyond its limit, scores are -1.

    The result of each case is cached, so that evaluators of some of the cases (`on`) share it.

    Parameters
    ----------
    label
        Name of the label.
    cases
        Cases over which counts are pooled.
    rules
        The evaluator's rules.
    workers
        Number of threads.
    """

    # Per case: that of the best settings so far, and that of their neighbors.
    SMOOTHINGS_KEPT = 2

    def __init__(self, label: str, cases: Sequence[LoadedCase], rules: Rules, workers: int) -> None:
        self._label, self._cases, self._rules, self._workers = label, cases, rules, workers
        self._lock = Lock()
        self._smoothed: OrderedDict[tuple[int, float], SmoothedChannels] = OrderedDict()
        self._case_results: dict[tuple[tuple[Any, ...], int], Any] = {}
        self._begin(range(len(cases)))

    def _begin(self, indices: Sequence[int]) -> None:
        """Begin without scores or a limit, on the cases with these indices."""
        self._indices = indices
        self._left: int | None = None
        self._scores: dict[tuple[Any, ...], float] = {}

    def on(self, indices: Sequence[int]) -> Self:
        """Return an evaluator of the cases with these indices, which shares the cached results."""
        part = copy(self)
        part._begin(indices)
        return part

    def limit(self, budget: int | None) -> None:
        """Score at most this many more settings; None means no limit."""
        self._left = budget

    def score(self, candidates: Sequence[Settings]) -> list[float]:
        """Return the score of each candidate."""
        new = list({_key(s): s for s in candidates if _key(s) not in self._scores}.values())
        if self._left is not None:
            new = new[: self._left]
            self._left -= len(new)
        found = self._results(new)
        for settings, per_case in zip(new, found, strict=True):
            self._scores[_key(settings)] = self._pooled_score(settings, per_case)
        return [self._scores.get(_key(s), -1.0) for s in candidates]

    def _pooled_score(self, settings: Settings, per_case: Sequence[Any]) -> float:
        raise NotImplementedError

    def _case_result(self, settings: Settings, i: int) -> Any:
        raise NotImplementedError

    def _results(self, candidates: Sequence[Settings]) -> list[list[Any]]:
        """Return for each candidate the results of the cases."""
        jobs = [(settings, i) for settings in candidates for i in self._indices]
        new = [
            (settings, i) for settings, i in jobs if (_key(settings), i) not in self._case_results
        ]
        for (settings, i), result in zip(new, self._map(self._case_result, new), strict=True):
            self._case_results[_key(settings), i] = result
        return [[self._case_results[_key(s), i] for i in self._indices] for s in candidates]

    def _fragments(self, settings: Settings, i: int) -> Fragments:
        """Find the fragments of a case."""
        unsmoothed = settings | {"smooth_nm": 0.0}
        return find_fragments(
            self._label, self._channels(settings, i), self._cases[i].voxel_size, unsmoothed
        )

    def _channels(self, settings: Settings, i: int) -> SmoothedChannels:
        """Return the smoothed channels of a case."""
        key = (i, settings["smooth_nm"])
        with self._lock:
            if key not in self._smoothed:
                self._smoothed[key] = SmoothedChannels(self._cases[i], settings["smooth_nm"])
            self._smoothed.move_to_end(key)
            while len(self._smoothed) > self.SMOOTHINGS_KEPT * len(self._cases):
                self._smoothed.popitem(last=False)
            return self._smoothed[key]

    def _map(self, work: Callable[..., Any], jobs: Sequence[tuple[Settings, int]]) -> list[Any]:
        """Return `work(settings, index of the case)` for each job.

        Threads are used since most time is spent in libraries that release the GIL, and since
        forking a process that holds a network on a GPU would not be safe.
        """
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(lambda job: work(*job), jobs))


class Scorer(Evaluator):
    """The score that the evaluator would give, pooled over the cases.

    Distances count as in the test crops that the label is tuned for.
    """

    def __init__(self, label: str, cases: Sequence[LoadedCase], rules: Rules, workers: int) -> None:
        super().__init__(label, cases, rules, workers)
        self._truths = [case.where_known(case.truth) for case in cases]
        self._cached_fragments: OrderedDict[tuple[Any, ...], Fragments] = OrderedDict()

    def counts(self, settings: Settings) -> Counts:
        """Return the pooled counts of settings."""
        return sum(self.counts_by_case(settings), Counts())

    def counts_by_case(self, settings: Settings) -> list[Counts]:
        """Return the counts of settings in each case."""
        return self._results([settings])[0]

    def official_counts(self, settings: Settings) -> Counts:
        """Count with distances as in the crops of the cases."""
        count = partial(self.case_counts, official=True)
        per_case = self._map(count, [(settings, i) for i in self._indices])
        return sum((own for _, own in per_case), Counts())

    def _case_result(self, settings: Settings, i: int) -> Counts:
        return self.case_counts(settings, i)[0]

    def _pooled_score(self, settings: Settings, per_case: Sequence[Counts]) -> float:
        return self._rules.score(sum(per_case, Counts()), is_instance(self._label))

    def case_counts(self, settings: Settings, i: int, official: bool = False) -> tuple[Counts, ...]:
        """Count one case, with distances as in the test crops.

        Parameters
        ----------
        settings
            The settings that make the label.
        i
            Index of the case.
        official
            Whether to return counts with distances as in the case's own crop, too, after the
            others.
        """
        case, truth = self._cases[i], self._truths[i]
        ways = [case.test_scales, [case.scale]] if official else [case.test_scales]
        if not is_instance(self._label):
            unsmoothed = settings | {"smooth_nm": 0.0}
            channels = self._channels(settings, i)
            labels = segment(self._label, channels, case.voxel_size, unsmoothed)
            return (count_semantic(case.where_known(labels), truth, self._rules),) * len(ways)
        labels = assemble(self._fragments(settings, i), case.voxel_size, settings)
        skipped = self._rules.counts_skipped_crops
        found = match_objects(case.where_known(labels), truth, case.voxel_size, skipped)
        if found.status != "scored" and not skipped:
            return (Counts(fn=int(np.count_nonzero(np.unique(truth)))),) * len(ways)
        return tuple(self._rules.count_objects(found, scales) for scales in ways)

    def _fragments(self, settings: Settings, i: int) -> Fragments:
        key = (i, *(settings[name] for name in fragment_settings(settings["method"])))
        with self._lock:
            if key in self._cached_fragments:
                self._cached_fragments.move_to_end(key)
                return self._cached_fragments[key]
        found = super()._fragments(settings, i)
        with self._lock:
            self._cached_fragments[key] = found
            # Keep those of the best settings so far, and those that the workers are scoring.
            while len(self._cached_fragments) > len(self._cases) + self._workers:
                self._cached_fragments.popitem(last=False)
        return found


class Estimator(Evaluator):
    """The best estimated score of all ways to assemble the fragments that settings find.

    Parameters
    ----------
    label
        Name of the label.
    cases
        Cases over which estimates are pooled.
    rules
        The evaluator's rules.
    spaces
        Values to try of each setting, by method.
    workers
        Number of threads.
    """

    def __init__(
        self,
        label: str,
        cases: Sequence[LoadedCase],
        rules: Rules,
        spaces: Mapping[str, SearchSpace],
        workers: int,
    ) -> None:
        super().__init__(label, cases, rules, workers)
        self._match_scores = [rules.estimate_matches(case.test_scales) for case in cases]
        self._assembly_spaces = {
            method: {n: v for n, v in space.items() if n not in fragment_settings(method)}
            for method, space in spaces.items()
        }

    def _begin(self, indices: Sequence[int]) -> None:
        super()._begin(indices)
        self._best: list[list[tuple[float, Settings]]] = []

    def finalists(self) -> list[Settings]:
        """Return the settings with the best estimates, best first."""
        found = [pair for pairs in self._best for pair in pairs]
        ranked = sorted(found, key=lambda pair: -pair[0])[:MAX_FINALISTS]
        return [settings for _, settings in ranked]

    def _pooled_score(self, settings: Settings, per_case: Sequence[NDArray[np.float64]]) -> float:
        counts = sum(per_case, np.zeros_like(per_case[0]))
        space = self._assembly_spaces[settings["method"]]
        pooled = [
            (self._rules.score(Counts(*numbers), instance=True), assembled)
            for numbers, assembled in zip(counts.tolist(), assemblies(settings, space), strict=True)
        ]
        pooled.sort(key=lambda pair: -pair[0])
        self._best.append(pooled[:MAX_FINALISTS_PER_FRAGMENTS])
        return pooled[0][0]

    def _case_result(self, settings: Settings, i: int) -> NDArray[np.float64]:
        """Return the counts (tp, fp, fn, score_sum) of all ways to assemble the fragments."""
        case = self._cases[i]
        fragments = self._fragments(settings, i)
        overlap = Overlap.of(fragments.labels, case.truth, case.known)
        space = self._assembly_spaces[settings["method"]]
        scores = self._match_scores[i]
        found = estimate_all(fragments, overlap, settings, space, case.voxel_size, scores)
        return np.array([[c.tp, c.fp, c.fn, c.score_sum] for c in found])


def _key(settings: Settings) -> tuple[Any, ...]:
    return tuple(settings.items())
