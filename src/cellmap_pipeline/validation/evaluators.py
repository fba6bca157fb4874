"""Evaluators that compare settings, pooled over crops: by the official score and by estimates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import astuple, dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.scoring.matching import match_objects
from cellmap_pipeline.scoring.rules.base import Counts, Rules
from cellmap_pipeline.scoring.semantic import count_semantic
from cellmap_pipeline.segmentation.method_settings import fragment_settings
from cellmap_pipeline.segmentation.methods import SearchSpace, Settings
from cellmap_pipeline.segmentation.segment import assemble, segment
from cellmap_pipeline.validation.case_fragments import CaseFragments
from cellmap_pipeline.validation.case_results import CaseResults
from cellmap_pipeline.validation.cases import LoadedCase
from cellmap_pipeline.validation.estimates import Overlap, assemblies, estimate_all
from cellmap_pipeline.validation.progress import TuningProgress

T = TypeVar("T")
# Settings that are scored in full after the estimates.
MAX_FINALISTS = 12
MAX_FINALISTS_PER_FRAGMENTS = 2
# Of the settings that find fragments in parts of the cases, those that are estimated on the whole
# cases: the best ones of each method, unless their estimate is this much below the best of all.
MAX_PROMISING_PER_METHOD = 3
MAX_ESTIMATE_LOSS = 0.1


@dataclass
class Search:
    """The context of a search, which all evaluators of a label share.

    Attributes
    ----------
    label
        Name of the label.
    rules
        The evaluator's rules.
    workers
        Number of threads.
    results
        The results of each case so far.
    progress
        Progress of the search.
    """

    label: str
    rules: Rules
    workers: int
    results: CaseResults = field(default_factory=CaseResults)
    progress: TuningProgress = field(default_factory=TuningProgress)


class Evaluator:
    """Scores settings in parallel; beyond its limit, scores are -1.

    The result of each case is kept, so that evaluators of some of the cases (`on`) share it.

    Parameters
    ----------
    name
        Name by which results are kept.
    search
        The search.
    cases
        Cases over which counts are pooled.
    fragments
        Finds the fragments of instances in the cases.
    """

    def __init__(
        self, name: str, search: Search, cases: Sequence[LoadedCase], fragments: CaseFragments
    ) -> None:
        self._name, self._search, self._cases, self._fragments = name, search, cases, fragments
        self._label, self._rules = search.label, search.rules
        self._counted = set[tuple[Any, ...]]()
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
        self._search.progress.count(len(new))
        found = self._results(new)
        for settings, per_case in zip(new, found, strict=True):
            self._scores[_key(settings)] = self._pooled_score(settings, per_case)
        return [self._scores.get(_key(s), -1.0) for s in candidates]

    def _pooled_score(self, settings: Settings, per_case: Sequence[NDArray[np.float64]]) -> float:
        raise NotImplementedError

    def _case_result(self, settings: Settings, i: int) -> NDArray[np.float64]:
        raise NotImplementedError

    def _results(self, candidates: Sequence[Settings]) -> list[list[NDArray[np.float64]]]:
        """Return for each candidate the results of the cases."""
        kept = self._search.results
        jobs = [(settings, i) for settings in candidates for i in self._indices]
        new = []
        for settings, i in jobs:
            if kept.get(self._name, settings, i) is None:
                new.append((settings, i))
            elif (_key(settings), i) not in self._counted:
                # Found by a search that was killed.
                self._count(settings, i)
        for (settings, i), numbers in zip(new, self._map(self._case_result, new), strict=True):
            kept.add(self._name, settings, i, numbers)
            self._count(settings, i)
        results = [[kept.get(self._name, s, i) for i in self._indices] for s in candidates]
        return cast(list[list[NDArray[np.float64]]], results)

    def _count(self, settings: Settings, i: int) -> None:
        self._counted.add((_key(settings), i))
        self._search.progress.advance(self._cases[i].truth.size)

    def _map(self, work: Callable[..., T], jobs: Sequence[tuple[Settings, int]]) -> Iterator[T]:
        """Yield `work(settings, index of the case)` for each job, in order.

        Threads are used since most time is spent in libraries that release the GIL, and since
        forking a process that holds a network on a GPU would not be safe.
        """
        with ThreadPoolExecutor(self._search.workers) as pool:
            yield from pool.map(lambda job: work(*job), jobs)


class Scorer(Evaluator):
    """The score that the evaluator would give, pooled over the cases.

    Distances count as in the test crops that the label is tuned for.

    Parameters
    ----------
    search, cases, fragments
        As for `Evaluator`.
    """

    def __init__(
        self, search: Search, cases: Sequence[LoadedCase], fragments: CaseFragments
    ) -> None:
        super().__init__("score", search, cases, fragments)
        self._truths = [case.where_known(case.truth) for case in cases]

    def counts(self, settings: Settings) -> Counts:
        """Return the pooled counts of settings."""
        return sum(self.counts_by_case(settings), Counts())

    def counts_by_case(self, settings: Settings) -> list[Counts]:
        """Return the counts of settings in each case."""
        return [counts_of(numbers) for numbers in self._results([settings])[0]]

    def official_counts(self, settings: Settings) -> Counts:
        """Count with distances as in the crops of the cases."""
        count = partial(self.case_counts, official=True)
        per_case = self._map(count, [(settings, i) for i in self._indices])
        return sum((own for _, own in per_case), Counts())

    def _case_result(self, settings: Settings, i: int) -> NDArray[np.float64]:
        return np.array(astuple(self.case_counts(settings, i)[0]))

    def _pooled_score(self, settings: Settings, per_case: Sequence[NDArray[np.float64]]) -> float:
        counts = sum(map(counts_of, per_case), Counts())
        return self._rules.score(counts, is_instance(self._label))

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
            channels = self._fragments.channels(settings, i)
            labels = segment(self._label, channels, case.voxel_size, unsmoothed)
            return (count_semantic(case.where_known(labels), truth, self._rules),) * len(ways)
        labels = assemble(self._fragments.find(settings, i), case.voxel_size, settings)
        skipped = self._rules.counts_skipped_crops
        found = match_objects(case.where_known(labels), truth, case.voxel_size, skipped)
        if found.status != "scored" and not skipped:
            return (Counts(fn=int(np.count_nonzero(np.unique(truth)))),) * len(ways)
        return tuple(self._rules.count_objects(found, scales) for scales in ways)


class Estimator(Evaluator):
    """The best estimated score of all ways to assemble the fragments that settings find.

    Parameters
    ----------
    name, search, cases, fragments
        As for `Evaluator`.
    spaces
        Values to try of each setting, by method.
    """

    def __init__(
        self,
        name: str,
        search: Search,
        cases: Sequence[LoadedCase],
        fragments: CaseFragments,
        spaces: Mapping[str, SearchSpace],
    ) -> None:
        super().__init__(name, search, cases, fragments)
        self._match_scores = [search.rules.estimate_matches(case.test_scales) for case in cases]
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

    def promising(self) -> list[Settings]:
        """Return the settings whose fragments may be the best ones on larger cases."""
        ranked = sorted(self._scores.items(), key=lambda pair: -pair[1])
        worst = ranked[0][1] - MAX_ESTIMATE_LOSS
        by_method: dict[str, list[Settings]] = defaultdict(list)
        for settings in (dict(key) for key, score in ranked if score >= worst):
            by_method[settings["method"]].append(settings)
        chosen = [found[:MAX_PROMISING_PER_METHOD] for found in by_method.values()]
        return list(chain.from_iterable(chosen))

    def _pooled_score(self, settings: Settings, per_case: Sequence[NDArray[np.float64]]) -> float:
        counts = sum(per_case, np.zeros_like(per_case[0]))
        assembled = assemblies(settings, self._assembly_spaces[settings["method"]])
        pooled = [
            (self._rules.score(counts_of(numbers), instance=True), one)
            for numbers, one in zip(counts, assembled, strict=True)
        ]
        pooled.sort(key=lambda pair: -pair[0])
        self._best.append(pooled[:MAX_FINALISTS_PER_FRAGMENTS])
        return pooled[0][0]

    def _case_result(self, settings: Settings, i: int) -> NDArray[np.float64]:
        """Return the counts (tp, fp, fn, score_sum) of all ways to assemble the fragments."""
        case = self._cases[i]
        fragments = self._fragments.find(settings, i)
        overlap = Overlap.of(fragments.labels, case.truth, case.known)
        space = self._assembly_spaces[settings["method"]]
        scores = self._match_scores[i]
        found = estimate_all(fragments, overlap, settings, space, case.voxel_size, scores)
        return np.array([astuple(counts) for counts in found])


def _key(settings: Settings) -> tuple[Any, ...]:
    return tuple(settings.items())


def counts_of(numbers: NDArray[np.float64]) -> Counts:
    """Return the counts that results keep as four numbers."""
    tp, fp, fn, score_sum = numbers.tolist()
    return Counts(int(tp), int(fp), int(fn), score_sum)
