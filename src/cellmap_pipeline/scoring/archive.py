"""The arrays `crop{id}/{label}` of a submission or its truth: zarr 2 in a zip or in a folder."""

from __future__ import annotations

import lzma
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
from cellmap_pipeline.scoring.zip_reader import UNREADABLE, ZipReader

# What zarr, its codecs and zipfile raise on chunks that are broken or cut off.
DECODE_ERRORS = (OSError, RuntimeError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


# A codec that runs what it reads as code.
UNSAFE_CODECS = {"pickle"}


@dataclass(frozen=True)
class Stored:
    """The array of a label, read where it is asked for.

    Attributes
    ----------
    array
        Zarr 2.
    name
        What errors call it.
    """

    array: zarr.Array
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels of a chunk."""
        return self.array.chunks

    @property
    def order(self) -> str:
        """Order in memory of what is read, C or F."""
        return self.array.order

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """What is said about the array.

        Raises
        ------
        InputError
            The attributes cannot be read.
        """
        try:
            attributes = self.array.attrs.asdict()
        except DECODE_ERRORS as error:
            raise InputError(f"{self.name}: .zattrs cannot be read ({error})") from None
        if not isinstance(attributes, dict):
            raise InputError(f"{self.name}: .zattrs must hold attributes by name")
        return attributes

    def __getitem__(self, box: Any) -> NDArray[Any]:
        """The voxels in a box.

        Raises
        ------
        InputError
            Chunks are broken.
        """
        try:
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
        Of the zip or the folder.
    root
        What stands before `crop{id}`; a single `.zarr` folder in a zip is looked into, as the
        evaluator does.
    labels
        Names of the arrays in each crop, sorted. Groups and zarr 3 arrays are not labels, as for
        the evaluator.
    zip
        Its entries, where it is one.
    """

    path: Path
    store: Any
    root: str = ""
    labels: dict[str, list[str]] = field(default_factory=dict)
    zip: ZipReader | None = None

    @classmethod
    def open(cls, path: str | Path, reader: ZipReader | None = None) -> Archive:
        """List the labels at `path`, a zip that `reader` may have opened already.

        Raises
        ------
        InputError
            There is neither a folder nor a zip, or the zip holds several `.zarr` folders.
        """
        path = Path(path)
        if path.is_dir():
            keys = [p.relative_to(path).as_posix() for p in path.glob("*/*/.zarray")]
            keys += [f"{p.name}/" for p in path.iterdir() if p.is_dir()]
            store = zarr.DirectoryStore(str(path))
            root = ""
        elif zipfile.is_zipfile(path):
            try:
                reader = reader or ZipReader(path)
            except UNREADABLE as error:
                raise InputError(f"{path}: the zip's directory cannot be read: {error}") from None
            store = zarr.storage.KVStore(reader)
            keys = list(reader)
            root = _zarr_folder(path, keys)
        else:
            raise InputError(f"{path} is neither a zip nor a folder of crop*/label arrays")
        labels: dict[str, list[str]] = {}
        for key in keys:
            parts = key.removeprefix(root).split("/")
            if key.startswith(root) and len(parts) > 1:
                of_crop = labels.setdefault(parts[0], [])
                if len(parts) == 3 and parts[2] == ".zarray":
                    of_crop.append(parts[1])
        named = {crop: sorted(labels[crop]) for crop in sorted(labels)}
        return cls(path, store, root, named, reader)

    def array(self, crop: str, label: str) -> Stored:
        """The array of a label.

        Raises
        ------
        InputError
            Its metadata cannot be read, or it would have to be decoded by running code.
        """
        name = f"{self.path}: {crop}/{label}"
        try:
            array = zarr.Array(self.store, path=f"{self.root}{crop}/{label}", read_only=True)
        except (KeyError, TypeError, zarr.errors.MetadataError, *DECODE_ERRORS) as error:
            raise InputError(
                f"{name} has broken zarr 2 metadata ({type(error).__name__}: {error}): write it "
                "again"
            ) from None
        codecs = {codec.codec_id for codec in [*(array.filters or ()), array.compressor] if codec}
        if array.dtype.kind == "O" or codecs & UNSAFE_CODECS:
            raise InputError(f"{name} holds Python objects: write numbers")
        return Stored(array, name)


def _zarr_folder(path: Path, names: list[str]) -> str:
    """The one folder `….zarr/` in which a zip holds everything, or nothing.

    The evaluator looks for such folders at any depth.
    """
    roots = set()
    for name in names:
        parts = name.split("/")
        roots |= {"/".join(parts[: i + 1]) for i, p in enumerate(parts) if p.endswith(".zarr")}
    if len(roots) > 1:
        remedy = "zip the contents of one of them"
        if any(root.startswith("__MACOSX/") for root in roots):
            remedy = "take out what macOS added (zip -d submission.zip '__MACOSX/*')"
        shown = ", ".join(sorted(roots)[:5])
        raise InputError(f"{path} holds several zarr folders ({shown}): {remedy}")
    if roots & set(names):
        raise InputError(f"{path}: {roots.pop()} is a file, not a folder of crops: package again")
    return f"{roots.pop()}/" if roots else ""
