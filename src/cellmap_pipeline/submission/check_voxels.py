"""Scan of all chunks of a label in a zip.

Each chunk is decoded once, and at most one layer of chunks is kept in memory.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.io.formats.chunk_codecs import ChunkError
from cellmap_pipeline.scoring.archive import StoredArray
from cellmap_pipeline.scoring.objects import SlabComponents
from cellmap_pipeline.scoring.zip_reader import ZipReader
from cellmap_pipeline.submission.check_zip import Severity

# The objects of an instance label are counted only if a layer of its chunks is not larger.
MAX_LAYER_BYTES = 2**31
# The findings of empty chunks up to this size are cached: most of them are identical.
MAX_CACHED_CHUNK_BYTES = 1024

# Eighteen digits cannot be turned into a larger number than 64 bits hold.
CHUNK_INDEX = re.compile(r"(\d{1,18})[./](\d{1,18})[./](\d{1,18})")

# Severity and message.
Finding = tuple[Severity, str]
Index = tuple[int, int, int]


@dataclass
class ChunkScan:
    """Results of scanning the chunks of a label.

    Attributes
    ----------
    findings
        Problems of the voxel values.
    broken
        Chunks that cannot be decoded, with the reason.
    empty
        Number of stored chunks without labeled voxels.
    missing
        Number of chunks that are not stored.
    others
        Names of entries that are not chunks of the array.
    labeled
        Whether any voxel is not 0.
    sizes
        Number of voxels of each object of an instance label; None if they were not counted.
    """

    findings: set[Finding] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    empty: int = 0
    missing: int = 0
    others: set[str] = field(default_factory=set)
    labeled: bool = False
    sizes: NDArray[np.int64] | None = None


def scan_chunks(
    reader: ZipReader, array: StoredArray, entries: Mapping[str, zipfile.ZipInfo], label: str
) -> ChunkScan:
    """Decode and check all chunks of a label.

    Parameters
    ----------
    reader
        Reader of the zip.
    array
        Array of three axes that passed `StoredArray.check_chunks`.
    entries
        Entries of the array's folder, by their path in it.
    label
        Name of the label.
    """
    scan = ChunkScan(others=set(entries))
    chunks = _Chunks(reader, array, entries, label)
    layer_bytes = math.prod(array.shape[1:]) * array.chunks[0] * array.dtype.itemsize
    objects = _ObjectSizes() if is_instance(label) and layer_bytes <= MAX_LAYER_BYTES else None
    for indices in chunks.layers(scan):
        layer: NDArray[Any] | None = None
        for index in indices:
            try:
                findings, values = chunks.read(index, scan)
            except (ChunkError, zipfile.BadZipFile) as error:
                scan.broken.append(f"{chunks.key(index)}: {error}")
                continue
            scan.findings |= findings
            if values is None:
                continue
            scan.labeled = True
            if objects:
                box = chunks.box(index)
                if layer is None:
                    thickness = box[0].stop - box[0].start
                    layer = np.zeros((thickness, *array.shape[1:]), array.dtype)
                layer[:, box[1], box[2]] = values
        if objects:
            objects.add(layer)
    scan.sizes = objects.sizes() if objects else None
    return scan


def value_findings(values: NDArray[Any], label: str) -> Iterator[Finding]:
    """Check voxel values; messages do not depend on the chunk, so that a set merges them."""
    kind = values.dtype.kind
    if kind == "f" and np.isnan(values).any():
        yield "costs", "holds NaN: write 0 there"
    if not is_instance(label):
        if values.max() > 1 if kind in "bu" else not np.isin(values, (0, 1)).all():
            yield (
                "costs",
                "holds values other than 0 and 1, and all above 0 count as inside: threshold it",
            )
        if kind not in "bu":
            yield "costs", f"has the type {values.dtype}: write uint8"
        return
    if kind not in "bu":
        yield (
            "costs",
            f"has the type {values.dtype}: write ids in an unsigned type that holds them",
        )
    if kind == "f" and not np.array_equal(values, np.trunc(values), equal_nan=True):
        yield (
            "costs",
            "holds fractions, and every value becomes a separate object: write whole ids",
        )
    if kind in "if" and values.min() < 0:
        yield "costs", "holds ids below 0: write ids from 1 up, 0 for background"
    if values.dtype == np.uint64 and values.max() >= 2**63:
        yield (
            "rejected",
            "holds ids of 2**63 or more, at which the evaluator can stop: renumber them",
        )


class _Chunks:
    """Access to the chunks of an array by their index."""

    def __init__(
        self,
        reader: ZipReader,
        array: StoredArray,
        entries: Mapping[str, zipfile.ZipInfo],
        label: str,
    ) -> None:
        self._reader, self._array, self._entries, self._label = reader, array, entries, label
        # Findings of empty chunks, by stored bytes and shape.
        self._cache: dict[tuple[bytes, tuple[int, ...]], set[Finding]] = {}
        # Findings and voxels of chunks that hold the fill value, by their shape.
        self._filled: dict[tuple[int, ...], tuple[set[Finding], NDArray[Any] | None]] = {}
        self._sides = [
            [slice(a, min(a + c, n)) for a in range(0, n, c)]
            for c, n in zip(array.chunks, array.shape, strict=True)
        ]

    def key(self, index: Index) -> str:
        return self._array.metadata.chunk_name(index)

    def box(self, index: Index) -> list[slice]:
        return [side[i] for side, i in zip(self._sides, index, strict=True)]

    def layers(self, scan: ChunkScan) -> Iterator[list[Index]]:
        """Yield the chunks to read, layer by layer, and count those that are missing.

        Missing chunks are read only if they hold a fill value other than 0.
        """
        counts = self._array.metadata.chunk_counts
        if self._array.metadata.fill_value:
            for k in range(counts[0]):
                yield [(k, *rest) for rest in np.ndindex(counts[1:])]
            return
        stored: dict[int, list[Index]] = {}
        for name in self._entries:
            match = CHUNK_INDEX.fullmatch(name)
            if match:
                z, y, x = map(int, match.groups())
                inside = z < counts[0] and y < counts[1] and x < counts[2]
                if inside and self.key((z, y, x)) == name:
                    stored.setdefault(z, []).append((z, y, x))
        scan.missing = math.prod(counts) - sum(map(len, stored.values()))
        for k in range(counts[0]):
            yield sorted(stored.get(k, []))

    def read(self, index: Index, scan: ChunkScan) -> tuple[set[Finding], NDArray[Any] | None]:
        """Return the findings of a chunk and its voxels within the array, None if all are 0."""
        shape = tuple(side.stop - side.start for side in self.box(index))
        key = self.key(index)
        entry = self._entries.get(key)
        if entry is None:
            scan.missing += 1
            if shape not in self._filled:
                fill = self._array.metadata.fill_value
                self._filled[shape] = self._check(np.full(shape, fill, self._array.dtype))
            return self._filled[shape]
        scan.others.discard(key)
        raw = self._reader.read(entry, self._array.decoder.max_stored_bytes)
        findings = self._cache.get((raw, shape))
        if findings is None:
            values = self._array.decoder.decode(raw)[tuple(slice(n) for n in shape)]
            findings, labeled = self._check(values)
            if labeled is not None:
                return findings, labeled
            if len(raw) <= MAX_CACHED_CHUNK_BYTES:
                self._cache[raw, shape] = findings
        scan.empty += 1
        return findings, None

    def _check(self, values: NDArray[Any]) -> tuple[set[Finding], NDArray[Any] | None]:
        return set(value_findings(values, self._label)), values if values.any() else None


class _ObjectSizes:
    """Sizes of the objects of an instance label, counted layer by layer."""

    def __init__(self) -> None:
        self._components = SlabComponents()
        self._sizes = [np.zeros(0, np.int64)]

    def add(self, layer: NDArray[Any] | None) -> None:
        local, n = self._components.add(layer)
        if n:
            numbers, sizes = fastremap.unique(local, return_counts=True)
            self._sizes.append(sizes[numbers != 0].astype(np.int64))

    def sizes(self) -> NDArray[np.int64]:
        sizes, numbers = np.concatenate(self._sizes), self._components.numbers()
        return np.bincount(numbers, sizes, 1)[1:].astype(np.int64)
