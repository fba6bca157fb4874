"""Checks of stored raw, labels, ground truth and external predictions.

Metadata are checked first, then chunks are decoded (`preflight.chunks`), and finally their values
are checked (`preflight.values`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from cellmap_pipeline.errors import InputError, gathered
from cellmap_pipeline.geometry import Grid, Vector, fraction_outside, is_plausible
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.label_resampling import is_too_thin
from cellmap_pipeline.io.labels import PLAIN, Encoding, LabelVolume
from cellmap_pipeline.io.pyramids import misplaced_level
from cellmap_pipeline.io.storage import Location
from cellmap_pipeline.io.volumes import Volume, common_part
from cellmap_pipeline.preflight.chunks import ChunkRequest
from cellmap_pipeline.preflight.values import (
    check_chunks,
    check_label,
    check_scale,
    float_problems,
    raw_warnings,
)
from cellmap_pipeline.segmentation.probabilities import auxiliary_paths

# Fraction of a crop outside its raw or its prediction above which there is a warning.
WARN_FRACTION_OUTSIDE = 0.02
MAX_FRACTION_OUTSIDE_RAW = 0.25
# This is stricter than for raw: outside raw nothing can be seen, but outside a prediction its
# outermost voxels are repeated and become wrong labels.
MAX_FRACTION_OUTSIDE_PREDICTION = 0.1
# Coarser raw is interpolated.
MAX_RAW_COARSENESS = 1.25


@dataclass(frozen=True)
class Reader:
    """The crop that is read, and the training that reads it.

    Attributes
    ----------
    crop
        Name of the crop.
    training
        Name of the training.
    trains
        Whether the training trains or validates on the crop, rather than predicts it.
    by_range
        Whether its network gets raw scaled from the whole range of the stored type.
    """

    crop: str
    training: str
    trains: bool
    by_range: bool = True


class InputVolumes:
    """The volumes that a run reads, and their problems.

    Attributes
    ----------
    problems, warnings
        A line each.
    raw, labels, predictions
        Chunks to decode of each level, by its path.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.raw: dict[Location, ChunkRequest] = {}
        self.labels: dict[Location, ChunkRequest] = {}
        self.predictions: dict[Location, ChunkRequest] = {}
        self._open = cache(Volume.open)
        self._open_label = cache(LabelVolume.open)
        # Name and extent of the crops in each level of raw.
        self._crops: dict[Location, list[tuple[str, Grid]]] = defaultdict(list)
        # Levels of raw whose contrast depends on the range of their type.
        self._read_by_range: set[Location] = set()
        # External predictions by source and label.
        self._sources: dict[str, dict[str, list[ChunkRequest]]] = defaultdict(
            lambda: defaultdict(list)
        )
        # Volumes whose levels do not lie where their metadata state, by what is assumed.
        self._assumed: dict[str, dict[Location, None]] = defaultdict(dict)
        # Trainings and raw for which there is a warning about the voxel size.
        self._interpolated: set[tuple[str, Location]] = set()

    @property
    def requests(self) -> list[ChunkRequest]:
        """Chunks to decode of all levels."""
        return [*self.raw.values(), *self.labels.values(), *self.predictions.values()]

    def add_raw(
        self,
        path: Location,
        extent: Grid,
        voxel_size: Vector,
        margin: Sequence[int],
        reader: Reader,
    ) -> None:
        """Register the raw of a crop and around it for checking.

        Parameters
        ----------
        path
            Location of the raw.
        extent
            Extent of the crop.
        voxel_size
            Voxel size at which it is read, nm.
        margin
            Voxels of that size around the crop that are read, as far as they are present.
        reader
            The crop, and the training that reads it.
        """
        with gathered(self.problems, f"{reader.crop}: "):
            if isinstance(path, Path) and not path.exists():
                raise InputError(_missing_raw(path))
            volume = self._open(path)
            level = volume.level_for(voxel_size)
            _check_voxel_sizes(volume)
            self._check_positions(volume)
            _check_dtype(level, "uf", "raw is uint8, uint16 or float from 0 to 1")
            core = volume.aligned(extent, voxel_size)
            volume.available(core, core=extent)
            available = volume.available(core.padded(margin), core=extent)
            start, stop = level.grid.index_box(available)
            low = [max(0, a) for a in start]
            high = [min(n, b) for n, b in zip(level.grid.shape, stop, strict=True)]
            self.raw.setdefault(level.path, ChunkRequest(level)).add_box(low, high)
            self._crops[level.path].append((reader.crop, extent))
            if reader.by_range:
                self._read_by_range.add(level.path)
            self._check_raw_extent(level, extent, reader)
            finest = volume.finest_voxel_size
            if any(
                own > MAX_RAW_COARSENESS * wanted
                for own, wanted in zip(finest, voxel_size, strict=True)
            ):
                self._warn_interpolated(reader.training, path, finest, voxel_size)

    def add_label(
        self, path: Location, crop: str, extent: Grid, voxel_size: Vector, validates: bool
    ) -> None:
        """Register a label of a crop for checking.

        Chunks are decoded of the level that training reads at `voxel_size` (nm), or of all levels
        if the crop validates.
        """
        with gathered(self.problems, f"{crop}: "):
            label = self._open_label(path)
            _check_voxel_sizes(label.volume)
            self._check_positions(label.volume)
            read = label.volume.level_for(voxel_size)
            if not read.grid.overlaps(extent):
                raise InputError(
                    f"{path} does not overlap the crop's other labels: correct its translation"
                )
            if is_too_thin(read.grid, voxel_size):
                self.warnings.append(
                    f"{crop}: {path} covers less than half of any voxel of {list(voxel_size)} nm, "
                    "so that it teaches nothing at this size: train with smaller voxels, or leave "
                    "the crop out"
                )
            for level in label.volume.levels if validates else [read]:
                _check_dtype(level, "uib", "labels are whole numbers")
                self._request_all(self.labels, level, label.encoding)

    def add_ground_truth(self, path: Path) -> None:
        """Check the metadata of a test crop's ground truth, an array that only scoring reads."""
        with gathered(self.problems, "ground_truth: "):
            _check_dtype(_plain_level(path), "uib", "labels are whole numbers")

    def add_prediction(self, name: str, label: str, path: Path, wanted: Grid) -> None:
        """Register an external prediction of a label on the grid `wanted` for checking.

        Its auxiliary channels are registered, too.
        """
        for channel in [path, *auxiliary_paths(path)]:
            with gathered(self.problems, f"predictions.{name}: "):
                level = self._open(channel).level_for(wanted.voxel_size)
                _check_dtype(level, "uf", "probabilities are uint8 or float from 0 to 1")
                if not level.grid.overlaps(wanted):
                    raise InputError(
                        f"{level.path} at {list(level.grid.translation)} nm does not overlap the "
                        f"crop at {list(wanted.translation)} nm: correct its translation and voxel "
                        "size"
                    )
                self._check_coverage(name, level, wanted)
                self._request_all(self.predictions, level)
                if channel == path:
                    self._sources[name][label].append(self.predictions[level.path])

    def add_validation_prediction(
        self, name: str, label: str, path: Path, crop: str, wanted: Grid
    ) -> None:
        """Register an external prediction of a validation crop for checking.

        `wanted` is the grid of the ground truth. The prediction is scored where it exists.
        """
        with gathered(self.problems, f"predictions.{name}: "):
            part = common_part(wanted, [path])
            missing = _fraction_missing(self._open(path).levels[0].grid, wanted)
            if part and missing > WARN_FRACTION_OUTSIDE:
                self.warnings.append(
                    f"predictions.{name}: {path} does not cover {missing:.0%} of {crop} and is "
                    "scored on the rest alone: check its translation"
                )
            self.add_prediction(name, label, path, part or wanted)

    def summary(self) -> list[str]:
        """Return a line about the decoded chunks of each kind of volume."""
        return [
            f"{kind}: {sum(request.statistics.decoded for request in requests.values()):,} of "
            f"{sum(len(request.stored) for request in requests.values()):,} chunks of "
            f"{len(requests)} arrays decoded, "
            f"{sum(len(request.statistics.broken) for request in requests.values()):,} broken"
            for kind, requests in (
                ("raw", self.raw), ("labels", self.labels), ("predictions", self.predictions)
            )
            if requests
        ]  # fmt: skip

    def check_values(self) -> None:
        """Check the values of decoded chunks, and warn of positions that are assumed."""
        for assumption, paths in self._assumed.items():
            more = f" and {len(paths) - 1} more volumes" if len(paths) > 1 else ""
            self.warnings.append(
                f"{next(iter(paths))}{more}: {assumption}: state the translations in the metadata"
            )
        for request in self.requests:
            if request.statistics.broken:
                first, *others = request.statistics.broken
                more = f"; {len(others)} more chunks are broken" if others else ""
                self.problems.append(first + more)
        for request in self.raw.values():
            self.problems += float_problems(request, "raw")
            path = request.level.path
            by_range = path in self._read_by_range
            self.warnings += raw_warnings(request, self._crops[path], by_range)
        for request in self.labels.values():
            check_label(request, self.problems, self.warnings)
        for request in self.predictions.values():
            self.problems += float_problems(request, "probabilities")
        for name, by_label in self._sources.items():
            for request in chain.from_iterable(by_label.values()):
                check_chunks(name, request, self.problems)
            check_scale(name, by_label, self.problems, self.warnings)

    def _request_all(
        self, requests: dict[Location, ChunkRequest], level: Level, encoding: Encoding = PLAIN
    ) -> None:
        request = requests.setdefault(level.path, ChunkRequest(level, encoding=encoding))
        if not request.stored:
            request.add_box((0, 0, 0), level.grid.shape)
            with gathered(self.problems):
                level.check_chunk_names()

    def _check_positions(self, volume: Volume) -> None:
        """Warn of levels whose position is assumed, or contradicts that of the finest level."""
        if volume.assumption:
            self._assumed[volume.assumption][volume.path] = None
        if misplaced := misplaced_level(volume.levels):
            self.warnings.append(
                f"{volume.path}: its levels do not coincide: {misplaced}: correct the translations "
                "in its metadata"
            )

    def _check_raw_extent(self, level: Level, extent: Grid, reader: Reader) -> None:
        outside = fraction_outside(level.grid, extent)
        text = (
            f"{reader.crop}: {outside:.0%} of it lies outside its raw {level.path} "
            f"({_describe_box(level, extent)})"
        )
        if reader.trains and outside > MAX_FRACTION_OUTSIDE_RAW:
            self.problems.append(
                f"{text}: correct the labels' voxel size and translation (nm, z, y, x), or leave "
                "the crop out"
            )
        elif outside > WARN_FRACTION_OUTSIDE:
            self.warnings.append(f"{text}, where nothing can be seen: check its translation")

    def _check_coverage(self, name: str, level: Level, wanted: Grid) -> None:
        """Check that a prediction covers its crop; its outermost voxels extend to the rest."""
        missing = _fraction_missing(level.grid, wanted)
        text = (
            f"predictions.{name}: {level.path} does not cover {missing:.0%} of its crop "
            f"({_describe_box(level, wanted)})"
        )
        if missing > MAX_FRACTION_OUTSIDE_PREDICTION:
            self.problems.append(
                f"{text}: predict all of it, with 0 where nothing is known, or correct its "
                "translation and voxel size"
            )
        elif missing > WARN_FRACTION_OUTSIDE:
            self.warnings.append(
                f"{text}, where its outermost voxels are repeated: check its translation"
            )

    def _warn_interpolated(
        self, training: str, path: Location, finest: Vector, wanted: Vector
    ) -> None:
        if (training, path) not in self._interpolated:
            self._interpolated.add((training, path))
            self.warnings.append(
                f"training {training}: its voxels of {list(wanted)} nm are finer than the raw "
                f"{path} ({list(finest)} nm), which is interpolated: that takes time without "
                "adding detail"
            )


def _fraction_missing(predicted: Grid, wanted: Grid) -> float:
    """Return the fraction of `wanted` that is not predicted.

    Less than a voxel may be missing at each border: borders of coarser voxels do not coincide.
    """
    tolerance = list(map(max, predicted.voxel_size, wanted.voxel_size))
    return fraction_outside(predicted, wanted, tolerance)


def _describe_box(level: Level, extent: Grid) -> str:
    """Describe the box of a level that `extent` overlaps."""
    start, stop = level.grid.index_box(extent)
    return f"voxels {list(start)} to {list(stop)} of {list(level.grid.shape)}"


def _check_voxel_sizes(volume: Volume) -> None:
    for path, size in volume.declared:
        if not is_plausible(size):
            raise InputError(
                f"{path}: {list(size)} nm is not a plausible voxel size: correct the scale or the "
                "unit in its metadata"
            )


def _check_dtype(level: Level, kinds: str, requirement: str) -> None:
    dtype = level.metadata.dtype
    if dtype.kind not in kinds:
        raise InputError(f"{level.path} is {dtype}, but {requirement}: convert it")


def _plain_level(path: Path) -> Level:
    """Open an array without a grid."""
    level = Level(path, Grid((1, 1, 1), (0, 0, 0), (1, 1, 1)))
    shape = level.metadata.shape
    if len(shape) != 3:
        raise InputError(f"{path} has the shape {shape}, but must have the axes z, y, x")
    return level


def _missing_raw(path: Path) -> str:
    """Return the error for missing raw, which names similar folders."""
    if path.parent.is_dir():
        others = sorted(p.name for p in path.parent.iterdir() if p.is_dir())
        if others:
            return (
                f"{path} does not exist, but its folder contains {', '.join(others)}: rename or "
                f"link the raw to {path.name}, or give its path in a `datasplit` of your own"
            )
    return f"{path} does not exist: copy or fetch the raw (its path is in docs/own-data.md)"
