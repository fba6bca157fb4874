"""Statistics of the intensities of raw volumes, by which networks' input is normalized.

Only data count. Chunks that are not stored are padding: the source has none of them, or a local
copy lacks them. So are stored chunks of a single value, and voxels of the array's fill value. At
most `MAX_CHUNKS` evenly spread chunks of each level are read, always the same ones, so that time
and memory do not depend on the size of the volume.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape, shape_of
from cellmap_pipeline.io.arrays import Level, spread_indices
from cellmap_pipeline.io.files import reading, write_json
from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.storage import present, read_json
from cellmap_pipeline.io.volumes import Volume, max_intensity

log = logging.getLogger(__name__)

MAX_CHUNKS = 128
# Places of chunks that are looked up. If fewer than `MAX_CHUNKS` of these are stored, as in a local
# copy of the raw around crops, all files are listed.
MAX_LOOKED_UP_CHUNKS = 2048
MAX_VOXELS_PER_CHUNK = 2**16


@dataclass(frozen=True)
class RawStatistics:
    """Statistics of a level of raw, in units of 0..1 over the range of the stored type.

    Attributes
    ----------
    mean, std
        Mean and standard deviation.
    percentile_00_5, percentile_99_5
        The values that 0.5 % and 99.5 % of the voxels do not exceed.
    minimum, maximum
        Smallest and largest value.
    chunks
        Number of chunks with data that were read.
    """

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float
    minimum: float
    maximum: float
    chunks: int


# By the name of a volume's level.
VolumeStatistics = Mapping[str, RawStatistics]


def measure_raw(volume: Volume, threads: int = 1) -> dict[str, RawStatistics]:
    """Measure each level of a raw volume that has data, by its name.

    Raises
    ------
    InputError
        No level has data, a chunk is broken, or the voxels are of a type that raw cannot have.
    """
    measured = {level.path.name: measure_level(level, threads) for level in volume.levels}
    found = {name: statistics for name, statistics in measured.items() if statistics}
    for name, statistics in found.items():
        log.info(
            "%s/%s: mean %.4f, standard deviation %.4f, percentiles 0.5 and 99.5 %.4f and %.4f, "
            "from %d chunks",
            volume.path, name, statistics.mean, statistics.std, statistics.percentile_00_5,
            statistics.percentile_99_5, statistics.chunks,
        )  # fmt: skip
    if not found:
        raise InputError(
            f"{volume.path}: its stored chunks hold nothing but padding, by which raw cannot be "
            "normalized: copy or fetch it again, leave its crops out, or set `normalize: range`"
        )
    return found


def measure_level(level: Level, threads: int = 1) -> RawStatistics | None:
    """Measure a level of raw; None if it has no data. Raises as `measure_raw`."""
    stored = stored_chunks(level)
    chosen = [stored[i] for i in spread_indices(len(stored), MAX_CHUNKS)]
    with ThreadPoolExecutor(threads) as pool:
        samples = [data for data in pool.map(partial(_sample_data, level), chosen) if data.size]
    if not samples:
        return None
    values = np.concatenate(samples) / max_intensity(level.metadata.dtype, level.path)
    low, high = np.percentile(values, [0.5, 99.5])
    return RawStatistics(
        mean=float(values.mean()),
        std=float(values.std()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
        minimum=float(values.min()),
        maximum=float(values.max()),
        chunks=len(samples),
    )


def stored_chunks(level: Level) -> list[Shape]:
    """List the indices of stored chunks: all, or those at evenly spread places.

    Raises
    ------
    UnavailableError
        A folder of the array cannot be read now.
    """
    metadata = level.metadata
    grid = [-(-n // c) for n, c in zip(metadata.shape, metadata.chunks, strict=True)]
    number = math.prod(grid)
    places = np.unravel_index(spread_indices(number, MAX_LOOKED_UP_CHUNKS), grid)
    indices = [shape_of(index) for index in zip(*places, strict=True)]
    is_stored = present(level.path, [metadata.chunk_name(index) for index in indices])
    found = [index for index, stored in zip(indices, is_stored, strict=True) if stored]
    if len(found) >= MAX_CHUNKS or number <= MAX_LOOKED_UP_CHUNKS:
        return found
    # The keys of a bucket take too long to list; it is the source itself, and rarely sparse.
    return _listed_chunks(level.path, metadata, grid) if isinstance(level.path, Path) else found


def _listed_chunks(array: Path, metadata: ArrayMetadata, grid: list[int]) -> list[Shape]:
    """List the indices of all chunks in an array's folder, in order."""
    found = []
    with reading(array):
        for folder, _, files in os.walk(array, onerror=_raise):
            for file in files:
                name = os.path.relpath(os.path.join(folder, file), array)
                parts = name.removeprefix(metadata.chunk_prefix).split(metadata.separator)
                if len(parts) == 3 and all(part.isdecimal() for part in parts):
                    index = shape_of(map(int, parts[::-1] if metadata.format == "n5" else parts))
                    if all(i < n for i, n in zip(index, grid, strict=True)):
                        found.append(index)
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _sample_data(level: Level, chunk: Shape) -> NDArray[np.float64]:
    """Read evenly spread voxels of a chunk, without padding."""
    metadata = level.metadata
    start = [i * n for i, n in zip(chunk, metadata.chunks, strict=True)]
    # Of a shard, the first of the chunks in it.
    size = metadata.decoded_chunks
    stop = [min(a + n, end) for a, n, end in zip(start, size, metadata.shape, strict=True)]
    voxels = level.read(start, stop)
    step = math.ceil((voxels.size / MAX_VOXELS_PER_CHUNK) ** (1 / 3))
    sample = voxels[::step, ::step, ::step].astype(np.float64).ravel()
    data = sample[np.isfinite(sample) & (sample != _fill_value(metadata.stored))]
    return data if data.size and data.min() < data.max() else data[:0]


def _fill_value(stored: Mapping[str, object]) -> float:
    """Return the value of voxels that are not stored; NaN if it is no number."""
    try:
        return float(stored.get("fill_value") or 0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def write_raw_statistics(path: str | Path, volumes: Mapping[str, VolumeStatistics]) -> None:
    """Write the statistics of raw volumes by their paths, atomically."""
    write_json(
        path,
        {raw: {name: asdict(level) for name, level in levels.items()}
         for raw, levels in volumes.items()},
    )  # fmt: skip


def read_raw_statistics(path: Path) -> dict[str, VolumeStatistics]:
    """Read what `write_raw_statistics` wrote.

    Raises
    ------
    InputError
        The file is missing or broken.
    """
    content = read_json(path)
    try:
        return {
            raw: {name: RawStatistics(**level) for name, level in levels.items()}
            for raw, levels in content.items()
        }
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{path} does not hold the statistics of raw ({error}): delete it, and start again"
        ) from None
