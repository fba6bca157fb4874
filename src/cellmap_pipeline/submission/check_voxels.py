"""A walk over all chunks of a label in a zip: each is decoded once, one layer is kept at most."""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastremap
import numpy as np
import zarr
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.scoring.objects import SlabComponents
from cellmap_pipeline.scoring.zip_reader import ZipReader
from cellmap_pipeline.submission.check_zip import Severity
from cellmap_pipeline.submission.chunk_codecs import ChunkError, decode_chunk

# A layer of chunks of an instance label is put together to count its objects, up to this.
MAX_LAYER_BYTES = 2**31
# What chunks as small as this hold is remembered: most are empty and alike.
REMEMBERED_BYTES = 1024
# Broken chunks that are named.
NAMED = 3

Finding = tuple[Severity, str]
Index = tuple[int, int, int]


@dataclass
class Found:
    """What a walk over the chunks of a label found.

    Attributes
    ----------
    findings
        What is wrong with values.
    broken
        Chunks that cannot be decoded, and why.
    empty, missing
        Chunks that are stored but hold nothing, and that are not stored.
    others
        Names of entries that are no chunks of the array.
    labelled
        Whether there is a voxel other than 0.
    sizes
        Voxels of each object of an instance label; None where they were not counted.
    """

    findings: set[Finding] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    empty: int = 0
    missing: int = 0
    others: set[str] = field(default_factory=set)
    labelled: bool = False
    sizes: NDArray[np.int64] | None = None


def walk(
    reader: ZipReader, array: zarr.Array, entries: Mapping[str, zipfile.ZipInfo], label: str
) -> Found:
    """Decode all chunks of a label.

    Parameters
    ----------
    array
        Of three axes, that passed `check_codecs`.
    entries
        Of the array's folder, by their path in it.
    """
    found = Found(others=set(entries))
    chunks = _Chunks(reader, array, entries, label)
    layer_bytes = math.prod(array.shape[1:]) * array.chunks[0] * array.dtype.itemsize
    objects = _Objects() if is_instance(label) and layer_bytes <= MAX_LAYER_BYTES else None
    counts = chunk_counts(array)
    for k in range(counts[0]):
        layer: NDArray[Any] | None = None
        for j, i in itertools.product(range(counts[1]), range(counts[2])):
            try:
                findings, values = chunks.read((k, j, i), found)
            except (ChunkError, zipfile.BadZipFile, RuntimeError, OSError, EOFError) as error:
                found.broken.append(f"{chunks.key((k, j, i))}: {error}")
                continue
            found.findings |= findings
            if values is None:
                continue
            found.labelled = True
            if objects:
                box = chunks.box((k, j, i))
                if layer is None:
                    thick = box[0].stop - box[0].start
                    layer = np.zeros((thick, *array.shape[1:]), array.dtype)
                layer[:, box[1], box[2]] = values
        if objects:
            objects.add(layer)
    found.sizes = objects.sizes() if objects else None
    return found


def chunk_counts(array: zarr.Array) -> list[int]:
    """Number of chunks along each axis."""
    return [-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)]


def chunk_separator(array: zarr.Array) -> str:
    """What stands between the numbers in the name of a chunk."""
    return getattr(array, "_dimension_separator", None) or "."


def value_findings(values: NDArray[Any], label: str) -> Iterator[Finding]:
    """What is wrong with voxels; the same words for every chunk of a label."""
    kind = values.dtype.kind
    if kind == "f" and np.isnan(values).any():
        yield "costs", "holds NaN: write 0 there"
    if not is_instance(label):
        if values.max() > 1 if kind in "bu" else not np.isin(values, (0, 1)).all():
            yield (
                "costs",
                "holds values other than 0 and 1, and all above 0 counts as inside: threshold it",
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
            "holds fractions, and every value becomes an object of its own: write whole ids",
        )
    if kind in "if" and values.min() < 0:
        yield "costs", "holds ids below 0: write ids from 1 up, 0 for background"
    if values.dtype == np.uint64 and values.max() >= 2**63:
        yield (
            "rejected",
            "holds ids of 2**63 or more, at which the evaluator can stop: renumber them",
        )


class _Chunks:
    """The chunks of an array by their index."""

    def __init__(
        self,
        reader: ZipReader,
        array: zarr.Array,
        entries: Mapping[str, zipfile.ZipInfo],
        label: str,
    ) -> None:
        self._reader, self._array, self._entries, self._label = reader, array, entries, label
        self._separator = chunk_separator(array)
        # By stored bytes and shape, the findings in chunks that hold nothing.
        self._remembered: dict[tuple[bytes, tuple[int, ...]], set[Finding]] = {}
        self._sides = [
            [slice(a, min(a + c, n)) for a in range(0, n, c)]
            for c, n in zip(array.chunks, array.shape, strict=True)
        ]

    def key(self, index: Index) -> str:
        return self._separator.join(map(str, index))

    def box(self, index: Index) -> list[slice]:
        return [side[i] for side, i in zip(self._sides, index, strict=True)]

    def read(self, index: Index, found: Found) -> tuple[set[Finding], NDArray[Any] | None]:
        """Findings and voxels of a chunk within the array; None where all of them are 0."""
        shape = tuple(part.stop - part.start for part in self.box(index))
        key = self.key(index)
        entry = self._entries.get(key)
        if entry is None:
            found.missing += 1
            fill = self._array.fill_value
            return self._judged(np.full(shape, fill, self._array.dtype)) if fill else (set(), None)
        found.others.discard(key)
        raw = self._reader.read(entry)
        remembered = self._remembered.get((raw, shape))
        if remembered is None:
            values = decode_chunk(raw, self._array)[tuple(slice(n) for n in shape)]
            findings, labelled = self._judged(values)
            if labelled is not None:
                return findings, labelled
            remembered = findings
            if len(raw) <= REMEMBERED_BYTES:
                self._remembered[raw, shape] = findings
        found.empty += 1
        return remembered, None

    def _judged(self, values: NDArray[Any]) -> tuple[set[Finding], NDArray[Any] | None]:
        return set(value_findings(values, self._label)), values if values.any() else None


class _Objects:
    """Sizes of the objects of an instance label, from its layers."""

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
