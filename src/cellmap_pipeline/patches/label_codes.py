"""Targets of all channels of a crop in one number per voxel, kept compressed in memory.

Voxels with the same targets in all channels share a code, and a table says what each code stands
for. So a voxel takes a byte or two however many classes there are, and far less compressed; what
moves voxels (cutting, turning, travelling to a GPU) moves one array. `decode` makes the targets.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numcodecs import blosc
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape, shape_of
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.targets import UNKNOWN, halo, imply, make_targets

# Voxels along each side of a compressed block.
BLOCK = 64
# What Python takes for a block besides its content, bytes.
OVERHEAD = 500
# The code of what lies outside the crop: nothing is known there.
OUTSIDE = 0
# Random odd numbers: a sum of targets times these differs wherever a target does (two of n
# combinations fall together with a chance of n² / 2⁶⁵).
_KEYS = np.random.default_rng(48).integers(1, 2**63, 1024, dtype=np.uint64) * np.uint64(2) + 1

blosc.use_threads = False  # Loader threads each decode their own blocks.


class Block(NamedTuple):
    """A compressed block of codes, and the codes that occur in it."""

    packed: bytes
    present: NDArray[np.uint16]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return len(self.packed) + self.present.nbytes + OVERHEAD


class BlockCache:
    """Compressed blocks; beyond a limit the least recently used are dropped."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self.bytes = 0
        self._blocks: OrderedDict[tuple, Block] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple) -> Block | None:
        """The block of that key, if it is there."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def put(self, key: tuple, block: Block) -> None:
        """Keep a block that is not there yet."""
        with self._lock:
            self.bytes += block.nbytes
            self._blocks[key] = block
            while self.bytes > self.limit and len(self._blocks) > 1:
                self.bytes -= self._blocks.popitem(last=False)[1].nbytes


class LabelCodes:
    """The targets of one crop as codes, read by box.

    Parameters
    ----------
    crop
        The crop.
    channels
        As `targets.stored_channels` gives them.
    implied
        Per class, annotated classes that make a voxel positive and negative of it
        (`relations.implied`); empty: only what is annotated is known.
    cache
        Keeps the blocks of all crops.
    """

    def __init__(
        self,
        crop: CropData,
        channels: Sequence[str],
        implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
        cache: BlockCache,
    ) -> None:
        self.crop = crop
        self.channels = list(channels)
        self.implied = implied
        self.cache = cache
        self._code_of: dict[bytes, int] = {}
        self._rows: list[NDArray[np.uint8]] = []
        self._table = np.empty((0, len(self.channels)), np.uint8)
        self._halo = (halo(self.channels),) * 3
        self._lock = threading.Lock()
        self._making = [threading.Lock() for _ in range(16)]
        self._codes_for(np.full((1, len(self.channels)), UNKNOWN, np.uint8))

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.uint8]]:
        """Codes of a box of the crop's grid, and what they stand for.

        Returns
        -------
        codes
            (z, y, x) uint8, or uint16 where some are above 255; 0 outside the crop.
        table
            (codes, channels) uint8 with 0, 1 or 255 for unknown. Rows of codes that cannot occur in
            the box repeat one that can, so that a column tells what its channel holds.
        """
        stop = [a + n for a, n in zip(start, shape, strict=True)]
        low = [max(0, a) for a in start]
        high = [min(n, b) for n, b in zip(self.crop.grid.shape, stop, strict=True)]
        indices = product(
            *(range(a // BLOCK, -(-b // BLOCK)) for a, b in zip(low, high, strict=True))
        )
        blocks = {index: self._block(index) for index in indices}
        present = [block.present for block in blocks.values()]
        wide = any(_dtype(block.present) is np.uint16 for block in blocks.values())
        codes = np.empty(tuple(shape), np.uint16 if wide else np.uint8)
        if low != list(start) or high != stop:
            codes.fill(OUTSIDE)
            present.append(np.array([OUTSIDE], np.uint16))
        for index, block in blocks.items():
            held = np.empty(self._block_shape(index), _dtype(block.present))
            blosc.decompress(block.packed, held)
            into, out_of = [], []
            for i, n, a, b, s in zip(index, held.shape, low, high, start, strict=True):
                first, last = max(i * BLOCK, a), min(i * BLOCK + n, b)
                into.append(slice(first - s, last - s))
                out_of.append(slice(first - i * BLOCK, last - i * BLOCK))
            codes[tuple(into)] = held[tuple(out_of)]
        table = self._whole_table()
        occurs = np.zeros(len(table), bool)
        occurs[np.concatenate(present)] = True
        table[~occurs] = table[occurs.argmax()]
        return codes, table

    def _block_shape(self, index: Sequence[int]) -> Shape:
        sides = zip(index, self.crop.grid.shape, strict=True)
        return shape_of(min(BLOCK, n - i * BLOCK) for i, n in sides)

    def _block(self, index: Sequence[int]) -> Block:
        """A block, made when it is first wanted."""
        key = (id(self), *index)
        block = self.cache.get(key)
        if block is None:
            # One thread makes a block while others that want it wait.
            with self._making[hash(key) % len(self._making)]:
                block = self.cache.get(key)
                if block is None:
                    codes, present = self._make(
                        [i * BLOCK for i in index], self._block_shape(index)
                    )
                    packed = blosc.compress(codes.astype(_dtype(present)), b"lz4", 5, blosc.SHUFFLE)
                    block = Block(packed, present)
                    self.cache.put(key, block)
        return block

    def _make(
        self, start: Sequence[int], shape: Shape
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Codes of a block, from the stored labels, and which occur in it."""
        # More on each side: the boundary of an object hangs on its neighbours.
        grid = self.crop.grid.box(start, shape).padded(self._halo)
        targets = read_targets(self.crop, grid, self.channels, self.implied)
        z, y, x = (slice(h, h + n) for h, n in zip(self._halo, shape, strict=True))
        local, rows = encode(targets[:, z, y, x])
        present = self._codes_for(rows)
        return present[local], present

    def _whole_table(self) -> NDArray[np.uint8]:
        """What all codes so far stand for; a copy."""
        with self._lock:
            if len(self._table) < len(self._rows):
                self._table = np.stack(self._rows)
            return self._table.copy()

    def _codes_for(self, rows: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """The crop's codes of combinations of targets (n, channels)."""
        codes = np.empty(len(rows), np.uint16)
        with self._lock:
            for i, row in enumerate(rows):
                code = self._code_of.setdefault(row.tobytes(), len(self._rows))
                if code == len(self._rows):
                    self._rows.append(row)
                if code > np.iinfo(np.uint16).max:
                    raise InputError(
                        f"{self.crop.label_folder}: its labels overlap in more than 65,535 "
                        "ways: train on fewer classes at once"
                    )
                codes[i] = code
        return codes


def _dtype(present: NDArray[np.uint16]) -> type[np.uint8 | np.uint16]:
    """Of codes of which these are all: a byte where they fit."""
    return np.uint8 if present.max() <= np.iinfo(np.uint8).max else np.uint16


def read_targets(
    crop: CropData,
    grid: Grid,
    channels: Sequence[str],
    implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
) -> NDArray[np.uint8]:
    """Targets (c, z, y, x) uint8 on a grid, from the stored labels; 255 where they or the raw are
    unknown.
    """
    read = {label: volume.read(grid) for label, volume in crop.labels.items()}
    targets = make_targets(
        {label: ids for label, (ids, _) in read.items()},
        {label: known for label, (_, known) in read.items()},
        channels,
        grid.voxel_size,
    )
    imply(targets, channels, implied)
    # Where there is no raw there is nothing to learn.
    nothing = np.ones(grid.shape, bool)
    nothing[crop.raw.inside(grid)] = False
    if nothing.any():
        targets[:, nothing] = UNKNOWN
    return targets


def encode(targets: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Number the combinations of targets that occur.

    Parameters
    ----------
    targets
        (c, z, y, x) uint8.

    Returns
    -------
    codes
        (z, y, x), which of `rows` each voxel has.
    rows
        (n, c) uint8, in the order in which they occur.
    """
    keys = np.zeros(targets.shape[1:], np.uint64)
    for target, key in zip(targets, _KEYS, strict=False):
        if (target != target[0, 0, 0]).any():
            keys += target * key
    codes, _ = pd.factorize(keys.ravel())
    first = np.empty(codes.max() + 1, np.intp)
    first[codes[::-1]] = np.arange(codes.size)[::-1]
    rows = targets.reshape(len(targets), -1)[:, first].T
    return codes.reshape(keys.shape), np.ascontiguousarray(rows)
