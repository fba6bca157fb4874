"""Arrays `crop{id}/{label}` of a submission or its ground truth: zarr 2 in a zip or a folder."""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.arrays import check_chunk_names
from cellmap_pipeline.io.files import reading
from cellmap_pipeline.io.storage import Metadata
from cellmap_pipeline.scoring.zip_reader import DIRECTORY_ERRORS, ZipReader, is_zip

# Exceptions of zarr, its codecs and zipfile for broken or truncated chunks.
DECODE_ERRORS = (OSError, RuntimeError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)

CHUNK_KEY = re.compile(r"\d+([./]\d+){2}")
# Codecs that execute code from the data.
UNSAFE_CODECS = {"pickle"}


@dataclass(frozen=True)
class StoredArray:
    """Array of a label, read lazily.

    Attributes
    ----------
    array
        Zarr 2 array.
    name
        Name of the array in error messages.
    """

    array: zarr.Array
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the chunks, in voxels."""
        return self.array.chunks

    @property
    def order(self) -> str:
        """Memory order of the voxels that are read, C or F."""
        return self.array.order

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
                attributes = self.array.attrs.asdict()
        except DECODE_ERRORS as error:
            raise InputError(f"{self.name}: .zattrs cannot be read ({error})") from None
        if not isinstance(attributes, dict):
            raise InputError(f"{self.name}: .zattrs must hold attributes by name")
        return attributes

    def __getitem__(self, box: Any) -> NDArray[Any]:
        """Read the voxels in a box.

        Raises
        ------
        InputError
            Chunks are broken.
        """
        try:
            with reading(self.name):
                return np.asarray(self.array[box])
        except DECODE_ERRORS as error:
            raise InputError(
                f"{self.name} cannot be read ({type(error).__name__}: {error}): write it again"
            ) from None


@dataclass
class Archive:
    """A zip or a folder of crops, each with a zarr 2 array per label.

    Attributes
    ----------
    path
        Path of the zip or folder.
    store
        Zarr store of its contents.
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
    store: Any
    root: str = ""
    labels: dict[str, list[str]] = field(default_factory=dict)
    zip: ZipReader | None = None
    first_chunks: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, reader: ZipReader | None = None) -> Archive:
        """List the labels at `path`, which may be a zip that `reader` has opened already.

        Raises
        ------
        InputError
            The path is neither a folder nor a zip, or the zip holds several `.zarr` folders.
        """
        path = Path(path)
        if path.is_dir():
            keys = [p.relative_to(path).as_posix() for p in path.glob("*/*/.zarray")]
            keys += [f"{p.name}/" for p in path.iterdir() if p.is_dir()]
            store = zarr.DirectoryStore(str(path))
            root = ""
        elif is_zip(path):
            try:
                reader = reader or ZipReader(path)
            except DIRECTORY_ERRORS as error:
                raise InputError(f"{path}: the zip's directory cannot be read: {error}") from None
            store = zarr.storage.KVStore(reader)
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
        return cls(path, store, root, sorted_labels, reader, first_chunks)

    def array(self, crop: str, label: str) -> StoredArray:
        """Open the array of a label.

        Raises
        ------
        InputError
            The metadata cannot be read, or decoding would execute code.
        """
        name = f"{self.path}: {crop}/{label}"
        try:
            with reading(name):
                array = zarr.Array(self.store, path=f"{self.root}{crop}/{label}", read_only=True)
        except (KeyError, TypeError, zarr.errors.MetadataError, *DECODE_ERRORS) as error:
            raise InputError(
                f"{name} has broken zarr 2 metadata ({type(error).__name__}: {error}): write it "
                "again"
            ) from None
        codecs = {codec.codec_id for codec in [*(array.filters or ()), array.compressor] if codec}
        if array.dtype.kind == "O" or codecs & UNSAFE_CODECS:
            raise InputError(f"{name} holds Python objects: write numbers")
        return StoredArray(array, name)

    def has_chunks(self, crop: str, label: str) -> bool:
        """Whether a label has any chunks; without them, all of it is background.

        Raises
        ------
        InputError
            Its chunks have other names than its metadata say, and would be read as background.
        """
        separator = chunk_separator(self.array(crop, label).array)
        if self.zip is None:
            return check_chunk_names(self.path / crop / label, separator)
        chunk = self.first_chunks.get((crop, label))
        if chunk is not None and len(chunk.split(separator)) != 3:
            raise InputError(
                f"{self.path}: {crop}/{label} has no chunk named as .zarray says "
                f"(dimension_separator {separator!r}), but has {chunk!r}: correct the separator"
            )
        return chunk is not None


def chunk_separator(array: zarr.Array) -> str:
    """Text between the indices in the names of an array's chunks."""
    # Zarr 2 keeps it in this attribute alone.
    return getattr(array, "_dimension_separator", None) or "."


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
