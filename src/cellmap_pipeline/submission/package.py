"""Packaging of finished labels as `submission.zip`.

Format (cellmap-segmentation-challenge, docs/submission_data_format): zarr 2 arrays
`crop{id}/{label}` with `voxel_size`, `translation` and `shape` attributes, here with the root group
at the zip's root. All entries are stored, not deflated: their chunks are compressed already.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.files import atomic_write, reading
from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.formats.chunk_codecs import ChunkError, declare_zstd_size, zstd_size
from cellmap_pipeline.io.formats.zarr2 import portable_compressor
from cellmap_pipeline.io.storage import Metadata
from cellmap_pipeline.scoring.alignment import safe_translation
from cellmap_pipeline.submission.conversion import CHUNK, CODEC, Converter

GROUP = {"zarr_format": 2}
CHUNK_KEY = re.compile(r"\d+\.\d+\.\d+")

# The earliest time that a zip can store.
ENTRY_TIME = (1980, 1, 1, 0, 0, 0)
UNIX_SYSTEM = 3
REGULAR_FILE_MODE = 0o100644

# A reading thread takes this number of files at a time, or fewer if their chunks are large.
BATCH_FILES = 32
MAX_BATCH_BYTES = 1 << 26
READER_THREADS = 2

# Name of an entry, and the path of the file to store.
ChunkFile = tuple[str, str]
# Name of an entry, and its contents.
Entry = tuple[str, bytes]

log = logging.getLogger(__name__)


def package(
    segmentations: str | Path, manifest: Sequence[CropLabel], output: str | Path
) -> dict[str, list[str]]:
    """Write `submission.zip` from `{dataset}/crop{id}/{label}`, each an OME-NGFF group or an array.

    The compressed chunks of labels that need no conversion (see `Converter`) are copied, and
    Zstandard frames without a size, which the evaluator cannot decode, get one; other labels are
    converted. The same labels make the same bytes. The zip is written atomically.

    Parameters
    ----------
    segmentations
        Folder of labels or predictions.
    manifest
        Labels that the submission should hold. Labels missing from the folder are left out.
    output
        Path of the zip.

    Returns
    -------
    `copied`, `converted`, `missing`
        Names `crop{id}/{label}`.

    Raises
    ------
    InputError
        The folder has none of the labels, or a label cannot be read or converted.
    UnavailableError
        A file cannot be read now.
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
            f"{segmentations} holds none of the manifest's labels: they are expected at "
            f"{{dataset}}/crop{{id}}/{{label}}, the first one at {_folder(segmentations, rows[0])}"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    # disable=None shows no bar unless stderr is a terminal.
    bar = tqdm(total=len(present), desc="Packaging", unit="label", disable=None)
    with bar, atomic_write(output) as tmp, zipfile.ZipFile(tmp, "w") as archive:
        _add_json(archive, ".zgroup", GROUP)
        for crop, crop_rows in itertools.groupby(present, key=lambda row: row.crop):
            _add_json(archive, f"crop{crop}/.zgroup", GROUP)
            for row in crop_rows:
                copied = _add_label(archive, row, _folder(segmentations, row))
                result["copied" if copied else "converted"].append(_name(row))
                bar.update()
    return result


def _name(row: CropLabel) -> str:
    return f"crop{row.crop}/{row.label}"


def _folder(segmentations: Path, row: CropLabel) -> Path:
    return segmentations / row.dataset / f"crop{row.crop}" / row.label


def _add_label(archive: zipfile.ZipFile, row: CropLabel, path: Path) -> bool:
    """Add the entries of a label; return whether its chunks were copied without conversion."""
    converter = Converter.open(path, row)
    if not converter.level.check_chunk_names():
        log.warning("%s has no chunks and is packaged as empty", converter.level.path)
    metadata, can_copy = converter.level.metadata, converter.can_copy()
    grid = row.grid
    chunks: Iterator[Entry]
    if can_copy:
        encoding = {
            "chunks": list(metadata.chunks),
            "compressor": portable_compressor(metadata.stored.get("compressor")),
            "dtype": metadata.dtype.str,
            "order": metadata.order,
        }
        files = _chunk_files(_name(row), str(converter.level.path), metadata)
        chunks = _read_ahead(files, metadata)
    else:
        dtype = converter.target_dtype()
        encoding = {
            "chunks": [CHUNK] * 3,
            "compressor": CODEC.get_config(),
            "dtype": dtype.str,
            "order": "C",
        }
        chunks = ((f"{_name(row)}/{key}", data) for key, data in converter.chunks(dtype))
    common = {"zarr_format": 2, "shape": list(grid.shape), "fill_value": 0, "filters": None}
    attributes = {
        "voxel_size": list(grid.voxel_size),
        "translation": list(safe_translation(grid)),
        "shape": list(grid.shape),
    }
    _add_json(archive, f"{_name(row)}/.zarray", common | encoding)
    _add_json(archive, f"{_name(row)}/.zattrs", attributes)
    for name, data in chunks:
        _add_entry(archive, name, data)
    return can_copy


def _chunk_files(name: str, folder: str, metadata: ArrayMetadata) -> list[ChunkFile]:
    """List the chunks of the array in `folder`, as entries of the label `name`."""
    separator, counts = metadata.separator, metadata.chunk_counts
    names = _file_names(folder, depth=3 if separator == "/" else 1)
    keys = sorted(key for key in names if _is_chunk(key, counts))
    return [(f"{name}/{key}", f"{folder}/{key.replace('.', separator)}") for key in keys]


def _file_names(folder: str, depth: int) -> list[str]:
    """Relative paths of the files at `depth` (1: in the folder itself), with dots for slashes."""
    if depth == 1:
        return [entry.name for entry in os.scandir(folder) if entry.is_file()]
    subfolders = [entry for entry in os.scandir(folder) if entry.name.isdecimal()]
    return [
        f"{entry.name}.{file}"
        for entry in subfolders
        if entry.is_dir()
        for file in _file_names(entry.path, depth - 1)
    ]


def _is_chunk(key: str, counts: Sequence[int]) -> bool:
    return CHUNK_KEY.fullmatch(key) is not None and all(
        int(i) < n for i, n in zip(key.split("."), counts, strict=True)
    )


def _read_ahead(files: Sequence[ChunkFile], metadata: ArrayMetadata) -> Iterator[Entry]:
    """Read files in order, in threads that are a few batches ahead of the consumer."""
    chunk_bytes = metadata.chunk_bytes
    is_zstd = (metadata.stored.get("compressor") or {}).get("id") == "zstd"
    read = partial(_read_zstd, chunk_bytes) if is_zstd else Path.read_bytes
    size = max(1, min(BATCH_FILES, MAX_BATCH_BYTES // chunk_bytes))
    with ThreadPoolExecutor(READER_THREADS) as pool:
        pending: deque[Future[list[Entry]]] = deque()
        for start in range(0, len(files), size):
            pending.append(pool.submit(_read_files, files[start : start + size], read))
            if len(pending) > READER_THREADS:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _read_files(files: Iterable[ChunkFile], read: Callable[[Path], bytes]) -> list[Entry]:
    entries = []
    for name, path in files:
        with reading(path):
            entries.append((name, read(Path(path))))
    return entries


def _read_zstd(chunk_bytes: int, path: Path) -> bytes:
    """Read a chunk and, if its Zstandard frame does not declare its size, add that."""
    raw = path.read_bytes()
    if zstd_size(raw) is not None:
        return raw
    try:
        return declare_zstd_size(raw, chunk_bytes)
    except ChunkError as error:
        raise InputError(
            f"{path} cannot be decoded ({error}): copy or write the label again"
        ) from None


def _add_json(archive: zipfile.ZipFile, name: str, value: Metadata) -> None:
    _add_entry(archive, name, json.dumps(value, indent=4, sort_keys=True).encode())


def _add_entry(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Store an entry with the same time, system and mode everywhere."""
    entry = zipfile.ZipInfo(name, ENTRY_TIME)
    entry.create_system = UNIX_SYSTEM
    entry.external_attr = REGULAR_FILE_MODE << 16
    archive.writestr(entry, data)
