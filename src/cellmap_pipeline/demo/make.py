"""Synthetic FIB-SEM data in the layout of the CellMap Segmentation Challenge, to try a run with.

There are two datasets of different voxel sizes with labeled crops, and test crops with their
manifest and separate ground truth. Everything is determined by a seed. Layout and metadata follow
OME-NGFF 0.4 (https://ngff.openmicroscopy.org/0.4) in zarr 2, annotations follow cellmap-schemas
(https://janelia-cellmap.github.io/cellmap-schemas).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Blosc, blosc
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.demo.existing import MARKER, check_replaceable, read_marker
from cellmap_pipeline.demo.image import LABELS, draw_scene
from cellmap_pipeline.demo.scene import Scene
from cellmap_pipeline.demo.shapes import Field, smooth_noise
from cellmap_pipeline.demo.tissue import build_scene
from cellmap_pipeline.geometry import Grid, Shape, Vector
from cellmap_pipeline.io.files import atomic_folder
from cellmap_pipeline.io.formats.ngff import multiscale_metadata

DemoSize = Literal["full", "small"]

# Increased whenever the generated data change.
VERSION = 1
MANIFEST = "test_crop_manifest.csv"
TRUTH = "ground_truth.zarr"

UNKNOWN = 255
COMPRESSOR = Blosc(cname="zstd", clevel=3, shuffle=Blosc.NOSHUFFLE)
DRIFT_GRAIN_NM = 1500.0


@dataclass(frozen=True)
class CropPlan:
    """A crop to generate.

    Attributes
    ----------
    number
        Number of the crop.
    corner
        Index of the first chunk of the raw around the crop.
    shape
        Shape of the crop, in voxels of `s0`; even, so that `s1` covers the same extent.
    labels
        Annotated labels.
    nucleus
        Whether it contains part of a nucleus.
    unknown
        Label of which some voxels are not annotated.
    test
        Whether it is a test crop, whose labels are written to the separate ground truth.
    level
        Level whose voxels the manifest requires for a test crop.
    """

    number: int
    corner: Shape
    shape: Shape
    labels: tuple[str, ...] = LABELS
    nucleus: bool = True
    unknown: str | None = None
    test: bool = False
    level: int = 0


@dataclass(frozen=True)
class DatasetPlan:
    """A dataset to generate.

    Attributes
    ----------
    name
        Name of the dataset.
    grid
        Grid of raw at `s0`.
    chunk
        Edge of the chunks of `s0`, in voxels; chunks of `s1` have half of it, the same extent.
    padding
        Minimum number of voxels of raw around each crop; raw is written in whole chunks.
    crops
        Crops to generate.
    """

    name: str
    grid: Grid
    chunk: int
    padding: int
    crops: tuple[CropPlan, ...]

    def region(self, crop: CropPlan) -> tuple[Grid, Shape]:
        """Grid of the raw that is generated around `crop`, and the index of its first voxel."""
        z, y, x = (c * self.chunk for c in crop.corner)
        shape = [-(-(n + 2 * self.padding) // self.chunk) * self.chunk for n in crop.shape]
        return self.grid.box((z, y, x), shape), (z, y, x)

    def crop_start(self, crop: CropPlan) -> Shape:
        """Index of the first voxel of `crop` in its region: centered, on a whole voxel of `s1`."""
        region, _ = self.region(crop)
        z, y, x = ((r - n) // 4 * 2 for r, n in zip(region.shape, crop.shape, strict=True))
        return z, y, x

    def crop_grid(self, crop: CropPlan) -> Grid:
        """Grid of `crop` at `s0`."""
        return _rounded(self.region(crop)[0].box(self.crop_start(crop), crop.shape))


FINE_VOXELS: Vector = (3.48, 4.0, 4.0)

FULL = (
    DatasetPlan(
        "demo_cell-1",
        Grid((8, 8, 8), (0, 0, 0), (200, 584, 584)),
        chunk=64,
        padding=24,
        crops=(
            CropPlan(1, (0, 0, 0), (112, 96, 104)),
            CropPlan(2, (0, 0, 4), (64, 64, 64), ("mito", "ves", "pm", "mito_mem"), nucleus=False),
            CropPlan(3, (0, 0, 7), (80, 72, 64), ("nuc", "pm", "ne")),
            CropPlan(4, (0, 4, 0), (48, 64, 80), ("mito", "ves", "pm"), nucleus=False),
            CropPlan(5, (0, 4, 3), (96, 80, 64), ("nuc", "mito", "ne", "mito_mem")),
            CropPlan(6, (1, 4, 6), (72, 80, 80), unknown="pm"),
            CropPlan(10, (0, 7, 0), (80, 80, 80), test=True),
            CropPlan(12, (1, 7, 3), (80, 80, 80), ("nuc",), test=True, level=1),
        ),
    ),
    DatasetPlan(
        "demo_cell-2",
        Grid(FINE_VOXELS, (835.2, 1200, 2400), (200, 456, 456)),
        chunk=64,
        padding=32,
        crops=(
            CropPlan(
                7, (0, 0, 0), (128, 112, 112), ("mito", "ves", "pm", "mito_mem"), nucleus=False
            ),
            CropPlan(8, (0, 0, 4), (112, 128, 96), ("nuc", "mito", "ves", "ne"), unknown="mito"),
            CropPlan(9, (0, 4, 0), (128, 96, 128), ("nuc", "mito", "pm", "ne", "mito_mem")),
            CropPlan(11, (0, 4, 4), (128, 128, 112), test=True),
        ),
    ),
)

SMALL = (
    DatasetPlan(
        "demo_cell-1",
        Grid((8, 8, 8), (0, 0, 0), (104, 232, 232)),
        chunk=32,
        padding=16,
        crops=(
            CropPlan(1, (0, 0, 0), (48, 48, 48)),
            CropPlan(2, (0, 0, 4), (40, 48, 44), ("nuc", "mito", "pm"), unknown="pm"),
            CropPlan(5, (0, 4, 0), (40, 36, 32), ("nuc", "mito", "pm"), test=True),
        ),
    ),
    DatasetPlan(
        "demo_cell-2",
        Grid(FINE_VOXELS, (835.2, 1200, 2400), (136, 264, 264)),
        chunk=32,
        padding=16,
        crops=(
            CropPlan(3, (0, 0, 0), (80, 72, 72)),
            CropPlan(4, (0, 0, 5), (56, 48, 64), ("mito", "ves", "pm"), nucleus=False),
            CropPlan(6, (0, 5, 0), (40, 40, 40), ("mito", "pm"), nucleus=False, test=True),
        ),
    ),
)

PLANS: dict[DemoSize, tuple[DatasetPlan, ...]] = {"full": FULL, "small": SMALL}


def make_demo(root: Path, seed: int = 0, progress: bool = True, size: DemoSize = "full") -> None:
    """Generate the demo data in the folder `root`, which is written atomically.

    An existing demo with the same seed, size and version is kept, another one is replaced.

    Parameters
    ----------
    root
        Folder to create, with `{dataset}/{dataset}.zarr`, `test_crop_manifest.csv` and
        `ground_truth.zarr`.
    seed
        Seed of the tissue and the noise.
    progress
        Whether to show a progress bar.
    size
        Size of the demo: "full" has 9 training and 3 test crops (about 50 MB), "small" 4 and 2
        tiny ones.

    Raises
    ------
    InputError
        `root` exists and contains something other than a demo, which would be lost.
    """
    marker = {"seed": seed, "size": size, "version": VERSION}
    if read_marker(root) == marker:
        return
    known = [plan for of_size in PLANS.values() for plan in of_size]
    crops = [crop for plan in known for crop in plan.crops]
    check_replaceable(
        root,
        files={MANIFEST, TRUTH},
        datasets={plan.name for plan in known},
        crops={f"crop{crop.number}" for crop in crops},
        labels={label for crop in crops for label in crop.labels},
    )
    plans = PLANS[size]
    rows: list[CropLabel] = []
    # With several threads, blosc stores the blocks of a chunk in the order in which they finish.
    threads = blosc.set_nthreads(1)
    count = sum(len(plan.crops) for plan in plans)
    bar = tqdm(total=count, desc="demo data", unit="crop", disable=not progress)
    with atomic_folder(root) as tmp, bar:
        for plan in plans:
            rows += _make_dataset(tmp, plan, seed, bar)
        blosc.set_nthreads(threads)
        write_manifest(sorted(rows, key=lambda row: row.crop), tmp / MANIFEST)
        (tmp / MARKER).write_text(json.dumps(marker))


def crop_scene(dataset: DatasetPlan, crop: CropPlan, seed: int) -> Scene:
    """The tissue in the region of `crop`."""
    region, own = dataset.region(crop)[0], dataset.crop_grid(crop)
    return build_scene(
        np.random.default_rng([seed, crop.number]),
        (np.array(region.lower), np.array(region.upper)),
        (np.array(own.lower), np.array(own.upper)),
        crop.nucleus,
    )


def drift_fields(dataset: DatasetPlan, seed: int) -> tuple[Field, Field]:
    """Slow changes of contrast and of brightness over the dataset."""
    name = [ord(c) for c in dataset.name]
    contrast, brightness = (
        smooth_noise(
            np.random.default_rng([seed, *name, i]),
            dataset.grid.lower,
            dataset.grid.upper,
            DRIFT_GRAIN_NM,
        )
        for i in range(2)
    )
    return contrast, brightness


def _make_dataset(root: Path, plan: DatasetPlan, seed: int, bar: tqdm) -> list[CropLabel]:
    """Write one dataset and its ground truth; return its rows of the manifest."""
    recon = f"{plan.name}/{plan.name}.zarr/recon-1"
    store = zarr.open_group(str(root / recon), mode="a")
    zarr.open_group(str(root / plan.name / f"{plan.name}.zarr"), mode="a")
    truth = zarr.open_group(str(root / TRUTH), mode="a")
    em = _create_multiscale(store, "em/fibsem-uint8", plan.grid, "uint8", plan.chunk)
    drift = drift_fields(plan, seed)
    rows: list[CropLabel] = []
    for crop in plan.crops:
        region, first = plan.region(crop)
        rng = np.random.default_rng([seed, crop.number, 1])
        raw, labels = draw_scene(crop_scene(plan, crop, seed), region, rng, drift)
        for level, values in enumerate((raw, _downsample_mean(raw))):
            em[level][_slices([f >> level for f in first], values.shape)] = values
        inside = _slices(plan.crop_start(crop), crop.shape)
        grid = plan.crop_grid(crop)
        for name in crop.labels:
            values = _renumbered(labels[name][inside])
            if crop.test:
                rows.append(_write_truth(truth, plan, crop, name, values, grid))
            else:
                path = f"labels/groundtruth/crop{crop.number}/{name}"
                _write_label(store, path, values, grid, unknown=name == crop.unknown)
        bar.update()
    return rows


def _write_label(store: zarr.Group, path: str, values: NDArray, grid: Grid, unknown: bool) -> None:
    """Write a training label in two levels, with an annotation as in cellmap-schemas.

    If `unknown`, a part of it is not annotated.
    """
    name = path.rpartition("/")[2]
    kind = "instance" if is_instance(name) else "semantic"
    encoding = {"absent": 0}
    if kind == "semantic":
        encoding |= {"present": 1, "unknown": UNKNOWN}
    if unknown:
        encoding["unknown"] = UNKNOWN
        values = values.astype(np.uint8)
        n = values.shape
        values[: n[0] // 2, :, -(n[2] // 4) :] = UNKNOWN
    arrays = _create_multiscale(store, path, grid, values.dtype.str, chunk=64)
    annotation = {
        "class_name": name,
        "annotation_type": {"type": f"{kind}_segmentation", "encoding": encoding},
    }
    store[path].attrs["cellmap"] = {"annotation": annotation}
    for array, level in zip(arrays, (values, _downsample_mode(values)), strict=True):
        array[:] = level
        counts = {
            key: int((level == encoding[key]).sum())
            for key in ("absent", "unknown")
            if key in encoding
        }
        array.attrs["cellmap"] = {"annotation": annotation | {"complement_counts": counts}}


def _write_truth(
    truth: zarr.Group, plan: DatasetPlan, crop: CropPlan, name: str, values: NDArray, grid: Grid
) -> CropLabel:
    """Write a label in the format of the official ground truth; return its row of the manifest."""
    if crop.level == 1:
        values, grid = _downsample_mode(values), _coarser(grid)
    array = truth.require_group(f"crop{crop.number}").create_dataset(
        name, data=values, chunks=(64,) * 3, compressor=COMPRESSOR
    )
    array.attrs.update(
        voxel_size=list(grid.voxel_size), translation=list(grid.translation), shape=list(grid.shape)
    )
    return CropLabel(crop.number, plan.name, name, grid)


def _create_multiscale(
    store: zarr.Group, path: str, grid: Grid, dtype: str, chunk: int
) -> list[zarr.Array]:
    """Create a multiscale group of two empty levels; return its arrays."""
    group = store.require_group(path)
    grids = [grid, _coarser(grid)]
    metadata: dict[str, Any] = multiscale_metadata(group.basename, grids)
    identity = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    group.attrs["multiscales"] = [metadata | {"coordinateTransformations": identity}]
    return [
        group.create_dataset(
            f"s{level}",
            shape=g.shape,
            chunks=tuple(min(chunk >> level, n) for n in g.shape),
            dtype=dtype,
            fill_value=0,
            compressor=COMPRESSOR,
            dimension_separator="/",
        )
        for level, g in enumerate(grids)
    ]


def _coarser(grid: Grid) -> Grid:
    """The grid of the next level, with voxels of twice the size."""
    return _rounded(grid.at([2 * v for v in grid.voxel_size]))


def _rounded(grid: Grid) -> Grid:
    """The grid without rounding errors in its translation."""
    z, y, x = (round(t, 6) for t in grid.translation)
    return Grid(grid.voxel_size, (z, y, x), grid.shape)


def _slices(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))


def _renumbered(values: NDArray) -> NDArray:
    """Renumber ids as 1, 2, …, in the same order; 0 stays."""
    used = np.bincount(values.ravel()) > 0
    used[0] = True
    return (np.cumsum(used) - 1).astype(values.dtype)[values]


def _blocks(values: NDArray) -> NDArray:
    """Arrange the voxels of each block of 2×2×2 along a new first axis."""
    z, y, x = (n // 2 for n in values.shape)
    return values.reshape(z, 2, y, 2, x, 2).transpose(1, 3, 5, 0, 2, 4).reshape(8, z, y, x)


def _downsample_mean(values: NDArray) -> NDArray:
    return np.rint(_blocks(values).mean(0, dtype=np.float32)).astype(values.dtype)


def _downsample_mode(values: NDArray) -> NDArray:
    """The most frequent value of each block of 2×2×2 voxels."""
    blocks = _blocks(values)
    votes = np.stack([(blocks == own).sum(0, dtype=np.uint8) for own in blocks])
    return np.take_along_axis(blocks, votes.argmax(0)[None], 0)[0]
