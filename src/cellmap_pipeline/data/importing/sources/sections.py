"""A folder of sections."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.data.importing.sources.section_files import (
    SECTION_SUFFIXES,
    SectionHeader,
    read_header,
    read_section,
)
from cellmap_pipeline.data.importing.sources.section_names import (
    MAX_LISTED,
    NumberedFile,
    describe_numbers,
    missing_numbers,
    order_sections,
)
from cellmap_pipeline.data.importing.sources.source import check_size
from cellmap_pipeline.errors import InputError, gathered, raise_all

log = logging.getLogger(__name__)


class SectionFolder:
    """A volume whose sections are files of a folder; see `VolumeSource`.

    Parameters
    ----------
    folder
        Folder of TIFF or PNG files, in the order of the numbers in their names.
    fill_gaps
        Repeat the section before where numbers are missing.

    Raises
    ------
    InputError
        Sections are missing, broken, or of different sizes or types.
    """

    def __init__(self, folder: Path, fill_gaps: bool = False) -> None:
        self.name = str(folder)
        names = sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix.lower() in SECTION_SUFFIXES and not path.name.startswith(".")
        )
        if not names:
            raise InputError(
                f"{folder} holds no sections: it must have files with the suffixes "
                f"{', '.join(SECTION_SUFFIXES)}, or be an N5 or zarr array"
            )
        files = order_sections(folder, names)
        missing = missing_numbers(files)
        if missing and not fill_gaps:
            raise InputError(
                f"{folder}: of the sections {files[0].name} to {files[-1].name}, those numbered "
                f"{describe_numbers(missing)} are missing: add them, or give --fill-gaps to repeat "
                "the section before"
            )
        if missing:
            log.warning(
                "%s: sections %s are missing, and the one before is repeated", folder,
                describe_numbers(missing),
            )  # fmt: skip
        header = _common_header(folder, files)
        self.paths = [folder / name for name in _filled(files, missing)]
        self.shape = (len(self.paths), header.rows, header.columns)
        check_size(folder, self.shape)
        self.dtype = header.dtype
        self.chunks = (1, header.rows, header.columns)
        self.stated_size = header.stated_size

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray:
        """Read the voxels of a box; whole sections are decoded."""
        rows, columns = slice(start[1], stop[1]), slice(start[2], stop[2])
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        voxels = np.empty(shape, self.dtype)
        for plane, path in zip(voxels, self.paths[start[0] : stop[0]], strict=True):
            section = read_section(path)
            # The file may have changed since its header was read.
            if section.shape != self.shape[1:] or section.dtype != self.dtype:
                raise InputError(
                    f"{path} holds {section.shape} {section.dtype} pixels, not {self.shape[1:]} "
                    f"{self.dtype} as its header says: copy or export it again"
                )
            plane[:] = section[rows, columns]
        return voxels

    def close(self) -> None:
        """Nothing stays open."""


def _filled(files: Sequence[NumberedFile], missing: Sequence[int]) -> Iterator[str]:
    """Yield the name of each section's file; where a number is missing, the one before."""
    present = dict(files)
    name = ""
    for number in sorted([*missing, *present]):
        name = present.get(number, name)
        yield name


def _common_header(folder: Path, files: Sequence[NumberedFile]) -> SectionHeader:
    """Read the headers of all sections, which must have the same size and type."""
    problems: list[str] = []
    headers: dict[str, SectionHeader] = {}
    for file in tqdm(files, desc="read headers", unit="section", leave=False):
        with gathered(problems):
            headers[file.name] = read_header(folder / file.name)
    raise_all(problems)
    kinds = Counter(header[:3] for header in headers.values())
    common = kinds.most_common(1)[0][0]
    odd = [name for name, header in headers.items() if header[:3] != common]
    if odd:
        listed = [f"{name} ({headers[name]})" for name in odd[:MAX_LISTED]]
        more = f" and {len(odd) - MAX_LISTED} more" if len(odd) > MAX_LISTED else ""
        usual = next(header for header in headers.values() if header[:3] == common)
        raise InputError(
            f"{folder}: most sections are {usual}, but not {', '.join(listed)}{more}: crop or pad "
            "them to the same size, convert them to the same type, or move them away"
        )
    return next(iter(headers.values()))
