"""Division of groups into two sides with about the same fraction of each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The search descends from random choices, then from the best choice with some groups moved.
RANDOM_STARTS = 16
PERTURBATIONS = 400
PERTURBED_GROUPS = 10
# Cost of a class that one side lacks; it exceeds the total cost of all deviating fractions.
MISPLACED_COST = 1000.0


def balanced_choice(volume: NDArray[np.float64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose groups that hold about `fraction` of each class.

    A class of two groups or more is in a chosen group and in another one, where possible; a class
    of a single group is not chosen. The result is the best of many descents by single moves and
    swaps, and is deterministic for the same groups and seed.

    Parameters
    ----------
    volume
        (groups, classes), the amount of each class in each group; there are at least two groups,
        and each class is in one of them.
    fraction
        Fraction of each class to choose.
    seed
        Seed of the search.

    Returns
    -------
    (groups,) bool, True for the chosen groups: neither all nor none.
    """
    rng = np.random.default_rng(seed)
    cost = _Cost(volume, fraction)
    best, lowest = np.zeros(len(volume), bool), np.inf
    for attempt in range(RANDOM_STARTS + PERTURBATIONS):
        if attempt < RANDOM_STARTS:
            chosen = rng.random(len(volume)) < fraction
        else:
            chosen = best.copy()
            moved = min(PERTURBED_GROUPS, len(volume) // 2)
            chosen[rng.choice(len(volume), moved, replace=False)] ^= True
        reached = _descend(chosen, cost)
        if reached < lowest - 1e-12:
            best, lowest = chosen, reached
    return best


def _descend(chosen: NDArray[np.bool_], cost: _Cost) -> float:
    """Improve a choice in place until no move or swap helps, and return its cost."""
    current = cost.of(chosen)
    while True:
        changed, lowest = _best_change(chosen, cost)
        if lowest >= current - 1e-12:
            return current
        chosen[changed] ^= True
        current = lowest


def _best_change(chosen: NDArray[np.bool_], cost: _Cost) -> tuple[list[int], float]:
    """Find the best move of one group or swap of two; return the groups and the new cost."""
    current = cost.of(chosen)
    held = chosen @ cost.parts
    moved = cost(held + np.where(chosen[:, None], -cost.parts, cost.parts))
    best = int(moved.argmin())
    if moved[best] < current - 1e-12:
        return [best], float(moved[best])
    out, into = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    change, lowest = [best], float(moved[best])
    for i in out:
        swapped = cost(held - cost.parts[i] + cost.parts[into])
        j = int(swapped.argmin())
        if swapped[j] < lowest:
            change, lowest = [int(i), int(into[j])], float(swapped[j])
    return change, lowest


class _Cost:
    """Cost of choices: deviating fractions, and classes that one side lacks.

    Attributes
    ----------
    parts
        (groups, 2 · classes + 1), the contribution of each group to a choice: its fraction of each
        class, 1 for each class that it holds, and 1 for itself. The sum over the chosen groups
        determines the cost.
    """

    def __init__(self, volume: NDArray[np.float64], fraction: float) -> None:
        holds = volume > 0
        self.fraction = fraction
        self.parts = np.concatenate(
            [volume / volume.sum(axis=0), holds, np.ones((len(volume), 1))], axis=1
        )
        self.classes = volume.shape[1]
        self.total = holds.sum(axis=0)
        self.common = self.total >= 2

    def of(self, chosen: NDArray[np.bool_]) -> float:
        """Return the cost of one choice, (groups,)."""
        return float(self((chosen @ self.parts)[None])[0])

    def __call__(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the costs of choices, given the sums (choices, 2 · classes + 1) of their parts."""
        share, holding, size = np.split(sums, [self.classes, 2 * self.classes], axis=1)
        misplaced = ((holding == 0) & self.common) | (holding == self.total)
        one_sided = (size[:, 0] == 0) | (size[:, 0] == len(self.parts))
        # Squares keep a single class from deviating far for the sake of many others.
        deviation = np.square(share - self.fraction).sum(axis=1)
        return deviation + MISPLACED_COST * (misplaced.sum(axis=1) + self.classes * one_sided)
