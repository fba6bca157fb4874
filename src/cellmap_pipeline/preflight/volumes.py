"""Raw, labels, truth and predictions as they are stored: what keeps a job from reading them.

What metadata tell is looked at first, then chunks are decoded (`inputs_chunks`), and then it is
judged what they hold.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from cellmap_pipeline.errors import InputError, gathered
from cellmap_pipeline.geometry import Grid, Vector, beyond, is_plausible, shape_of
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.labels import LabelVolume, counted_voxels
from cellmap_pipeline.io.storage import Location
from cellmap_pipeline.io.volumes import Volume, predicted
from cellmap_pipeline.preflight.chunks import Look
from cellmap_pipeline.segmentation.probabilities import further_beside

# Share of a crop that may lie beyond its raw: of one to train on, and before anything is said.
MOST_OUTSIDE, SOME_OUTSIDE = 0.25, 0.02
# Share of a crop that a prediction made elsewhere may lack. Less than of raw: what lies beyond raw
# nobody can see, but what lies beyond a prediction becomes a label that nobody predicted.
MOST_LACKING = 0.1
# Raw of whole numbers that uses less of its type's range than this is nearly black.
LEAST_RANGE = 1 / 16
# Labelled voxels that may lack of those that a label's annotation counts.
UNCOUNTED = 0.02
CHUNK_NAME = re.compile(r"\d+(\.\d+)*")


class Volumes:
    """The volumes that a run reads; what is wrong with them is noted.

    Attributes
    ----------
    problems, warnings
        A line each.
    raw, labels, predictions
        What is to be decoded of each level, by its path.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.raw: dict[Location, Look] = {}
        self.labels: dict[Location, Look] = {}
        self.predictions: dict[Location, Look] = {}
        self._open = cache(Volume.open)
        self._open_label = cache(LabelVolume.open)
        # By level, the crops on it with their boxes.
        self._crops: dict[Location, list[tuple[str, Grid]]] = defaultdict(list)
        self._finer: set[tuple[str, Location]] = set()

    @property
    def looks(self) -> list[Look]:
        """All that is to be decoded."""
        return [*self.raw.values(), *self.labels.values(), *self.predictions.values()]

    def look_at_raw(
        self,
        path: Location,
        extent: Grid,
        voxel_size: Vector,
        margin: Sequence[int],
        who: tuple[str, str, bool],
    ) -> None:
        """Take in the raw under a crop and around it.

        Parameters
        ----------
        extent
            Of the crop.
        voxel_size
            At which it is read.
        margin
            Voxels of that size beyond the crop that are read where they are here.
        who
            The crop and the training, and whether it trains on the crop.
        """
        crop, training, trains = who
        with gathered(self.problems, f"{crop}: "):
            if isinstance(path, Path) and not path.exists():
                raise InputError(_missing_raw(path))
            volume = self._open(path)
            level = volume.level_for(voxel_size)
            _check_sizes(volume)
            _check_type(level, "uf", "raw is uint8, uint16 or float from 0 to 1")
            core = volume.aligned(extent, voxel_size)
            volume.available(core, core=extent)
            there = volume.available(core.padded(margin), core=extent)
            start, stop = level.grid.index_box(there)
            low = [max(0, a) for a in start]
            high = [min(n, b) for n, b in zip(level.grid.shape, stop, strict=True)]
            self.raw.setdefault(level.path, Look(level)).want(low, high)
            self._crops[level.path].append((crop, extent))
            self._note_place(level, extent, crop, trains)
            finest = volume.finest
            if any(own > 1.25 * wanted for own, wanted in zip(finest, voxel_size, strict=True)):
                self._note_finer(training, path, finest, voxel_size)

    def look_at_label(
        self, path: Location, crop: str, extent: Grid, voxel_size: Vector, validates: bool
    ) -> None:
        """Take in a label of a crop to train on, at the level that is read; of one that
        validates, at all.
        """
        with gathered(self.problems, f"{crop}: "):
            label = self._open_label(path)
            _check_sizes(label.volume)
            read = label.volume.level_for(voxel_size)
            if not read.grid.overlaps(extent):
                raise InputError(
                    f"{path} lies elsewhere than the crop's other labels: correct its translation"
                )
            for level in label.volume.levels if validates else [read]:
                _check_type(level, "uib", "labels are whole numbers")
                self._want_all(self.labels, level, label.unknown)

    def look_at_truth(self, path: Path) -> None:
        """Take in the metadata of a test crop's true label, an array: only scoring reads voxels."""
        with gathered(self.problems, "ground_truth: "):
            _check_type(_plain_level(path), "uib", "labels are whole numbers")

    def look_at_prediction(self, name: str, path: Path, wanted: Grid) -> None:
        """Take in a prediction made elsewhere of what lies on the grid `wanted`, and its further
        channels.
        """
        for channel in [path, *further_beside(path)]:
            with gathered(self.problems, f"predictions.{name}: "):
                level = self._open(channel).level_for(wanted.voxel_size)
                _check_type(level, "uf", "probabilities are uint8 or float from 0 to 1")
                if not level.grid.overlaps(wanted):
                    raise InputError(
                        f"{level.path} lies at {list(level.grid.translation)} nm, off the crop at "
                        f"{list(wanted.translation)} nm: correct its translation and voxel size"
                    )
                self._note_lack(name, level, wanted)
                self._want_all(self.predictions, level)

    def look_at_scored(self, name: str, path: Path, crop: str, truth: Grid) -> None:
        """Take in a prediction made elsewhere of a crop that validates, where its label lies on
        the grid `truth`: it is scored where it is predicted.
        """
        with gathered(self.problems, f"predictions.{name}: "):
            part = predicted(truth, [path])
            lacking = _lacking(self._open(path).levels[0].grid, truth)
            if part and lacking > SOME_OUTSIDE:
                self.warnings.append(
                    f"predictions.{name}: {path} lacks {lacking:.0%} of {crop}, and is scored on "
                    "the rest alone: is its place right?"
                )
            self.look_at_prediction(name, path, part or truth)

    def summary(self) -> list[str]:
        """What was decoded, a line for each kind of volume."""
        return [
            f"{what}: {sum(look.values.decoded for look in looks.values()):,} of "
            f"{sum(len(look.here) for look in looks.values()):,} chunks of {len(looks)} arrays "
            f"decoded, {sum(len(look.values.broken) for look in looks.values()):,} broken"
            for what, looks in (
                ("raw", self.raw), ("labels", self.labels), ("predictions", self.predictions)
            )
            if looks
        ]  # fmt: skip

    def judge(self) -> None:
        """Note what is wrong with what was decoded."""
        for look in self.looks:
            for number, message in enumerate(look.values.broken):
                if number == 0:
                    more = len(look.values.broken) - 1
                    self.problems.append(message + (f"; so are {more} more chunks" if more else ""))
        for look in self.raw.values():
            self._judge_raw(look)
        for look in self.labels.values():
            self._judge_label(look)
        for look in self.predictions.values():
            self._judge_floats(look, "probabilities are")

    def _judge_raw(self, look: Look) -> None:
        level, values = look.level, look.values
        self._judge_floats(look, "raw is taken for")
        dtype = np.dtype(level.metadata["dtype"])
        if dtype.kind == "u" and dtype.itemsize > 1 and look.whole and values.decoded:
            white = np.iinfo(dtype).max
            if 0 < values.high < white * LEAST_RANGE:
                self.warnings.append(
                    f"{level.path} is {dtype} but holds nothing above {values.high:.0f} around the "
                    f"crops, and {white} counts as white: scale it, or store it as uint8"
                )
        for crop, extent in self._crops[level.path]:
            start, stop = level.grid.index_box(extent)
            chunks = level.metadata["chunks"]
            axes = [
                range(max(0, a) // c, -(-b // c))
                for a, b, c in zip(start, stop, chunks, strict=True)
            ]
            under = values.ranges.keys() & map(shape_of, product(*axes))
            found = {value for index in under for value in values.ranges[index]}
            if len(found) == 1:
                self.warnings.append(
                    f"{crop}: all raw under it is {found.pop():g} in {level.path}: nothing can be "
                    "seen there; check its translation"
                )

    def _judge_floats(self, look: Look, what: str) -> None:
        level, values = look.level, look.values
        if np.dtype(level.metadata["dtype"]).kind != "f" or not values.decoded:
            return
        if values.nan:
            self.problems.append(
                f"{level.path} holds NaN: replace what is not a number, by 0 where nothing is known"
            )
        if values.low < -1e-3 or values.high > 1 + 1e-3:
            self.problems.append(
                f"{level.path} holds {values.low:g} to {values.high:g}, but {what} 0 to 1 where it "
                "is float: scale it, or store it as uint8"
            )

    def _judge_label(self, look: Look) -> None:
        level, values = look.level, look.values
        if values.low < 0:
            self.problems.append(
                f"{level.path} holds {values.low:g}, but ids are 0 or more: mark what is unknown "
                "by an `unknown` value (docs/own-data.md)"
            )
        counted = counted_voxels(level)
        if counted is None or not look.whole or values.broken:
            return
        if counted and not look.here:
            self.problems.append(
                f"{level.path} has no chunk here, but its annotation counts {counted:,} labelled "
                "voxels: copy or fetch it again"
            )
        elif abs(values.present - counted) > UNCOUNTED * max(values.present, counted):
            self.warnings.append(
                f"{level.path} holds {values.present:,} labelled voxels, but its annotation counts "
                f"{counted:,}: is the copy whole? (Balance between classes goes by what is counted)"
            )

    def _want_all(
        self, looks: dict[Location, Look], level: Level, unknown: int | None = None
    ) -> None:
        look = looks.setdefault(level.path, Look(level, unknown=unknown))
        if not look.here:
            look.want((0, 0, 0), level.grid.shape)
            self._note_strays(look)

    def _note_strays(self, look: Look) -> None:
        """Chunks under other names than the metadata say are taken for absent ones: background."""
        level = look.level
        if look.here or level.is_n5 or not isinstance(level.path, Path):
            return
        separator = level.metadata.get("dimension_separator", ".")
        strays = [
            path.name
            for path in sorted(level.path.iterdir())
            if CHUNK_NAME.fullmatch(path.name) and path.is_dir() == (separator == ".")
        ]
        if strays:
            self.problems.append(
                f"{level.path} has no chunk by what .zarray says (dimension_separator "
                f"{separator!r}), but there is {strays[0]}: put the separator right"
            )

    def _note_place(self, level: Level, extent: Grid, crop: str, trains: bool) -> None:
        outside = beyond(level.grid, extent)
        text = (
            f"{crop}: {outside:.0%} of it lies outside its raw {level.path} "
            f"({_voxels(level, extent)})"
        )
        if trains and outside > MOST_OUTSIDE:
            self.problems.append(
                f"{text}: correct the labels' voxel size and translation (nm, z, y, x), or leave "
                "the crop out"
            )
        elif outside > SOME_OUTSIDE:
            self.warnings.append(f"{text}: is its place right? Nothing can be seen there")

    def _note_lack(self, name: str, level: Level, wanted: Grid) -> None:
        """What a prediction lacks of a crop is read from its outermost voxels."""
        lacking = _lacking(level.grid, wanted)
        text = (
            f"predictions.{name}: {level.path} lacks {lacking:.0%} of its crop "
            f"({_voxels(level, wanted)})"
        )
        if lacking > MOST_LACKING:
            self.problems.append(
                f"{text}: predict all of it, with 0 where nothing is known, or correct its "
                "translation and voxel size"
            )
        elif lacking > SOME_OUTSIDE:
            self.warnings.append(f"{text}: is its place right? Its outermost voxels stand in there")

    def _note_finer(self, training: str, path: Location, finest: Vector, wanted: Vector) -> None:
        if (training, path) not in self._finer:
            self._finer.add((training, path))
            self.warnings.append(
                f"training {training}: its voxels of {list(wanted)} nm are finer than the raw "
                f"{path} ({list(finest)} nm), which is interpolated: that costs time and shows "
                "nothing more"
            )


def _lacking(predicted: Grid, wanted: Grid) -> float:
    """The share of `wanted` that is not predicted; at borders, a part of a voxel may lack: those
    of coarser voxels fall elsewhere.
    """
    return beyond(predicted, wanted, list(map(max, predicted.voxel_size, wanted.voxel_size)))


def _voxels(level: Level, extent: Grid) -> str:
    """Which voxels of a level `extent` takes, for people."""
    start, stop = level.grid.index_box(extent)
    return f"voxels {list(start)} to {list(stop)} of {list(level.grid.shape)}"


def _check_sizes(volume: Volume) -> None:
    for path, size in volume.declared:
        if not is_plausible(size):
            raise InputError(
                f"{path}: voxels of {list(size)} nm are nothing like voxels in nm: correct the "
                "scale or the unit in its metadata"
            )


def _check_type(level: Level, kinds: str, what: str) -> None:
    dtype = np.dtype(level.metadata["dtype"])
    if dtype.kind not in kinds:
        raise InputError(f"{level.path} is {dtype}, but {what}: convert it")


def _plain_level(path: Path) -> Level:
    """An array, wherever it lies."""
    level = Level(path, Grid((1, 1, 1), (0, 0, 0), (1, 1, 1)))
    shape = level.metadata["shape"]
    if len(shape) != 3:
        raise InputError(f"{path} has the shape {shape}, but must have the axes z, y, x")
    return level


def _missing_raw(path: Path) -> str:
    """What to do where there is no raw, by what is there instead."""
    if path.parent.is_dir():
        others = sorted(p.name for p in path.parent.iterdir() if p.is_dir())
        if others:
            return (
                f"{path} does not exist, but {', '.join(others)} beside it: name the raw "
                f"{path.name}, by a link if you like, or name it in an own `datasplit`"
            )
    return f"{path} does not exist: copy or fetch the raw (docs/own-data.md says where it lies)"
