"""Putting `submission.zip` together from finished labels.

Format (cellmap-segmentation-challenge, docs/submission_data_format): zarr 2 arrays
`crop{id}/{label}` with `voxel_size`, `translation` and `shape` attributes, here with the root group
at the zip's root.
"""

from __future__ import annotations

import itertools
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.conversion import CHUNK, CODEC, Converter
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.manifest import CropLabel

GROUP = {"zarr_format": 2}
CHUNK_KEY = re.compile(r"\d+\.\d+\.\d+")


def package(
    segmentations: str | Path, manifest: Sequence[CropLabel], output: str | Path
) -> dict[str, list[str]]:
    """Write `submission.zip` from `{dataset}/crop{id}/{label}`, each an OME-NGFF group or an array.

    Labels that are right as they are (see `Converter`) go in chunk by chunk as they were
    compressed; others are converted on the way. The same labels make the same bytes. The zip
    appears whole or not at all.

    Parameters
    ----------
    segmentations : folder of labels or predictions.
    manifest : what the submission is to hold. A label that the folder lacks is left out.
    output : the zip.

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
    try:
        with zipfile.ZipFile(partial, "w") as archive:
            _add_json(archive, ".zgroup", GROUP)
            for crop, of_crop in itertools.groupby(present, key=lambda row: row.crop):
                _add_json(archive, f"crop{crop}/.zgroup", GROUP)
                for row in of_crop:
                    copied = _add_label(archive, row, _folder(segmentations, row))
                    result["copied" if copied else "converted"].append(_name(row))
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return result


def _name(row: CropLabel) -> str:
    return f"crop{row.crop}/{row.label}"


def _folder(segmentations: Path, row: CropLabel) -> Path:
    return segmentations / row.dataset / f"crop{row.crop}" / row.label


def _add_label(archive: zipfile.ZipFile, row: CropLabel, path: Path) -> bool:
    """Write the entries of a label; whether its chunks could be copied as they are."""
    converter = Converter.open(path, row)
    stored, copied = converter.level.metadata, converter.is_ready()
    grid = row.grid
    if copied:
        keep = {key: stored[key] for key in ("chunks", "compressor", "dtype", "order")}
        chunks = _stored_chunks(Path(str(converter.level.path)), stored)
    else:
        dtype = converter.dtype()
        keep = {
            "chunks": [CHUNK] * 3,
            "compressor": CODEC.get_config(),
            "dtype": dtype.str,
            "order": "C",
        }
        chunks = converter.chunks(dtype)
    metadata = {"zarr_format": 2, "shape": list(grid.shape), "fill_value": 0, "filters": None}
    attributes = {
        "voxel_size": list(grid.voxel_size),
        "translation": list(grid.translation),
        "shape": list(grid.shape),
    }
    _add_json(archive, f"{_name(row)}/.zarray", metadata | keep)
    _add_json(archive, f"{_name(row)}/.zattrs", attributes)
    for key, data in chunks:
        _add(archive, f"{_name(row)}/{key}", data)
    return copied


def _stored_chunks(folder: Path, metadata: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Keys and bytes of the chunks in the folder of an array, and of nothing else there."""
    separator = metadata.get("dimension_separator", ".")
    counts = [-(-n // c) for n, c in zip(metadata["shape"], metadata["chunks"], strict=True)]
    files = {}
    for path in folder.glob("*/*/*" if separator == "/" else "*.*.*"):
        key = path.relative_to(folder).as_posix().replace("/", ".")
        if CHUNK_KEY.fullmatch(key) and all(
            int(i) < n for i, n in zip(key.split("."), counts, strict=True)
        ):
            files[key] = path
    for key in sorted(files):
        yield key, files[key].read_bytes()


def _add_json(archive: zipfile.ZipFile, name: str, value: dict[str, Any]) -> None:
    _add(archive, name, json.dumps(value, indent=4, sort_keys=True).encode())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # All that a zip entry says beyond its name and bytes is fixed.
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, data)
