"""The parts in which a volume is read and written, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from cellmap_pipeline.data.importing.sources.source import VolumeSource
from cellmap_pipeline.geometry import Shape, shape_of
from cellmap_pipeline.io.volumes import CHUNK

# Size of the part of the source that is in memory at once. A section or a chunk that is decoded
# whole may be larger.
MAX_BOX_BYTES = 2**30


def output_chunks(source: VolumeSource) -> Shape:
    """Choose the chunks of the array that a source is written to.

    They are cubes, unless the sections are so large that the height of a chunk does not fit into
    memory. They are then flatter, with as many voxels.
    """
    height = side = CHUNK
    while height > 1 and height * _row_bytes(source) * _rows(source, side) > MAX_BOX_BYTES:
        height, side = height // 4, side * 2
    return height, side, side


def source_boxes(source: VolumeSource, chunks: Shape) -> Iterator[tuple[Shape, Shape]]:
    """Yield start and stop of boxes that cover a source.

    They consist of whole `chunks` of the output, and where memory allows of whole chunks of the
    source, so that few are decoded twice.
    """
    height, rows = chunks[0], _rows(source, chunks[1])
    slab_bytes = height * _row_bytes(source) * rows
    height *= max(1, min(-(-source.chunks[0] // height), MAX_BOX_BYTES // slab_bytes))
    rows *= max(1, MAX_BOX_BYTES // (height * _row_bytes(source) * rows))
    return boxes(source.shape, (height, rows, source.shape[2]))


def boxes(shape: Shape, size: Shape) -> Iterator[tuple[Shape, Shape]]:
    """Yield start and stop of boxes of a size that cover an array of a shape, in C order."""
    for start in product(*(range(0, n, step) for n, step in zip(shape, size, strict=True))):
        stop = (min(a + step, n) for a, step, n in zip(start, size, shape, strict=True))
        yield shape_of(start), shape_of(stop)


def _row_bytes(source: VolumeSource) -> int:
    return source.shape[2] * source.dtype.itemsize


def _rows(source: VolumeSource, side: int) -> int:
    """Number of rows, whole chunks of the output, that hold whole chunks of the source."""
    needed = -(-max(source.chunks[1], side) // side) * side
    return min(needed, -(-source.shape[1] // side) * side)
