"""The output of a prediction: written plane by plane, so that a killed job can resume."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import sampled_grid
from cellmap_pipeline.geometry import Grid, Shape, shape_of
from cellmap_pipeline.io.files import (
    PARTIAL_SUFFIX,
    atomic_folder,
    atomic_write,
    replace_folder,
)
from cellmap_pipeline.io.resampling import resample
from cellmap_pipeline.io.volumes import create, reopen
from cellmap_pipeline.prediction.window_sums import PROBABILITY_ONE, WindowSums
from cellmap_pipeline.prediction.windows import WindowLayer
from cellmap_pipeline.run.resume import fingerprint_of

log = logging.getLogger(__name__)
# Level 3 would take twice the time to save 4 %.
COMPRESSION_LEVEL = 1
PROBABILITY_ATTRIBUTES = {"cellmap_pipeline": {"kind": "probability"}}
# Holds a fingerprint of what determines the prediction, and how many planes are done.
PROGRESS_FILE = "done.json"


class PartialResult:
    """Arrays of channels in `{output}.partial`, and how many planes of each are done.

    If the output exists and has the same identity, it is kept: another job has finished it in the
    meantime.

    Parameters
    ----------
    output
        Folder that the result becomes when it is finished.
    grids
        Grid of each channel.
    chunks
        Chunk shape of each channel's array, in voxels.
    identity
        Everything else that determines the voxels, JSON-serializable. A partial result of another
        identity is removed.
    part
        (i, n): write only the i-th of n parts (from 0) along z, cut between chunks.
    """

    def __init__(
        self,
        output: Path,
        grids: Mapping[str, Grid],
        chunks: Mapping[str, Shape],
        identity: dict[str, Any],
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.output, self.grids = output, grids
        self.folder = output.with_name(output.name + PARTIAL_SUFFIX)
        self.planes_per_chunk = {name: chunk[0] for name, chunk in chunks.items()}
        places = {name: repr(grid) for name, grid in grids.items()}
        self._fingerprint = fingerprint_of(identity | {"grids": places, "part": part})
        self._first, self._last = (
            {
                name: _part_start(grid.shape[0], chunks[name][0], i, part[1])
                for name, grid in grids.items()
            }
            for i in (part[0], part[0] + 1)
        )
        self._rows_per_chunk = {name: chunk[1] for name, chunk in chunks.items()}
        self._progress_path = self.folder / PROGRESS_FILE
        self.done: dict[str, int] = {}
        if self._read_progress(output) == self._last:
            self.done = self._last
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        if done := self._read_progress(self.folder):
            self.done = done
            self._arrays = {name: reopen(self.folder / name) for name in grids}
            log.info("resuming where it stopped: planes done: %s", self.done)
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.done = dict(self._first)
        self._arrays = {
            name: create(
                self.folder / name, grid, "uint8", PROBABILITY_ATTRIBUTES, chunks[name],
                COMPRESSION_LEVEL,
            )
            for name, grid in grids.items()
        }  # fmt: skip
        self._write_progress()

    def pending(self) -> dict[str, tuple[int, int]]:
        """Range of the planes of each channel that are not done, as (first, last + 1)."""
        return {name: (self.done[name], self._last[name]) for name in self.grids}

    def write(self, layer: WindowLayer, region: Grid, sums: WindowSums, helpers: Executor) -> None:
        """Write the planes that `layer` finished, from `sums` over `region`, and record them."""
        tiles = [
            (index, name, range(*layer.finished[name]), y)
            for index, name in enumerate(self.grids)
            if name in layer.finished
            for y in range(0, self.grids[name].shape[1], self._rows_per_chunk[name])
        ]

        def write_tile(tile: tuple[int, str, range, int]) -> None:
            index, name, planes, y = tile
            shape = self.grids[name].shape
            rows = min(self._rows_per_chunk[name], shape[1] - y)
            part = self.grids[name].box((planes.start, y, 0), (len(planes), rows, shape[2]))
            values = _probabilities(sums, index, region, sampled_grid(name, region, part))
            # Wait, so that there are no more tiles in memory than helpers.
            self._arrays[name][planes.start : planes.stop, y : y + rows].write(values).result()

        for _ in helpers.map(write_tile, tiles):
            pass
        self.done |= {name: last for name, (_, last) in layer.finished.items()}
        sums.free_below(layer.keep_from)
        self._write_progress()

    def finish(self) -> None:
        """Move the finished arrays to the output, unless they have been moved already."""
        if self.done != self._last:
            raise RuntimeError(
                f"{self.folder}: planes up to {self._last} are expected, but only those up to "
                f"{self.done} are done: please report this"
            )
        if self.folder.is_dir():
            replace_folder(self.folder, self.output)

    def _read_progress(self, folder: Path) -> dict[str, int] | None:
        """Read how many planes of each channel are done; None for another identity."""
        try:
            progress = json.loads((folder / PROGRESS_FILE).read_text())
        except (FileNotFoundError, ValueError):  # Truncated when the machine crashed.
            return None
        is_ours = isinstance(progress, dict) and progress.get("fingerprint") == self._fingerprint
        return progress["done"] if is_ours else None

    def _write_progress(self) -> None:
        with atomic_write(self._progress_path) as tmp:
            tmp.write_text(json.dumps({"fingerprint": self._fingerprint, "done": self.done}))


def join_parts(parts: Sequence[Path], output: Path) -> None:
    """Join the parts of a crop into one result, by hard links where possible."""
    with atomic_folder(output) as tmp:
        for part in parts:
            shutil.copytree(
                part, tmp, copy_function=_link, dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(PROGRESS_FILE),
            )  # fmt: skip


def _link(source: str, target: str) -> None:
    if Path(target).exists():  # Metadata are the same in all parts.
        return
    try:
        os.link(source, target)
    except OSError:  # The file system has no hard links.
        shutil.copy2(source, target)


def _part_start(planes: int, chunk: int, i: int, n: int) -> int:
    """First plane of the i-th of n parts, at the start of a chunk or behind the last plane."""
    return planes if i == n else min(planes, round(planes * i / n / chunk) * chunk)


def _probabilities(sums: WindowSums, channel: int, region: Grid, grid: Grid) -> NDArray[np.uint8]:
    """Resample the probabilities (z, y, x) of a channel to `grid`, 0..255 for 0..1."""
    offset = region.offset(grid)
    if offset is not None:
        stop = shape_of(a + n for a, n in zip(offset, grid.shape, strict=True))
        values = sums.read(channel, offset, stop)
        values += PROBABILITY_ONE // 255 // 2  # Round to nearest.
        return (values // (PROBABILITY_ONE // 255)).astype(np.uint8)
    start, stop = region.index_box(grid, margin=1)
    low = shape_of(max(0, a) for a in start)
    high = shape_of(min(n, b) for n, b in zip(region.shape, stop, strict=True))
    size = [b - a for a, b in zip(low, high, strict=True)]
    smooth = resample(sums.read(channel, low, high), region.box(low, size), grid)
    return np.round(smooth * np.float32(255 / PROBABILITY_ONE)).clip(0, 255).astype(np.uint8)
