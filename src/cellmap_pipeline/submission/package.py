"""Putting `submission.zip` together from finished labels.

Format (cellmap-segmentation-challenge, docs/submission_data_format): zarr 2 arrays
`crop{id}/{label}` with `voxel_size`, `translation` and `shape` attributes, here with the root group
at the zip's root.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.alignment import safe_translation
from cellmap_pipeline.submission.conversion import CHUNK, CODEC, Converter
from cellmap_pipeline.submission.zip_writer import Segment, ZipWriter

GROUP = {"zarr_format": 2}
CHUNK_KEY = re.compile(r"\d+\.\d+\.\d+")

# Files (and bytes, uncompressed) that a thread reads at a time, and threads that read ahead of what
# is written.
BATCH, BATCH_BYTES = 32, 1 << 26
READERS = 2

T = TypeVar("T")
R = TypeVar("R")


def package(
    segmentations: str | Path, manifest: Sequence[CropLabel], output: str | Path
) -> dict[str, list[str]]:
    """Write `submission.zip` from `{dataset}/crop{id}/{label}`, each an OME-NGFF group or an array.

    Labels that are right as they are (see `Converter`) go in chunk by chunk as they were
    compressed; others are converted on the way. The same labels make the same bytes. The zip
    appears whole or not at all.

    Parameters
    ----------
    segmentations
        Folder of labels or predictions.
    manifest
        What the submission is to hold. A label that the folder lacks is left out.
    output
        The zip.

    Returns
    -------
    `copied`, `converted`, `missing` : names `crop{id}/{label}`.

    Raises
    ------
    InputError
        The folder has none of the labels, or a label cannot be read or converted.
    """
    segmentations, output = Path(segmentations), Path(output)
    rows = sorted(manifest, key=lambda row: f"{_name(row)}/")
    present = [row for row in rows if _folder(segmentations, row).is_dir()]
    result: dict[str, list[str]] = {
        "copied": [],
        "converted": [],
        "missing": [_name(row) for row in rows if not _folder(segmentations, row).is_dir()],
    }
    if not present:
        raise InputError(
            f"{segmentations} holds none of the manifest's labels: they are looked for as "
            f"{{dataset}}/crop{{id}}/{{label}}, the first one as {_folder(segmentations, rows[0])}"
        )
    partial = output.with_name(f".{output.name}.partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    # disable=None: no bar where nobody looks at a terminal.
    bar = tqdm(total=len(present), desc="Packaging", unit="label", disable=None)
    try:
        with bar, open(partial, "wb") as file:
            archive = ZipWriter(file)
            _add_json(archive, ".zgroup", GROUP)
            for crop, of_crop in itertools.groupby(present, key=lambda row: row.crop):
                _add_json(archive, f"crop{crop}/.zgroup", GROUP)
                for row in of_crop:
                    copied = _add_label(archive, row, _folder(segmentations, row))
                    result["copied" if copied else "converted"].append(_name(row))
                    bar.update()
            archive.finish()
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return result


def _name(row: CropLabel) -> str:
    return f"crop{row.crop}/{row.label}"


def _folder(segmentations: Path, row: CropLabel) -> Path:
    return segmentations / row.dataset / f"crop{row.crop}" / row.label


def _add_label(archive: ZipWriter, row: CropLabel, path: Path) -> bool:
    """Write the entries of a label; whether its chunks could be copied as they are."""
    converter = Converter.open(path, row)
    stored, copied = converter.level.metadata, converter.is_ready()
    grid = row.grid
    chunks: Iterator[Segment]
    if copied:
        keep = {key: stored[key] for key in ("chunks", "compressor", "dtype", "order")}
        chunks = _stored_chunks(_name(row), str(converter.level.path), stored)
    else:
        dtype = converter.dtype()
        keep = {
            "chunks": [CHUNK] * 3,
            "compressor": CODEC.get_config(),
            "dtype": dtype.str,
            "order": "C",
        }
        chunks = (
            Segment.of_bytes(f"{_name(row)}/{key}", data) for key, data in converter.chunks(dtype)
        )
    metadata = {"zarr_format": 2, "shape": list(grid.shape), "fill_value": 0, "filters": None}
    attributes = {
        "voxel_size": list(grid.voxel_size),
        "translation": list(safe_translation(grid)),
        "shape": list(grid.shape),
    }
    _add_json(archive, f"{_name(row)}/.zarray", metadata | keep)
    _add_json(archive, f"{_name(row)}/.zattrs", attributes)
    for segment in chunks:
        archive.add(segment)
    return copied


def _stored_chunks(name: str, folder: str, metadata: dict[str, Any]) -> Iterator[Segment]:
    """The chunks in the folder of an array as entries of the label `name`, and nothing else."""
    separator = metadata.get("dimension_separator", ".")
    counts = [-(-n // c) for n, c in zip(metadata["shape"], metadata["chunks"], strict=True)]
    names = _files(folder, depth=3 if separator == "/" else 1)
    keys = sorted(key for key in names if _is_chunk(key, counts))
    files = [(f"{name}/{key}", f"{folder}/{key.replace('.', separator)}") for key in keys]
    size = math.prod(metadata["chunks"]) * np.dtype(metadata["dtype"]).itemsize
    batch = max(1, min(BATCH, BATCH_BYTES // size))
    batches = [files[i : i + batch] for i in range(0, len(files), batch)]
    return _ahead(Segment.of_files, batches)


def _files(folder: str, depth: int) -> list[str]:
    """Paths of files `depth` folders down, with dots instead of slashes."""
    if depth == 1:
        return [entry.name for entry in os.scandir(folder) if entry.is_file()]
    inner = [entry.name for entry in os.scandir(folder) if entry.name.isdecimal()]
    return [
        f"{name}.{file}"
        for name in inner
        if os.path.isdir(f"{folder}/{name}")
        for file in _files(f"{folder}/{name}", depth - 1)
    ]


def _is_chunk(key: str, counts: Sequence[int]) -> bool:
    return CHUNK_KEY.fullmatch(key) is not None and all(
        int(i) < n for i, n in zip(key.split("."), counts, strict=True)
    )


def _ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map(work, items)`, some items ahead of what is asked for."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _add_json(archive: ZipWriter, name: str, value: dict[str, Any]) -> None:
    archive.add(Segment.of_bytes(name, json.dumps(value, indent=4, sort_keys=True).encode()))
