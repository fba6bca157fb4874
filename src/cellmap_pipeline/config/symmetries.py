"""The symmetries of a box over which predictions are averaged, and what they make of offsets."""

from __future__ import annotations

from collections.abc import Collection
from itertools import permutations, product

from cellmap_pipeline.geometry import Shape, shape_of

# Order of the axes, and which of them are flipped after that.
Symmetry = tuple[tuple[int, ...], tuple[bool, ...]]
_FLIPS = list(product([False, True], repeat=3))
# By their number: the identity, all flips, and all flips of all permutations of the axes.
SYMMETRIES: dict[int, list[Symmetry]] = {
    1: [((0, 1, 2), (False, False, False))],
    8: [((0, 1, 2), flips) for flips in _FLIPS],
    48: [(axes, flips) for axes in permutations(range(3)) for flips in _FLIPS],
}


def canonical_offset(offset: Shape) -> tuple[Shape, bool]:
    """Return the offset, or the opposite one, and whether it is the opposite one.

    Both stand for the same pairs of voxels (`channels`); the first component that is not 0 is
    positive.
    """
    negated = next((o < 0 for o in offset if o), False)
    return (shape_of(-o for o in offset), True) if negated else (offset, False)


def transformed_offset(offset: Shape, symmetry: Symmetry) -> tuple[Shape, bool]:
    """Return what `canonical_offset` returns for the offset in a transformed volume."""
    axes, flips = symmetry
    return canonical_offset(
        shape_of(-offset[a] if flip else offset[a] for a, flip in zip(axes, flips, strict=True))
    )


def missing_offsets(offsets: Collection[Shape], n_symmetries: int) -> list[Shape]:
    """List the offsets that symmetries make of `offsets` and that are not among them."""
    made = {
        transformed_offset(offset, symmetry)[0]
        for offset in offsets
        for symmetry in SYMMETRIES[n_symmetries]
    }
    return sorted(made - set(offsets))
