"""Division of groups of crops into two sides with about the same fraction of each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The search descends from random choices, then from the best choice with some groups moved.
RANDOM_STARTS = 16
PERTURBATIONS = 100
PERTURBED_GROUPS = 10
# Cost of a class that one side lacks; it exceeds the total cost of all deviating fractions.
MISPLACED_COST = 1000.0
# From this number of groups on, a dataset that comes first has one that is chosen.
MIN_GROUPS_OF_FIRST = 3
# In `fixed`, a group that may be chosen or not.
FREE = -1


def balanced_choice(
    volume: NDArray[np.float64],
    datasets: NDArray[np.int64],
    first: NDArray[np.bool_],
    fraction: float,
    seed: int,
    fixed: NDArray[np.int8] | None = None,
    min_left: int = 1,
) -> NDArray[np.bool_]:
    """Choose about `fraction` of the groups, of each dataset's groups, and of each class.

    A class of two groups or more is in a chosen group and in another one, where possible; a class
    of a single group is not chosen. No dataset is chosen as a whole, unless each has a single
    group, and a dataset that comes first is chosen in part if it has three groups or more. The
    result is the best of many descents by single moves and swaps, and is deterministic
    for the same groups and seed.

    Parameters
    ----------
    volume
        (groups, classes), the amount of each class in each group; there are at least two groups,
        and each class is in one of them.
    datasets
        (groups,), the number of the dataset of each group.
    first
        (datasets,), whether a dataset comes first.
    fraction
        Fraction to choose.
    seed
        Seed of the search.
    fixed
        (groups,), 1 for groups that must be chosen, 0 for those that must not, and `FREE`; by
        default all are free.
    min_left
        Number of groups that are not chosen at least, where free groups allow it.

    Returns
    -------
    (groups,) bool, True for the chosen groups: neither all nor none, where free groups allow it.
    """
    rng = np.random.default_rng(seed)
    free = np.ones(len(volume), bool) if fixed is None else fixed == FREE
    start = np.zeros(len(volume), bool) if fixed is None else fixed == 1
    movable = np.flatnonzero(free)
    if not movable.size:
        return start
    cost = _Cost(volume, datasets, first, fraction, min_left)
    best, lowest = np.zeros(len(volume), bool), np.inf
    for attempt in range(RANDOM_STARTS + PERTURBATIONS):
        if attempt < RANDOM_STARTS:
            chosen = np.where(free, rng.random(len(volume)) < fraction, start)
        else:
            chosen = best.copy()
            moved = min(PERTURBED_GROUPS, movable.size // 2)
            chosen[rng.choice(movable, moved, replace=False)] ^= True
        reached = _descend(chosen, free, cost)
        if reached < lowest - 1e-12:
            best, lowest = chosen, reached
    return best


def _descend(chosen: NDArray[np.bool_], free: NDArray[np.bool_], cost: _Cost) -> float:
    """Improve a choice in place until no move or swap helps, and return its cost."""
    current = cost.of(chosen)
    while True:
        changed, lowest = _best_change(chosen, free, cost)
        if lowest >= current - 1e-12:
            return current
        chosen[changed] ^= True
        current = lowest


def _best_change(
    chosen: NDArray[np.bool_], free: NDArray[np.bool_], cost: _Cost
) -> tuple[list[int], float]:
    """Find the best move of one free group or swap of two; return them and the new cost."""
    current = cost.of(chosen)
    held = chosen @ cost.parts
    moved = cost(held + np.where(chosen[:, None], -cost.parts, cost.parts))
    moved[~free] = np.inf
    best = int(moved.argmin())
    if moved[best] < current - 1e-12:
        return [best], float(moved[best])
    out, into = np.flatnonzero(chosen & free), np.flatnonzero(~chosen & free)
    change, lowest = [best], float(moved[best])
    for i in out if into.size else ():
        swapped = cost(held - cost.parts[i] + cost.parts[into])
        j = int(swapped.argmin())
        if swapped[j] < lowest:
            change, lowest = [int(i), int(into[j])], float(swapped[j])
    return change, lowest


class _Cost:
    """Cost of choices: deviating fractions, and classes and datasets that one side lacks.

    Attributes
    ----------
    parts
        (groups, 2 · classes + datasets + 1), the contribution of each group to a choice: its
        fraction of each class, 1 for each class that it holds, 1 for its dataset, and 1 for itself.
        The sum over the chosen groups determines the cost.
    """

    def __init__(
        self,
        volume: NDArray[np.float64],
        datasets: NDArray[np.int64],
        first: NDArray[np.bool_],
        fraction: float,
        min_left: int,
    ) -> None:
        holds, members = volume > 0, datasets[:, None] == np.arange(len(first))
        self.fraction, self.max_size = fraction, len(volume) - min_left
        self.parts = np.concatenate(
            [volume / volume.sum(axis=0), holds, members, np.ones((len(volume), 1))], axis=1
        )
        self.classes = volume.shape[1]
        self.total = holds.sum(axis=0)
        self.common = self.total >= 2
        self.groups = members.sum(axis=0)
        self.divisible = self.groups >= 2
        self.wanted = first & (self.groups >= MIN_GROUPS_OF_FIRST)

    def of(self, chosen: NDArray[np.bool_]) -> float:
        """Return the cost of one choice, (groups,)."""
        return float(self((chosen @ self.parts)[None])[0])

    def __call__(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the costs of choices, given the sums of their parts (choices, …)."""
        n = self.classes
        share, holding, members, size = np.split(sums, [n, 2 * n, len(self.parts[0]) - 1], axis=1)
        misplaced = ((holding == 0) & self.common) | (holding == self.total)
        # More than the cost of all classes and datasets that could be misplaced instead.
        excess = np.maximum(size[:, 0] - self.max_size, size[:, 0] == 0)
        one_sided = np.maximum(excess, 0) * (1 + n + 3 * len(self.groups))
        # Squares keep a single class or dataset from deviating far for the sake of many others. The
        # fraction of all groups counts as much as those of all classes.
        deviation = np.square(share - self.fraction).sum(axis=1)
        of_datasets = members[:, self.divisible] / self.groups[self.divisible]
        deviation += np.square(of_datasets - self.fraction).sum(axis=1)
        deviation += n * np.square(size[:, 0] / len(self.parts) - self.fraction)
        gone = misplaced.sum(axis=1) + one_sided
        gone = gone + ((members == 0) & self.wanted).sum(axis=1)
        if self.divisible.any():
            # A dataset without a training crop is worse than a class without a validation crop.
            gone = gone + 2 * (members == self.groups).sum(axis=1)
        return deviation + MISPLACED_COST * gone
