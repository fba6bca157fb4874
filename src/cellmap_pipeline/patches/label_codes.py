"""Targets of all channels of a crop as one code per voxel, kept compressed in memory.

Voxels with the same targets in all stored channels share a code, and a table lists the targets of
each code. So a voxel takes one or two bytes whatever the number of classes, and far less when
compressed, and whatever moves voxels (cropping, rotating, copying to a GPU) moves a single array.
`batches.decode_targets` turns codes back into targets. Object ids are encoded like other targets,
as digits (see `targets`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import fastremap
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape, shape_of
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.targets import (
    UNKNOWN,
    fill_implied,
    fill_pseudo_labels,
    forget_contradictions,
    halo,
    make_targets,
)

BLOCK_SIDE_VOXELS = 64
# Memory that Python takes for a block besides its content.
BLOCK_OVERHEAD_BYTES = 500
# The code of voxels outside the crop, where all targets are unknown.
OUTSIDE_CODE = 0
# Random odd numbers. A sum of targets times these identifies a combination of targets: any two of
# n combinations have the same sum with a probability of n² / 2⁶⁵.
_HASH_FACTORS = np.random.default_rng(48).integers(1, 2**63, 1024, dtype=np.uint64)
_HASH_FACTORS = _HASH_FACTORS * np.uint64(2) + 1

blosc.use_threads = False  # Each loader thread decodes its own blocks.


class CodeBlock(NamedTuple):
    """A compressed block of codes, and the codes that occur in it."""

    compressed: bytes
    present_codes: NDArray[np.uint16]

    @property
    def nbytes(self) -> int:
        """Bytes that the block takes in memory."""
        return len(self.compressed) + self.present_codes.nbytes + BLOCK_OVERHEAD_BYTES


class BlockCache:
    """Cache of compressed blocks that drops the least recently used ones beyond a limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._blocks: OrderedDict[tuple, CodeBlock] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple) -> CodeBlock | None:
        """Return the block stored under `key`, or None."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def put(self, key: tuple, block: CodeBlock) -> None:
        """Store a block under a key that is not in the cache."""
        with self._lock:
            self.used_bytes += block.nbytes
            self._blocks[key] = block
            while self.used_bytes > self.limit_bytes and len(self._blocks) > 1:
                self.used_bytes -= self._blocks.popitem(last=False)[1].nbytes


class LabelCodes:
    """The targets of one crop as codes, read by box.

    Parameters
    ----------
    crop
        The crop.
    channels
        Channels as returned by `targets.stored_channels`.
    implied
        Per class, the annotated classes whose voxels belong to it and those whose voxels do not
        (`class_table.implied`); empty: only annotated targets are known.
    cache
        Cache of the blocks of all crops.
    atoms
        The atoms of the training's `hierarchy`; classes that contradict each other are unknown.
    """

    def __init__(
        self,
        crop: CropData,
        channels: Sequence[str],
        implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
        cache: BlockCache,
        atoms: Sequence[Sequence[str]] = (),
    ) -> None:
        self.crop = crop
        self.channels = list(channels)
        self.implied = implied
        self.atoms = atoms
        self.cache = cache
        self._code_of: dict[bytes, int] = {}
        self._rows: list[NDArray[np.uint8]] = []
        self._table = np.empty((0, len(self.channels)), np.uint8)
        self._halo = (halo(self.channels),) * 3
        self._lock = threading.Lock()
        self._block_locks = [threading.Lock() for _ in range(16)]
        self._codes_for(np.full((1, len(self.channels)), UNKNOWN, np.uint8))

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.uint8]]:
        """Read the codes of a box of the crop's grid, and the table of their targets.

        Returns
        -------
        codes
            (z, y, x) uint8, or uint16 where some are above 255; 0 outside the crop.
        table
            (codes, channels) uint8 with 0, 1 or 255 for unknown. Rows of codes absent from the box
            are copies of one that is present, so each column lists only values found in the box.
        """
        stop = [a + n for a, n in zip(start, shape, strict=True)]
        low = [max(0, a) for a in start]
        high = [min(n, b) for n, b in zip(self.crop.grid.shape, stop, strict=True)]
        side = BLOCK_SIDE_VOXELS
        ranges = [
            range(a // side, -(-b // side) if a < b else a // side)
            for a, b in zip(low, high, strict=True)
        ]
        indices = product(*ranges)
        blocks = {index: self._block(index) for index in indices}
        present = [block.present_codes for block in blocks.values()]
        wide = any(_code_dtype(codes) is np.uint16 for codes in present)
        codes = np.empty(tuple(shape), np.uint16 if wide else np.uint8)
        if low != list(start) or high != stop:
            codes.fill(OUTSIDE_CODE)
            present.append(np.array([OUTSIDE_CODE], np.uint16))
        for index, block in blocks.items():
            decoded = np.empty(self._block_shape(index), _code_dtype(block.present_codes))
            blosc.decompress(block.compressed, decoded)
            into, out_of = [], []
            for i, n, a, b, s in zip(index, decoded.shape, low, high, start, strict=True):
                first, last = max(i * side, a), min(i * side + n, b)
                into.append(slice(first - s, last - s))
                out_of.append(slice(first - i * side, last - i * side))
            codes[tuple(into)] = decoded[tuple(out_of)]
        table = self._copy_table()
        occurs = np.zeros(len(table), bool)
        occurs[np.concatenate(present)] = True
        table[~occurs] = table[occurs.argmax()]
        return codes, table

    def _block_shape(self, index: Sequence[int]) -> Shape:
        sides = zip(index, self.crop.grid.shape, strict=True)
        return shape_of(min(BLOCK_SIDE_VOXELS, n - i * BLOCK_SIDE_VOXELS) for i, n in sides)

    def _block(self, index: Sequence[int]) -> CodeBlock:
        """Return a block from the cache, or encode it."""
        key = (id(self), *index)
        block = self.cache.get(key)
        if block is None:
            # Threads that need the same block wait for the one that encodes it.
            with self._block_locks[hash(key) % len(self._block_locks)]:
                block = self.cache.get(key)
                if block is None:
                    codes, present = self._encode_block(
                        [i * BLOCK_SIDE_VOXELS for i in index], self._block_shape(index)
                    )
                    codes = codes.astype(_code_dtype(present))
                    block = CodeBlock(blosc.compress(codes, b"lz4", 5, blosc.SHUFFLE), present)
                    self.cache.put(key, block)
        return block

    def _encode_block(
        self, start: Sequence[int], shape: Shape
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Encode a block from the stored labels; return its codes, and those that occur in it."""
        # Read with a halo: the targets of a voxel depend on its surroundings.
        grid = self.crop.grid.box(start, shape).padded(self._halo)
        targets = read_targets(self.crop, grid, self.channels, self.implied)
        z, y, x = (slice(h, h + n) for h, n in zip(self._halo, shape, strict=True))
        local, rows = encode_targets(targets[:, z, y, x])
        forget_contradictions(rows, self.channels, self.atoms)
        present = self._codes_for(rows)
        return present[local], present

    def _copy_table(self) -> NDArray[np.uint8]:
        """Return a copy of the targets of all codes so far."""
        with self._lock:
            if len(self._table) < len(self._rows):
                self._table = np.stack(self._rows)
            return self._table.copy()

    def _codes_for(self, rows: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Return the crop's codes of combinations of targets (n, channels), new ones included."""
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


def _code_dtype(present_codes: NDArray[np.uint16]) -> type[np.uint8 | np.uint16]:
    """Smallest type that holds all of the codes."""
    return np.uint8 if present_codes.max() <= np.iinfo(np.uint8).max else np.uint16


def read_targets(
    crop: CropData,
    grid: Grid,
    channels: Sequence[str],
    implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
) -> NDArray[np.uint8]:
    """Make the targets on a grid from the stored labels, and from pseudo-labels around them.

    Returns
    -------
    (c, z, y, x) uint8; 255 where labels or raw are unknown.
    """
    read = {label: volume.read(grid) for label, volume in crop.labels.items()}
    targets = make_targets(
        {label: ids for label, (ids, _) in read.items()},
        {label: known for label, (_, known) in read.items()},
        channels,
        grid.voxel_size,
    )
    fill_implied(targets, channels, implied)
    taught = {label: volume.read(grid) for label, volume in crop.pseudo_labels.items()}
    fill_pseudo_labels(targets, channels, taught)
    # Nothing can be learned without raw.
    without_raw = np.ones(grid.shape, bool)
    without_raw[crop.raw.inside(grid)] = False
    if without_raw.any():
        targets[:, without_raw] = UNKNOWN
    return targets


def encode_targets(targets: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Number the combinations of targets that occur.

    Parameters
    ----------
    targets
        (c, z, y, x) uint8.

    Returns
    -------
    codes
        (z, y, x), the index into `rows` of each voxel's combination.
    rows
        (n, c) uint8, in order of first occurrence.
    """
    keys = np.zeros(targets.shape[1:], np.uint64)
    for target, factor in zip(targets, _HASH_FACTORS, strict=False):
        if (target != target[0, 0, 0]).any():
            keys += target * factor
    numbers, _ = fastremap.renumber(keys.ravel(), preserve_zero=False)
    codes = numbers.astype(np.intp) - 1
    first = np.empty(codes.max() + 1, np.intp)
    first[codes[::-1]] = np.arange(codes.size)[::-1]
    rows = targets.reshape(len(targets), -1)[:, first].T
    return codes.reshape(keys.shape), np.ascontiguousarray(rows)
