"""The symmetries of a box: flips, and permutations of the axes of a cube."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

from torch import Tensor

# Order of the axes, and which of them are flipped after that.
Symmetry = tuple[tuple[int, ...], tuple[bool, ...]]
_FLIPS = list(product([False, True], repeat=3))
# By their number: the identity, all flips, and all flips of all permutations of the axes.
SYMMETRIES: dict[int, list[Symmetry]] = {
    1: [((0, 1, 2), (False, False, False))],
    8: [((0, 1, 2), flips) for flips in _FLIPS],
    48: [(axes, flips) for axes in permutations(range(3)) for flips in _FLIPS],
}


def apply_symmetry(tensor: Tensor, symmetry: Symmetry) -> Tensor:
    """Apply a symmetry to the last three axes of (n, c, z, y, x)."""
    axes, flips = symmetry
    return _flip(tensor.permute(0, 1, *(axis + 2 for axis in axes)), flips)


def undo_symmetry(tensor: Tensor, symmetry: Symmetry) -> Tensor:
    """Undo `apply_symmetry`."""
    axes, flips = symmetry
    inverse = [axes.index(axis) + 2 for axis in range(3)]
    return _flip(tensor, flips).permute(0, 1, *inverse)


def _flip(tensor: Tensor, flips: Sequence[bool]) -> Tensor:
    return tensor.flip([axis + 2 for axis, flip in enumerate(flips) if flip])
