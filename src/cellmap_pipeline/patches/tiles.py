"""Choice of the tiles to validate on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product, repeat, zip_longest

import numpy as np

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.patches.augmentation.transform import PatchTransform
from cellmap_pipeline.patches.patch import CropReader, Patch, all_unknown, read_patch

# Share of the tiles that are chosen because a class occurs in them; the others are spread over the
# crops that annotate a class.
OCCURRENCE_SHARE = 0.7
# Steps along z, y and x of a number whose fraction orders tiles: the first ones of any number are
# spread evenly over the crop (the R3 sequence, with the root of x⁴ = x + 1).
SPREAD_STEPS = 1.2207440846 ** -np.arange(1.0, 4.0)

# A tile by the number of its crop and its own number in the crop.
Tile = tuple[int, int]


class ValidationTiles:
    """Validation patches: fixed tiles over the validation crops, without augmentation.

    If there are more tiles than `validation_iterations` takes, each class has its quota of them.
    Processes that train together need the same number of tiles: an index beyond the last tile
    gives a tile whose targets are all unknown.

    Attributes
    ----------
    tiles
        Reader and start of each tile.
    missed_classes
        Classes that occur in a validation crop, but in none of the tiles as far as is known.
    """

    def __init__(self, readers: Sequence[CropReader], training: Training) -> None:
        self.shape = training.patch_size
        self.missed_classes: list[str] = []
        crops = [_TiledCrop(reader, self.shape) for reader in readers]
        max_tiles = training.validation_iterations * training.batch_size
        tiles = [(i, tile) for i, crop in enumerate(crops) for tile in range(len(crop.starts))]
        if len(tiles) > max_tiles:
            tiles = sorted(choose_tiles(crops, training.classes, max_tiles))
            seen = {label for i, tile in tiles for label in crops[i].classes_by_tile.get(tile, ())}
            present = {label for reader in readers for label in reader.crop.present_classes}
            self.missed_classes = [c for c in training.classes if c in present - seen]
        self.tiles = [(crops[i].reader, crops[i].starts[tile]) for i, tile in tiles]

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, index: int) -> Patch:
        """Read the tile of an index."""
        reader, start = self.tiles[min(index, len(self.tiles) - 1)]
        patch = read_patch(reader, start, self.shape, PatchTransform())
        return patch if index < len(self.tiles) else replace(patch, table=all_unknown(patch.table))


class _TiledCrop:
    """A crop and the tiles that cover it, which are numbered along z, y and x.

    Attributes
    ----------
    reader
        Reader of the crop.
    starts
        Start of each tile.
    spread
        Numbers of all tiles, in an order of which each beginning is spread over the crop.
    """

    def __init__(self, reader: CropReader, shape: Shape) -> None:
        self.reader = reader
        self._shape = shape
        self._axes = [
            _starts_along(n, p) for n, p in zip(reader.crop.grid.shape, shape, strict=True)
        ]
        self.starts: list[Shape] = [(z, y, x) for z, y, x in product(*self._axes)]
        counts = [len(starts) for starts in self._axes]
        from_middle = np.indices(counts).reshape(3, -1).T - np.array(counts) // 2
        self.spread: list[int] = np.argsort(from_middle @ SPREAD_STEPS % 1, kind="stable").tolist()

    @cached_property
    def tiles_by_class(self) -> dict[str, list[int]]:
        """By class that occurs in the crop, the tiles in which it is known to, as in `spread`."""
        return {label: self._tiles_with(label) for label in self.reader.crop.present_classes}

    @cached_property
    def classes_by_tile(self) -> dict[int, list[str]]:
        """By number of a tile, the classes that are known to occur in it."""
        classes: dict[int, list[str]] = {}
        for label, tiles in self.tiles_by_class.items():
            for tile in tiles:
                classes.setdefault(tile, []).append(label)
        return classes

    def _tiles_with(self, label: str) -> list[int]:
        if len(self.starts) == 1:
            return [0]
        voxels = self.reader.crop.positions(label)
        # Of overlapping tiles, a voxel counts for the one whose center is nearest.
        nearest = [
            np.abs(voxels[:, axis, None] + 0.5 - np.add(starts, size / 2)).argmin(axis=1)
            for axis, (starts, size) in enumerate(zip(self._axes, self._shape, strict=True))
        ]
        tiles = np.ravel_multi_index(nearest, [len(starts) for starts in self._axes])
        known = set(tiles.tolist())
        return [tile for tile in self.spread if tile in known]


def choose_tiles(crops: Sequence[_TiledCrop], classes: Sequence[str], max_tiles: int) -> set[Tile]:
    """Choose tiles so that each class has its quota, always the same ones.

    The first tiles are those in which classes occur, at least one of each class that `max_tiles`
    allows; the others are of the classes that the fewest tiles so far annotate.
    """
    # First the crops of many classes, whose tiles count for all of them.
    by_variety = sorted(enumerate(crops), key=lambda item: -len(item[1].tiles_by_class))
    occurring = {
        label: [
            (i, crop.tiles_by_class[label])
            for i, crop in by_variety
            if label in crop.tiles_by_class
        ]
        for label in classes
    }
    annotating = {
        label: [
            (i, crop.spread) for i, crop in enumerate(crops) if label in crop.reader.crop.annotated
        ]
        for label in classes
    }
    chosen: set[Tile] = set()
    first = min(max_tiles, max(len(classes), round(OCCURRENCE_SHARE * max_tiles)))
    _fill(chosen, first, occurring, lambda i, tile: crops[i].classes_by_tile[tile])
    _fill(chosen, max_tiles, annotating, lambda i, tile: crops[i].reader.crop.annotated)
    return chosen


def _fill(
    chosen: set[Tile],
    number: int,
    candidates: Mapping[str, Sequence[tuple[int, Sequence[int]]]],
    classes_of: Callable[[int, int], Collection[str]],
) -> None:
    """Add tiles to `chosen` until there are `number`, or no more candidates.

    Each is of the class with the fewest tiles so far; of several, of the one with the fewest
    candidates, since its tiles often hold the common classes, too.

    Parameters
    ----------
    chosen
        The tiles chosen so far.
    number
        How many there should be.
    candidates
        By class, the numbers of crops and of the tiles in them.
    classes_of
        Function that lists the classes for which a tile counts.
    """
    available = {label: sum(len(t) for _, t in crops) for label, crops in candidates.items()}
    remaining = {label: _in_turns(crops) for label, crops in candidates.items()}
    counts = Counter(label for tile in chosen for label in classes_of(*tile))
    while len(chosen) < number and remaining:
        label = min(remaining, key=lambda label: (counts[label], available[label]))
        tile = next((tile for tile in remaining[label] if tile not in chosen), None)
        if tile is None:
            del remaining[label]
        else:
            chosen.add(tile)
            counts.update(classes_of(*tile))


def _in_turns(crops: Sequence[tuple[int, Sequence[int]]]) -> Iterator[Tile]:
    """Yield the first tile of each crop, then the second ones, and so on."""
    for turn in zip_longest(*(zip(repeat(i), tiles, strict=False) for i, tiles in crops)):
        yield from filter(None, turn)


def _starts_along(length: int, patch: int) -> list[int]:
    """List the starts of tiles that cover an axis, evenly spaced from its start to its end.

    A crop shorter than a tile lies in the tile's center.
    """
    count = max(1, -(-length // patch))
    last = length - patch
    return [round(i * last / (count - 1)) for i in range(count)] if count > 1 else [last // 2]
