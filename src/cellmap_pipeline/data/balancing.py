"""Dividing groups in two so that each class is shared out in the same proportion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The search: descents from random choices, then from the best one with some groups moved.
RESTARTS = 16
KICKS = 400
KICKED = 10
# What a class on the wrong side costs: more than all shares that are off together.
MISPLACED = 1000.0


def balanced_choice(volume: NDArray[np.float64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Groups that hold about `fraction` of each class; the same for the same groups and seed.

    A class that two groups or more hold is held by a chosen group and by one that is not, where
    that can be; a class of one group is not chosen. The best of many descents by single moves
    and swaps.

    Parameters
    ----------
    volume
        (groups, classes), how much each group holds; there are two groups or more, and each class
        has some.

    Returns
    -------
    (groups,) bool, neither all nor none.
    """
    rng = np.random.default_rng(seed)
    cost = _Cost(volume, fraction)
    best, lowest = np.zeros(len(volume), bool), np.inf
    for attempt in range(RESTARTS + KICKS):
        if attempt < RESTARTS:
            chosen = rng.random(len(volume)) < fraction
        else:
            chosen = best.copy()
            chosen[rng.choice(len(volume), min(KICKED, len(volume) // 2), replace=False)] ^= True
        reached = _descend(chosen, cost)
        if reached < lowest - 1e-12:
            best, lowest = chosen, reached
    return best


def _descend(chosen: NDArray[np.bool_], cost: _Cost) -> float:
    """Improve a choice in place until no move and no swap helps; what it costs in the end."""
    reached = cost.of(chosen)
    while True:
        changed, then = _best_change(chosen, cost)
        if then >= reached - 1e-12:
            return reached
        chosen[changed] ^= True
        reached = then


def _best_change(chosen: NDArray[np.bool_], cost: _Cost) -> tuple[list[int], float]:
    """The groups to move to the other side, and what it costs then: one, or else two that swap."""
    now = cost.of(chosen)
    held = chosen @ cost.parts
    moved = cost(held + np.where(chosen[:, None], -cost.parts, cost.parts))
    best = int(moved.argmin())
    if moved[best] < now - 1e-12:
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
    """How bad choices are: shares that are off, classes that one side lacks.

    Attributes
    ----------
    parts
        (groups, 2 · classes + 1), what each group adds to a choice: its share of each class, 1 for
        each class that it holds, and 1 for itself. The sum over a choice decides its cost.
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
        """The cost of one choice, (groups,)."""
        return float(self((chosen @ self.parts)[None])[0])

    def __call__(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The costs of choices, given the sums (choices, 2 · classes + 1) of their parts."""
        share, holding, size = np.split(sums, [self.classes, 2 * self.classes], axis=1)
        misplaced = ((holding == 0) & self.common) | (holding == self.total)
        one_sided = (size[:, 0] == 0) | (size[:, 0] == len(self.parts))
        # Squares, so that no class is far off for the sake of many.
        off = np.square(share - self.fraction).sum(axis=1)
        return off + MISPLACED * (misplaced.sum(axis=1) + self.classes * one_sided)
