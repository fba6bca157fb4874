"""A crop's prediction while it is being written: what is done stays done."""

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

from cellmap_pipeline.geometry import Grid, Shape, shape_of
from cellmap_pipeline.io.files import put_in_place
from cellmap_pipeline.io.resampling import resample
from cellmap_pipeline.io.volumes import create, reopen
from cellmap_pipeline.prediction.window_sums import ONE, Accumulator
from cellmap_pipeline.prediction.windows import Layer
from cellmap_pipeline.run.resume import fingerprint_of

log = logging.getLogger(__name__)
# Of the compression: 3 would take twice the time for 4 % less.
EFFORT = 1
PROBABILITY = {"cellmap_pipeline": {"kind": "probability"}}
# In the folder: of what it is the prediction, and how far it has come.
MARK = "done.json"


class PartialResult:
    """Arrays of channels in `{output}.partial`, and how many planes of each are done.

    An output that is there and of the same identity is taken as it is: another job made it
    meanwhile.

    Parameters
    ----------
    output
        The folder that it becomes.
    grids
        By channel, its grid.
    chunks
        By channel, the chunk of its array, voxels.
    identity
        All else that the voxels hang on, in builtins. What lies there of another one is removed.
    part
        (i, n): of the planes, only the i-th of n parts (from 0), cut between chunks.
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
        self.folder = output.with_name(output.name + ".partial")
        self.planes_per_chunk = {name: chunk[0] for name, chunk in chunks.items()}
        places = {name: repr(grid) for name, grid in grids.items()}
        self._fingerprint = fingerprint_of(identity | {"grids": places, "part": part})
        self._first, self._last = (
            {name: _cut(grid.shape[0], chunks[name][0], i, part[1]) for name, grid in grids.items()}
            for i in (part[0], part[0] + 1)
        )
        self._tiles = {name: chunk[1] for name, chunk in chunks.items()}
        self._mark = self.folder / MARK
        self.done: dict[str, int] = {}
        if self._noted(output) == self._last:
            self.done = self._last
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        if noted := self._noted(self.folder):
            self.done = noted
            self._arrays = {name: reopen(self.folder / name) for name in grids}
            log.info("goes on where it was: planes done: %s", self.done)
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.done = dict(self._first)
        self._arrays = {
            name: create(self.folder / name, grid, "uint8", PROBABILITY, chunks[name], EFFORT)
            for name, grid in grids.items()
        }
        self._note()

    def to_do(self) -> dict[str, tuple[int, int]]:
        """By channel, the first and last + 1 of the planes that are not done."""
        return {name: (self.done[name], self._last[name]) for name in self.grids}

    def write(self, layer: Layer, region: Grid, sums: Accumulator, helpers: Executor) -> None:
        """Write what `layer` finished, from `sums` over `region`, and note it as done."""
        tiles = [
            (index, name, range(*layer.finished[name]), y)
            for index, name in enumerate(self.grids)
            if name in layer.finished
            for y in range(0, self.grids[name].shape[1], self._tiles[name])
        ]

        def write_tile(tile: tuple[int, str, range, int]) -> None:
            index, name, planes, y = tile
            shape = self.grids[name].shape
            rows = min(self._tiles[name], shape[1] - y)
            part = self.grids[name].box((planes.start, y, 0), (len(planes), rows, shape[2]))
            values = _probabilities(sums, index, region, part)
            # Waited for, so that no more tiles than helpers are in memory.
            self._arrays[name][planes.start : planes.stop, y : y + rows].write(values).result()

        for _ in helpers.map(write_tile, tiles):
            pass
        self.done |= {name: last for name, (_, last) in layer.finished.items()}
        sums.forget_below(layer.keep)
        self._note()

    def finish(self) -> None:
        """Make it the output, if it is not yet."""
        if self.folder.is_dir():
            put_in_place(self.folder, self.output)

    def _noted(self, folder: Path) -> dict[str, int] | None:
        """How far a folder's planes have come, if they are of the same identity."""
        try:
            noted = json.loads((folder / MARK).read_text())
        except (FileNotFoundError, ValueError):  # Cut short when the machine died.
            return None
        return noted["done"] if noted["fingerprint"] == self._fingerprint else None

    def _note(self) -> None:
        beside = self._mark.with_suffix(".partial")
        beside.write_text(json.dumps({"fingerprint": self._fingerprint, "done": self.done}))
        os.replace(beside, self._mark)


def join_parts(parts: Sequence[Path], output: Path) -> None:
    """Make one result of the parts of a crop, without copying where files can be linked."""
    beside = output.with_name(output.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    for part in parts:
        shutil.copytree(
            part, beside, copy_function=_link, dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(MARK),
        )  # fmt: skip
    put_in_place(beside, output)


def _link(source: str, target: str) -> None:
    if Path(target).exists():  # metadata, alike in all parts
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _cut(planes: int, chunk: int, i: int, n: int) -> int:
    """Where the i-th of n parts begins: at a chunk."""
    return planes if i == n else round(planes * i / n / chunk) * chunk


def _probabilities(sums: Accumulator, channel: int, region: Grid, grid: Grid) -> NDArray[np.uint8]:
    """Probabilities (z, y, x) of a channel on `grid`, 0..255 for 0..1."""
    offset = region.offset(grid)
    if offset is not None:
        stop = shape_of(a + n for a, n in zip(offset, grid.shape, strict=True))
        values = sums.read(channel, offset, stop)
        values += ONE // 255 // 2  # to the nearest step
        return (values // (ONE // 255)).astype(np.uint8)
    start, stop = region.index_box(grid, margin=1)
    low = shape_of(max(0, a) for a in start)
    high = shape_of(min(n, b) for n, b in zip(region.shape, stop, strict=True))
    size = [b - a for a, b in zip(low, high, strict=True)]
    smooth = resample(sums.read(channel, low, high), region.box(low, size), grid)
    return np.round(smooth * np.float32(255 / ONE)).clip(0, 255).astype(np.uint8)
