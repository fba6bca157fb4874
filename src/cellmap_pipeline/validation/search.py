"""Searches for the settings of a label that score best, one setting after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.segmentation import method_settings
from cellmap_pipeline.segmentation.method_settings import fragment_settings
from cellmap_pipeline.segmentation.methods import SearchSpace, Settings
from cellmap_pipeline.validation.evaluators import (
    MAX_FINALISTS,
    MAX_PROMISING_PER_METHOD,
    Estimator,
    Scorer,
)
from cellmap_pipeline.validation.levels import LevelScores, threshold_at_level
from cellmap_pipeline.validation.progress import TuningProgress

# Values at which the search starts in addition to the defaults.
THRESHOLD_STARTS = (0.25, 0.75)
SEED_THRESHOLD_STARTS = (0.1, 0.5)
# Neighbors of the best of the promising settings that are estimated on the whole cases.
MAX_ESTIMATED_NEIGHBORS = 12
# Settings that a search usually tries before no move improves the score: for each setting that is
# varied by estimates, for all that are varied to assemble fragments, and for a semantic label.
SETTINGS_PER_VARIED, ASSEMBLY_SETTINGS, SEMANTIC_SETTINGS = 6, 12, 25


def plain_settings(label: str) -> Settings:
    """Return the settings of a threshold of 0.5 and connected components."""
    return method_settings.defaults(method_settings.methods_for(label)[0]) | {"min_size_nm3": 0.0}


def expected_steps(
    label: str, spaces: Mapping[str, SearchSpace], budget: int | None, part: int, whole: int
) -> list[int]:
    """Return about how many voxels each step of a search tries settings on.

    Parameters
    ----------
    label
        Name of the label.
    spaces
        Values to try of each setting, by method.
    budget
        As for `search_instances` and `search_semantic`.
    part, whole
        Voxels of the parts of the cases, and of the whole cases.
    """
    if not is_instance(label):
        return [whole * min(SEMANTIC_SETTINGS, budget or SEMANTIC_SETTINGS)]
    varied = [
        len(values) > 1
        for method, space in spaces.items()
        for name, values in space.items()
        if name in fragment_settings(method)
    ]
    screened = min(SETTINGS_PER_VARIED * sum(varied), budget or len(varied) * SETTINGS_PER_VARIED)
    promising = min(MAX_PROMISING_PER_METHOD * len(spaces), screened) + MAX_ESTIMATED_NEIGHBORS
    return [part * screened, whole * promising, whole * MAX_FINALISTS, whole * ASSEMBLY_SETTINGS]


def search_semantic(
    label: str,
    scorer: Scorer,
    levels: LevelScores,
    space: SearchSpace,
    budget: int | None,
    progress: TuningProgress,
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
    found = _hill_climb(scorer.score, starts[first], {n: space[n] for n in order}, (4, 2, 1))
    progress.end_step()
    return found


def search_instances(
    label: str,
    scorer: Scorer,
    screener: Estimator,
    estimator: Estimator,
    spaces: Mapping[str, SearchSpace],
    budget: int | None,
    progress: TuningProgress,
    indices: Sequence[int],
) -> Settings:
    """Search the settings of an instance label on the cases with these indices.

    Parameters
    ----------
    label
        Name of the label.
    scorer
        Scores the settings with the best estimates.
    screener
        Estimates the settings that are tried, on parts of the cases.
    estimator
        Estimates the promising ones on the whole cases.
    spaces
        Values to try of each setting, by method.
    budget
        Maximum number of settings that find fragments to try.
    progress
        Progress, which expects the steps of the search (`expected_steps`).
    indices
        Indices of the cases.
    """
    scorer, screener, estimator = scorer.on(indices), screener.on(indices), estimator.on(indices)
    for method, space in spaces.items():
        screener.limit(None if budget is None else max(1, budget // len(spaces)))
        fragment_space = _fragment_space(space, method)
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
        scores = screener.score(starts)
        _hill_climb(screener.score, starts[int(np.argmax(scores))], fragment_space, (2, 1))
    progress.end_step()
    promising = screener.promising()
    scores = estimator.score(promising)
    best = promising[int(np.argmax(scores))]
    estimator.limit(MAX_ESTIMATED_NEIGHBORS)
    _hill_climb(
        estimator.score, best, _fragment_space(spaces[best["method"]], best["method"]), (1,)
    )
    progress.end_step()
    finalists = [plain_settings(label), *estimator.finalists()]
    scores = scorer.score(finalists)
    progress.end_step()
    winner = finalists[int(np.argmax(scores))]
    space, finding = spaces[winner["method"]], fragment_settings(winner["method"])
    assembly_space = {n: space[n] for n in reversed(space) if n not in finding}
    found = _hill_climb(scorer.score, winner, assembly_space, (1,))
    progress.end_step()
    return found


def _fragment_space(space: SearchSpace, method: str) -> SearchSpace:
    """Return the values to try of the settings that find fragments."""
    return {name: space[name] for name in space if name in fragment_settings(method)}


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
