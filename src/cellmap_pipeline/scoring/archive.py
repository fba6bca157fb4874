"""Arrays `crop{id}/{label}` of a submission or its ground truth: zarr 2 in a zip or a folder."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.arrays import check_chunk_names
from cellmap_pipeline.io.files import reading
from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.formats.chunk_codecs import ChunkDecoder, ChunkError
from cellmap_pipeline.io.formats.zarr2 import parse_zarray
from cellmap_pipeline.io.storage import Metadata
from cellmap_pipeline.scoring.zip_entries import entry_problems, size_problem
from cellmap_pipeline.scoring.zip_reader import DIRECTORY_ERRORS, ZipReader, is_zip

CHUNK_KEY = re.compile(r"\d+([./]\d+){2}")
MAX_METADATA_BYTES = 2**20
# Members that zarr requires of a `.zarray`.
REQUIRED_MEMBERS = ("zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value", "order",
                    "filters")  # fmt: skip
# Chunks may be larger than their array, up to this size.
MAX_LOOSE_CHUNK_BYTES = 2**28
# An array has no more chunks than the larger of these: the second is one for 8³ voxels of its crop.
MAX_FEW_CHUNKS = 2**20
MIN_CHUNK_VOXELS = 8**3
MAX_NAMED_PROBLEMS = 5


@dataclass(frozen=True)
class StoredArray:
    """Array of a label, read lazily.

    Attributes
    ----------
    name
        Name of the array in error messages.
    metadata
        Its metadata.
    decoder
        Decoder of its chunks.
    read_file
        Reads a file of its folder by its name, up to a number of bytes; None if there is none.
    """

    name: str
    metadata: ArrayMetadata
    decoder: ChunkDecoder
    read_file: Callable[[str, int], bytes | None]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.metadata.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.metadata.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the chunks, in voxels."""
        return self.metadata.chunks

    @property
    def order(self) -> str:
        """Memory order of the voxels that are read, C or F."""
        return self.metadata.order

    @cached_property
    def attributes(self) -> Metadata:
        """Contents of `.zattrs`.

        Raises
        ------
        InputError
            The attributes cannot be read.
        """
        try:
            with reading(self.name):
                return _read_json(self.read_file, ".zattrs") or {}
        except (ValueError, OSError) as error:
            raise InputError(f"{self.name}: {error}") from None

    def read_chunk(self, index: tuple[int, ...]) -> NDArray[Any] | None:
        """Read the chunk with an index; None if it is missing.

        Raises
        ------
        ChunkError
            The chunk is broken.
        """
        try:
            name = self.metadata.chunk_name(index)
            raw = self.read_file(name, self.decoder.max_stored_bytes)
        except zipfile.BadZipFile as error:
            raise ChunkError(str(error)) from None
        return None if raw is None else self.decoder.decode(raw)

    def __getitem__(self, box: Any) -> NDArray[Any]:
        """Read the voxels in a box.

        Raises
        ------
        InputError
            Chunks are broken.
        """
        given: tuple[slice, ...] = box if isinstance(box, tuple) else (box,)
        given += (slice(None),) * (len(self.shape) - len(given))
        sides = [side.indices(n)[:2] for side, n in zip(given, self.shape, strict=True)]
        shape = [max(0, b - a) for a, b in sides]
        fill = self.metadata.fill_value
        voxels = np.full(shape, 0 if fill is None else fill, self.dtype, order=self.metadata.order)
        if not voxels.size:
            return voxels
        indices = [range(a // c, -(-b // c)) for (a, b), c in zip(sides, self.chunks, strict=True)]
        for index in itertools.product(*indices):
            try:
                with reading(self.name):
                    chunk = self.read_chunk(index)
            except (ChunkError, OSError) as error:
                raise InputError(
                    f"{self.name} cannot be read (chunk {self.metadata.chunk_name(index)}: "
                    f"{error}): write it again"
                ) from None
            if chunk is None:
                continue
            source, target = [], []
            for i, c, (a, b) in zip(index, self.chunks, sides, strict=True):
                low, high = max(a, i * c), min(b, (i + 1) * c)
                source.append(slice(low - i * c, high - i * c))
                target.append(slice(low - a, high - a))
            voxels[tuple(target)] = chunk[tuple(source)]
        return voxels

    def check_chunks(self, grid: Grid) -> None:
        """Bound the work and the memory of reading this array of a crop on `grid`.

        Raises
        ------
        InputError
            Its chunks are too large, or too many.
        """
        size = math.prod(self.shape) * self.dtype.itemsize
        if self.metadata.chunk_bytes > max(MAX_LOOSE_CHUNK_BYTES, size):
            raise InputError(
                f"{self.name} has chunks of {list(self.chunks)} voxels, far above its shape "
                f"{list(self.shape)}: store smaller ones"
            )
        count = math.prod(self.metadata.chunk_counts)
        limit = max(MAX_FEW_CHUNKS, grid.size // MIN_CHUNK_VOXELS)
        if count > limit:
            raise InputError(
                f"{self.name} has {count:,} chunks of {list(self.chunks)} voxels, above the limit "
                f"of {limit:,}: store larger ones"
            )


@dataclass
class Archive:
    """A zip or a folder of crops, each with a zarr 2 array per label.

    Attributes
    ----------
    path
        Path of the zip or folder.
    read_file
        Reads a file by its path, up to a number of bytes; None if there is none.
    root
        Prefix of `crop{id}`; the only `.zarr` folder of a zip becomes its root, as for the
        evaluator.
    labels
        Names of the arrays in each crop, sorted. Groups and zarr 3 arrays are not labels, as for
        the evaluator.
    zip
        Reader of the zip; None for a folder.
    first_chunks
        Name of a chunk of each label of a zip, by crop and label.
    """

    path: Path
    read_file: Callable[[str, int], bytes | None]
    root: str = ""
    labels: dict[str, list[str]] = field(default_factory=dict)
    zip: ZipReader | None = None
    first_chunks: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, reader: ZipReader | None = None) -> Archive:
        """List the labels at `path`.

        Parameters
        ----------
        path
            A folder or a zip.
        reader
            Reader of the zip whose entries were checked by `entry_problems`; by default they are
            checked here.

        Raises
        ------
        InputError
            The path is neither a folder nor a zip, entries of the zip cannot be unpacked, or it
            holds several `.zarr` folders.
        """
        path = Path(path)
        if path.is_dir():
            keys = [p.relative_to(path).as_posix() for p in path.glob("*/*/.zarray")]
            keys += [f"{p.name}/" for p in path.iterdir() if p.is_dir()]
            read_file: Callable[[str, int], bytes | None] = partial(_read_in_folder, path)
            root = ""
        elif is_zip(path):
            try:
                reader = _checked_reader(path) if reader is None else reader
            except InputError:
                raise
            except DIRECTORY_ERRORS as error:
                raise InputError(f"{path}: the zip's directory cannot be read: {error}") from None
            read_file = partial(_read_in_zip, reader)
            keys = list(reader)
            root = _zarr_folder(path, keys)
        else:
            raise InputError(f"{path} is neither a zip nor a folder of crop*/label arrays")
        labels: dict[str, list[str]] = {}
        first_chunks: dict[tuple[str, str], str] = {}
        for key in keys:
            parts = key.removeprefix(root).split("/")
            if key.startswith(root) and len(parts) > 1:
                crop_labels = labels.setdefault(parts[0], [])
                if len(parts) == 3 and parts[2] == ".zarray":
                    crop_labels.append(parts[1])
                elif len(parts) > 2 and CHUNK_KEY.fullmatch("/".join(parts[2:])):
                    first_chunks.setdefault((parts[0], parts[1]), "/".join(parts[2:]))
        sorted_labels = {crop: sorted(labels[crop]) for crop in sorted(labels)}
        return cls(path, read_file, root, sorted_labels, reader, first_chunks)

    def array(self, crop: str, label: str) -> StoredArray:
        """Open the array of a label.

        Raises
        ------
        InputError
            The metadata cannot be read, or decoding would execute code.
        """
        name = f"{self.path}: {crop}/{label}"
        folder = f"{self.root}{crop}/{label}/"

        def read_file(file: str, max_bytes: int) -> bytes | None:
            return self.read_file(folder + file, max_bytes)

        try:
            with reading(name):
                stored = _read_json(read_file, ".zarray")
            if stored is None:
                raise ValueError(".zarray is missing")
            missing = [key for key in REQUIRED_MEMBERS if key not in stored]
            if missing:
                raise ValueError(f".zarray: `{missing[0]}` is missing")
            metadata = parse_zarray(stored)
        except (ValueError, OSError) as error:
            raise InputError(
                f"{name} has broken zarr 2 metadata ({error}): write it again"
            ) from None
        try:
            decoder = ChunkDecoder.of(metadata)
        except ChunkError as error:
            raise InputError(
                f"{name}: {error}: store it with zstd, blosc or gzip, without filters, in chunks "
                "of 64³ voxels"
            ) from None
        return StoredArray(name, metadata, decoder, read_file)

    def is_group(self, crop: str, label: str) -> bool:
        """Whether a label of a folder is a zarr 2 group, which is not a label for the evaluator."""
        return (self.path / crop / label / ".zgroup").is_file()

    def verify(self, manifest: Sequence[CropLabel]) -> None:
        """Unpack all files of a zip, in little memory and without keeping them.

        Parameters
        ----------
        manifest
            Labels that it should hold. If its files are larger than those take, none is unpacked.

        Raises
        ------
        InputError
            The files are too large, or the evaluator would stop at one.
        """
        if self.zip is None:
            return
        if text := size_problem(self.zip.entries, manifest):
            raise InputError(f"{self.path}: {text}")
        for entry in self.zip.entries:
            try:
                self.zip.verify(entry)
            except zipfile.BadZipFile as error:
                raise InputError(
                    f"{self.path}: {entry.filename} cannot be unpacked ({error}): package again"
                ) from None

    def has_chunks(self, crop: str, label: str) -> bool:
        """Whether a label has any chunks; without them, all of it is background.

        Raises
        ------
        InputError
            Its chunks have other names than its metadata say, and would be read as background.
        """
        separator = self.array(crop, label).metadata.separator
        if self.zip is None:
            return check_chunk_names(self.path / crop / label, separator)
        chunk = self.first_chunks.get((crop, label))
        if chunk is not None and len(chunk.split(separator)) != 3:
            raise InputError(
                f"{self.path}: {crop}/{label} has no chunk named as .zarray says "
                f"(dimension_separator {separator!r}), but has {chunk!r}: correct the separator"
            )
        return chunk is not None


def _checked_reader(path: Path) -> ZipReader:
    reader = ZipReader(path)
    problems = entry_problems(reader.entries)
    if problems:
        messages = "; ".join(problem.message for problem in problems[:MAX_NAMED_PROBLEMS])
        raise InputError(f"{path} cannot be unpacked: {messages}")
    return reader


def _read_in_zip(reader: ZipReader, path: str, max_bytes: int) -> bytes | None:
    entry = reader.by_name.get(path)
    return None if entry is None else reader.read(entry, max_bytes)


def _read_in_folder(folder: Path, path: str, max_bytes: int) -> bytes | None:
    try:
        with open(folder / path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise ChunkError(f"it has {size} bytes, but can have no more than {max_bytes}")
            return file.read(max_bytes)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _read_json(read_file: Callable[[str, int], bytes | None], name: str) -> Metadata | None:
    """Read the JSON object in a file of an array; None if there is none.

    Raises
    ------
    ValueError
        The file is not a JSON object, or cannot be unpacked.
    """
    try:
        content = read_file(name, MAX_METADATA_BYTES)
        value = None if content is None else json.loads(content)
    except (ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} cannot be read ({error})") from None
    if content is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must hold attributes by name")
    return value


def _zarr_folder(path: Path, names: list[str]) -> str:
    """Return the only folder `….zarr/` of a zip, which then holds all crops, or "".

    The evaluator looks for such folders at any depth.
    """
    roots = set()
    for name in names:
        parts = name.split("/")
        roots |= {"/".join(parts[: i + 1]) for i, p in enumerate(parts) if p.endswith(".zarr")}
    if len(roots) > 1:
        remedy = "zip the contents of one of them"
        if any(root.startswith("__MACOSX/") for root in roots):
            remedy = "remove what macOS added (zip -d submission.zip '__MACOSX/*')"
        first_roots = ", ".join(sorted(roots)[:5])
        raise InputError(f"{path} holds several zarr folders ({first_roots}): {remedy}")
    if roots & set(names):
        raise InputError(f"{path}: {roots.pop()} is a file, not a folder of crops: package again")
    return f"{roots.pop()}/" if roots else ""
