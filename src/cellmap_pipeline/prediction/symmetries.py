"""The symmetries of a box: flips, and turns of a cube."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

from torch import Tensor

# Order of the axes, and which of them are flipped then.
Symmetry = tuple[tuple[int, ...], tuple[bool, ...]]
_FLIPS = list(product([False, True], repeat=3))
# By how many there are: none but the box itself, all flips, and those of all turns of a cube.
SYMMETRIES: dict[int, list[Symmetry]] = {
    1: [((0, 1, 2), (False, False, False))],
    8: [((0, 1, 2), flips) for flips in _FLIPS],
    48: [(axes, flips) for axes in permutations(range(3)) for flips in _FLIPS],
}


def turn(tensor: Tensor, symmetry: Symmetry) -> Tensor:
    """(n, c, z, y, x) with its last three axes in the symmetry's order, then flipped."""
    axes, flips = symmetry
    return _flip(tensor.permute(0, 1, *(axis + 2 for axis in axes)), flips)


def turn_back(tensor: Tensor, symmetry: Symmetry) -> Tensor:
    """What `turn` was given, from what it returned."""
    axes, flips = symmetry
    inverse = [axes.index(axis) + 2 for axis in range(3)]
    return _flip(tensor, flips).permute(0, 1, *inverse)


def _flip(tensor: Tensor, flips: Sequence[bool]) -> Tensor:
    return tensor.flip([axis + 2 for axis, flip in enumerate(flips) if flip])
