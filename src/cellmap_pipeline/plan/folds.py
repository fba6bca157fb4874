"""Names of networks: a training has one network, or one per fold."""

from __future__ import annotations


def fold_network(training: str, fold: int) -> str:
    """The name of a fold's network, under which its results lie."""
    return f"{training}/fold{fold}"


def training_of(network: str) -> str:
    """The training that a network belongs to."""
    return network.partition("/")[0]


def fold_of(network: str) -> int | None:
    """The fold on which a network validates; None if its training has no folds."""
    fold = network.partition("/fold")[2]
    return int(fold) if fold else None
