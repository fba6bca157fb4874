"""Decoding of stored chunks in threads, before anything expensive reads them."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape, shape_of
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.labels import PLAIN, Encoding
from cellmap_pipeline.io.remote.s3 import S3Path

# If there are more voxels, the same fraction of each array's chunks is decoded.
MAX_DECODED_VOXELS = 4e10
# Opening a file takes as long as decoding this many voxels.
MIN_CHUNK_COST_VOXELS = 2**16
MAX_DECODING_BYTES = 1_500_000_000
CHUNKS_PER_TASK = 16
# Threads also wait for the disk.
THREADS_PER_PROCESSOR = 4
# Percentiles are of the voxels at this distance along each axis.
SAMPLE_STEP_VOXELS = 4


@dataclass
class ChunkStatistics:
    """Statistics of decoded chunks.

    Attributes
    ----------
    decoded
        Number of decoded chunks.
    low, high
        Smallest and largest value; NaN, and the value of unknown voxels as the smallest, are
        ignored.
    present
        Number of voxels above 0.
    nan
        Whether any voxel is NaN.
    ranges
        Smallest and largest value of each chunk.
    percentiles
        1st and 99th percentile of each chunk (of a shard, of each inner chunk) that is not
        constant, from a sample of its voxels.
    broken
        Errors of chunks that cannot be decoded.
    """

    decoded: int = 0
    low: float = math.inf
    high: float = -math.inf
    present: int = 0
    nan: bool = False
    ranges: dict[Shape, tuple[float, float]] = field(default_factory=dict)
    percentiles: list[tuple[float, float]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@dataclass
class ChunkRequest:
    """Chunks of an array to decode.

    Attributes
    ----------
    level
        The array.
    stored
        Indices of the requested chunks that are stored.
    encoding
        The meaning of its values. Unknown and absent voxels are not counted as present.
    statistics
        Statistics of the decoded chunks.
    """

    level: Level
    stored: set[Shape] = field(default_factory=set)
    encoding: Encoding = PLAIN
    statistics: ChunkStatistics = field(default_factory=ChunkStatistics)

    def add_box(self, start: Sequence[int], stop: Sequence[int]) -> None:
        """Request the chunks of a box inside the array."""
        chunks = self.level.metadata.chunks
        first = [a // c for a, c in zip(start, chunks, strict=True)]
        missing = self.level.missing_chunks(start, stop)
        self.stored |= {shape_of(i) for i in np.argwhere(~missing) + first}

    @property
    def is_complete(self) -> bool:
        """Whether all requested chunks that are stored were decoded."""
        return self.statistics.decoded == len(self.stored)

    @property
    def chunk_bytes(self) -> int:
        """Size of what is decoded at once, bytes."""
        metadata = self.level.metadata
        return math.prod(metadata.decoded_chunks) * metadata.dtype.itemsize


def decode_chunks(requests: Collection[ChunkRequest], threads: int) -> None:
    """Decode the requested chunks, or an even fraction of too many, and fill their statistics.

    Only one chunk is read of each array in a bucket.
    """
    cost = sum(
        len(request.stored) * max(MIN_CHUNK_COST_VOXELS, math.prod(request.level.metadata.chunks))
        for request in requests
        if not isinstance(request.level.path, S3Path)
    )
    fraction = min(1.0, MAX_DECODED_VOXELS / max(cost, 1))
    chosen = {id(request): _spread(request, fraction) for request in requests}
    largest = max((request.chunk_bytes for request in requests), default=1)
    # A chunk is in memory up to three times: compressed, decoded, and as the returned part.
    workers = max(1, min(THREADS_PER_PROCESSOR * threads, MAX_DECODING_BYTES // (3 * largest)))
    lock = threading.Lock()
    total = sum(map(len, chosen.values()))
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, desc="Decoding", unit="chunk", disable=None) as bar,
    ):

        def work(task: tuple[ChunkRequest, list[Shape]]) -> None:
            request, indices = task
            for index in indices:
                _decode_chunk(request, index, lock)
            with lock:
                bar.update(len(indices))

        tasks = [
            (request, batch)
            for request in requests
            for batch in _batches(chosen[id(request)], CHUNKS_PER_TASK)
        ]
        for _ in pool.map(work, tasks):
            pass


def _spread(request: ChunkRequest, fraction: float) -> list[Shape]:
    """Choose an evenly spread fraction of the requested chunks, at least one."""
    indices = sorted(request.stored)
    in_bucket = isinstance(request.level.path, S3Path)
    number = 1 if in_bucket else math.ceil(fraction * len(indices))
    if number >= len(indices):
        return indices
    return [indices[(2 * i + 1) * len(indices) // (2 * number)] for i in range(number)]


def _batches(indices: list[Shape], size: int) -> Iterator[list[Shape]]:
    remaining = iter(indices)
    while batch := list(islice(remaining, size)):
        yield batch


def _decode_chunk(request: ChunkRequest, index: Shape, lock: threading.Lock) -> None:
    """Decode the chunk at `index`, a shard inner chunk by inner chunk, and add its statistics."""
    metadata, shape = request.level.metadata, request.level.grid.shape
    axes = [
        range(i * n, min((i + 1) * n, end), step)
        for i, n, end, step in zip(
            index, metadata.chunks, shape, metadata.decoded_chunks, strict=True
        )
    ]
    low, high, present, nan = math.inf, -math.inf, 0, False
    percentiles: list[tuple[float, float]] = []
    for start in product(*axes):
        ends = zip(start, metadata.decoded_chunks, axes, strict=True)
        try:
            voxels = request.level.read(start, [min(a + n, axis.stop) for a, n, axis in ends])
        except InputError as error:
            with lock:
                request.statistics.broken.append(str(error))
            return
        if voxels.dtype.kind == "f" and np.isnan(voxels.min()):
            nan, voxels = True, voxels[~np.isnan(voxels)]
        if voxels.size:
            own_low, own_high = _lowest(voxels, request.encoding), float(voxels.max())
            low, high = min(low, own_low), max(high, own_high)
            if own_low < own_high:
                percentiles.append(_percentiles(voxels))
        present += _count_present(voxels, request.encoding)
    with lock:
        statistics = request.statistics
        statistics.decoded += 1
        statistics.low = min(statistics.low, low)
        statistics.high = max(statistics.high, high)
        statistics.present += present
        statistics.nan |= nan
        statistics.ranges[index] = low, high
        statistics.percentiles += percentiles


def _lowest(voxels: NDArray, encoding: Encoding) -> float:
    """Return the smallest value that is not that of unknown voxels; infinity if there is none."""
    lowest = float(voxels.min())
    if lowest != encoding.unknown:
        return lowest
    known = voxels[voxels != encoding.unknown]
    return float(known.min()) if known.size else math.inf


def _count_present(voxels: NDArray, encoding: Encoding) -> int:
    if encoding == PLAIN and voxels.dtype.kind in "ub":
        return int(np.count_nonzero(voxels))
    return int(np.count_nonzero(encoding.decode(voxels)[0] > 0))


def _percentiles(voxels: NDArray) -> tuple[float, float]:
    # np.percentile takes longer than all other statistics together.
    sample = voxels[(slice(None, None, SAMPLE_STEP_VOXELS),) * voxels.ndim]
    ordered = np.sort(sample, axis=None)
    skipped = ordered.size // 100
    return float(ordered[skipped]), float(ordered[-1 - skipped])
