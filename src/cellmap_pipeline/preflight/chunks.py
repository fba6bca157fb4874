"""Chunks of stored arrays, decoded by threads before anything expensive reads them."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from tqdm import tqdm

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape, shape_of
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.storage import S3Path

# Voxels to decode in all; of more, the same share of each array is. A small chunk counts as much
# as a file takes to open.
MOST_VOXELS = 4e10
SMALL_CHUNK = 2**16
# Bytes of chunks that are decoded at the same time.
MEMORY = 1_500_000_000
# Chunks that a thread takes at once, and threads per processor: they wait for the disk, too.
TOGETHER = 16
PER_PROCESSOR = 4


@dataclass
class Values:
    """What decoded voxels hold.

    Attributes
    ----------
    decoded
        Chunks.
    low, high
        Least and greatest value; of floats, NaN aside.
    present
        Voxels above 0.
    nan
        Whether one is not a number.
    ranges
        By chunk, its least and greatest value.
    broken
        Why chunks cannot be decoded.
    """

    decoded: int = 0
    low: float = math.inf
    high: float = -math.inf
    present: int = 0
    nan: bool = False
    ranges: dict[Shape, tuple[float, float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


@dataclass
class Look:
    """An array and the chunks of it that are wanted.

    Attributes
    ----------
    here
        By index, those that are here.
    unknown
        A value that is no label, and not counted.
    """

    level: Level
    here: set[Shape] = field(default_factory=set)
    unknown: int | None = None
    values: Values = field(default_factory=Values)

    def want(self, start: Sequence[int], stop: Sequence[int]) -> None:
        """Take in the chunks under a box inside the array."""
        chunks = self.level.metadata["chunks"]
        first = [a // c for a, c in zip(start, chunks, strict=True)]
        missing = self.level.missing_chunks(start, stop)
        self.here |= {shape_of(i) for i in np.argwhere(~missing) + first}

    @property
    def whole(self) -> bool:
        """Whether all that is here was decoded."""
        return self.values.decoded == len(self.here)

    @property
    def chunk_bytes(self) -> int:
        """Of a decoded chunk."""
        metadata = self.level.metadata
        return math.prod(metadata["chunks"]) * np.dtype(metadata["dtype"]).itemsize


def decode(looks: Collection[Look], threads: int) -> None:
    """Decode what is wanted, or an even share of it where that is too much; fills `values`.

    Of arrays in a bucket one chunk alone is read.
    """
    cost = sum(
        len(look.here) * max(SMALL_CHUNK, math.prod(look.level.metadata["chunks"]))
        for look in looks
        if not isinstance(look.level.path, S3Path)
    )
    share = min(1.0, MOST_VOXELS / max(cost, 1))
    chosen = {id(look): _spread(sorted(look.here), share, look) for look in looks}
    largest = max((look.chunk_bytes for look in looks), default=1)
    # A chunk is there up to three times: packed, decoded, and as what is asked of it.
    workers = max(1, min(PER_PROCESSOR * threads, MEMORY // (3 * largest)))
    lock = threading.Lock()
    total = sum(map(len, chosen.values()))
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, desc="Decoding", unit="chunk", disable=None) as bar,
    ):

        def work(task: tuple[Look, list[Shape]]) -> None:
            look, indices = task
            for index in indices:
                _decode_one(look, index, lock)
            with lock:
                bar.update(len(indices))

        tasks = [(look, some) for look in looks for some in _batches(chosen[id(look)], TOGETHER)]
        for _ in pool.map(work, tasks):
            pass


def _spread(indices: list[Shape], share: float, look: Look) -> list[Shape]:
    wanted = 1 if isinstance(look.level.path, S3Path) else math.ceil(share * len(indices))
    if wanted >= len(indices):
        return indices
    return [indices[(2 * i + 1) * len(indices) // (2 * wanted)] for i in range(wanted)]


def _batches(indices: list[Shape], size: int) -> Iterator[list[Shape]]:
    left = iter(indices)
    while some := list(islice(left, size)):
        yield some


def _decode_one(look: Look, index: Shape, lock: threading.Lock) -> None:
    level, values = look.level, look.values
    chunks = level.metadata["chunks"]
    start = [i * c for i, c in zip(index, chunks, strict=True)]
    stop = [min(a + c, n) for a, c, n in zip(start, chunks, level.grid.shape, strict=True)]
    try:
        voxels = level.read(start, stop)
    except InputError as error:
        with lock:
            values.broken.append(str(error))
        return
    low, high = voxels.min(), voxels.max()
    nan = voxels.dtype.kind == "f" and bool(np.isnan(low))
    if nan and np.isnan(voxels).all():
        low, high = math.inf, -math.inf
    elif nan:
        low, high = np.nanmin(voxels), np.nanmax(voxels)
    positive = voxels if voxels.dtype.kind in "ub" else voxels > 0
    present = int(np.count_nonzero(positive)) if high > 0 else 0
    if look.unknown is not None and high >= look.unknown:
        present -= int(np.count_nonzero(voxels == look.unknown))
    with lock:
        values.decoded += 1
        values.low, values.high = min(values.low, float(low)), max(values.high, float(high))
        values.present += present
        values.nan |= nan
        values.ranges[index] = float(low), float(high)
