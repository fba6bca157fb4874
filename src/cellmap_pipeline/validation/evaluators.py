"""Evaluators that compare settings, pooled over crops: by the official score and by estimates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

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
from cellmap_pipeline.validation.estimates import Overlap, estimate_all

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
    """Scores settings in parallel and caches the scores; beyond its limit, scores are -1.

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
        self._left: int | None = None
        self._scores: dict[tuple[Any, ...], float] = {}

    def limit(self, budget: int | None) -> None:
        """Score at most this many more settings; None means no limit."""
        self._left = budget

    def score(self, candidates: Sequence[Settings]) -> list[float]:
        """Return the score of each candidate."""
        new = list({_key(s): s for s in candidates if _key(s) not in self._scores}.values())
        if self._left is not None:
            new = new[: self._left]
            self._left -= len(new)
        for settings, score in zip(new, self._score_new(new), strict=True):
            self._scores[_key(settings)] = score
        return [self._scores.get(_key(s), -1.0) for s in candidates]

    def _score_new(self, candidates: Sequence[Settings]) -> list[float]:
        raise NotImplementedError

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

    def _map(
        self, work: Callable[..., Any], n_cases: int, candidates: Sequence[Settings]
    ) -> list[Any]:
        """Return for each candidate the list of `work(candidate, case)`.

        Threads are used since most time is spent in libraries that release the GIL, and since
        forking a process that holds a network on a GPU would not be safe.
        """
        jobs = [(settings, i) for settings in candidates for i in range(n_cases)]
        with ThreadPoolExecutor(self._workers) as pool:
            results = list(pool.map(lambda job: work(*job), jobs))
        return [results[n : n + n_cases] for n in range(0, len(results), n_cases)]


class Scorer(Evaluator):
    """The score that the evaluator would give, pooled over the cases.

    Distances count as in the test crops that the label is tuned for.
    """

    def __init__(self, label: str, cases: Sequence[LoadedCase], rules: Rules, workers: int) -> None:
        super().__init__(label, cases, rules, workers)
        self._truths = [case.where_known(case.truth) for case in cases]
        self._pooled: dict[tuple[Any, ...], Counts] = {}
        self._cached_fragments: OrderedDict[tuple[Any, ...], Fragments] = OrderedDict()

    def counts(self, settings: Settings) -> Counts:
        """Return the pooled counts of settings that were scored."""
        return self._pooled[_key(settings)]

    def official_counts(self, settings: Settings) -> Counts:
        """Count with distances as in the crops of the cases."""
        count = partial(self.case_counts, official=True)
        (per_case,) = self._map(count, len(self._cases), [settings])
        return sum((own for _, own in per_case), Counts())

    def _score_new(self, candidates: Sequence[Settings]) -> list[float]:
        counted = self._map(self.case_counts, len(self._cases), candidates)
        for settings, per_case in zip(candidates, counted, strict=True):
            self._pooled[_key(settings)] = sum((counts for (counts,) in per_case), Counts())
        return [self._rules.score(self.counts(s), is_instance(self._label)) for s in candidates]

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
        self._best: list[list[tuple[float, Settings]]] = []

    def finalists(self) -> list[Settings]:
        """Return the settings with the best estimates, best first."""
        found = [pair for pairs in self._best for pair in pairs]
        ranked = sorted(found, key=lambda pair: -pair[0])[:MAX_FINALISTS]
        return [settings for _, settings in ranked]

    def _score_new(self, candidates: Sequence[Settings]) -> list[float]:
        scores = []
        for per_case in self._map(self._case_estimates, len(self._cases), candidates):
            pooled = [
                (
                    self._rules.score(sum((counts for _, counts in same), Counts()), True),
                    same[0][0],
                )
                for same in zip(*per_case, strict=True)
            ]
            pooled.sort(key=lambda pair: -pair[0])
            self._best.append(pooled[:MAX_FINALISTS_PER_FRAGMENTS])
            scores.append(pooled[0][0])
        return scores

    def _case_estimates(self, settings: Settings, i: int) -> list[tuple[Settings, Counts]]:
        case = self._cases[i]
        fragments = self._fragments(settings, i)
        overlap = Overlap.of(fragments.labels, case.truth, case.known)
        space = self._assembly_spaces[settings["method"]]
        scores = self._match_scores[i]
        return estimate_all(fragments, overlap, settings, space, case.voxel_size, scores)


def _key(settings: Settings) -> tuple[Any, ...]:
    return tuple(settings.items())
