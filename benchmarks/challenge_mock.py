"""The metadata of data as large as the challenge's; no chunks are written.

The 11,786 labels in 289 crops of 22 datasets come from a table in the challenge's format, or from a
random one of the same size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid, union
from cellmap_pipeline.io.formats.ngff import multiscale_metadata

# The tested classes.
CLASSES = [
    "ecs", "pm", "mito_mem", "mito_lum", "mito_ribo", "golgi_mem", "golgi_lum", "ves_mem",
    "ves_lum", "endo_mem", "endo_lum", "lyso_mem", "lyso_lum", "ld_mem", "ld_lum", "er_mem",
    "er_lum", "eres_mem", "eres_lum", "ne_mem", "ne_lum", "np_out", "np_in", "hchrom", "echrom",
    "nucpl", "mt_out", "cyto", "mt_in", "nuc", "golgi", "ves", "endo", "lyso", "ld", "eres",
    "perox_mem", "perox_lum", "perox", "mito", "er", "ne", "np", "chrom", "mt", "cell",
    "er_mem_all", "ne_mem_all",
]  # fmt: skip
DATASETS = 22
# Number of crops by number of annotated classes.
CROPS = {48: 238, 14: 11, 13: 14, 1: 26}
SMALLEST_LEVEL = 30
RAW_LEVELS = 6


def made_up_labels(seed: int = 0, part: float = 1.0) -> list[CropLabel]:
    """Create a random table of the challenge's size, or of a part of its crops; some overlap."""
    rng = np.random.default_rng(seed)
    counts = np.repeat(list(CROPS), [round(n * part) for n in CROPS.values()])
    rows = []
    for crop, n in enumerate(rng.permutation(counts)):
        dataset = min(int(rng.exponential(5)), DATASETS - 1) if crop >= DATASETS else crop
        # Crops with one class are large and coarse, like those of nuclei in the liver datasets.
        voxel = float(rng.choice([2, 4, 4, 4])) if n > 1 else 32.0
        shape = [400] * 3 if n > 1 else [int(rng.choice([200, 1000, 1500]))] * 3
        near = crop % 20 == 1
        place = (1.6e4 * (crop - near) + 400 * near, 1000.0, 1000.0)
        labels = ["nuc"] if n == 1 else rng.choice(CLASSES, n, replace=False)
        grid = Grid((voxel,) * 3, place, (shape[0], shape[1], shape[2]))
        rows += [CropLabel(crop, f"mock_{dataset:02}", str(label), grid) for label in labels]
    return rows


def present_shares(rows: Iterable[CropLabel], seed: int = 0) -> list[float]:
    """Plausible fractions of its crop that each label fills: often 0, depending on the class."""
    rng = np.random.default_rng(seed)
    return [
        float(rng.uniform(0.1, 1) ** 2 * 0.5 ** (CLASSES.index(row.label) % 9))
        if rng.random() < 0.9 ** (CLASSES.index(row.label) % 25)
        else 0.0
        for row in rows
    ]


def make_challenge(folder: Path, rows: list[CropLabel]) -> None:
    """Write the metadata of labels and of their datasets' raw volumes, in CellMap's layout."""
    extent: dict[str, list[Grid]] = {}
    for row, share in zip(rows, present_shares(rows), strict=True):
        recon = _recon(folder, row.dataset)
        path = recon / f"labels/groundtruth/crop{row.crop}/{row.label}"
        absent = row.grid.size - round(share * row.grid.size)
        annotation = {
            "class_name": row.label,
            "complement_counts": {"absent": absent},
            "annotation_type": {
                "type": "semantic_segmentation",
                "encoding": {"absent": 0, "unknown": 255},
            },
        }
        _write_multiscale(path, _levels(row.grid), {"cellmap": {"annotation": annotation}})
        extent.setdefault(row.dataset, []).append(row.grid)
    for dataset, grids in extent.items():
        whole = union(grids).at((8, 8, 8)).padded((100, 100, 100))
        levels = [whole.at((8 * 2**k,) * 3) for k in range(-2, RAW_LEVELS - 2)]
        _write_multiscale(_recon(folder, dataset) / "em/fibsem-uint8", levels, {})


def _recon(folder: Path, dataset: str) -> Path:
    return folder / dataset / f"{dataset}.zarr" / "recon-1"


def _levels(finest: Grid) -> list[Grid]:
    levels = [finest]
    while min(levels[-1].shape) > 2 * SMALLEST_LEVEL:
        levels.append(levels[-1].at([2 * v for v in levels[-1].voxel_size]))
    return levels


def _write_multiscale(path: Path, levels: list[Grid], finest: dict) -> None:
    path.mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    attributes = {"multiscales": [multiscale_metadata(path.name, levels)]}
    (path / ".zattrs").write_text(json.dumps(attributes))
    for k, grid in enumerate(levels):
        (path / f"s{k}").mkdir()
        array = {
            "zarr_format": 2,
            "shape": grid.shape,
            "chunks": [min(64, n) for n in grid.shape],
            "dtype": "|u1",
            "compressor": {"id": "zstd", "level": 3},
            "fill_value": 0,
            "filters": None,
            "order": "C",
            "dimension_separator": "/",
        }
        (path / f"s{k}/.zarray").write_text(json.dumps(array))
    (path / "s0/.zattrs").write_text(json.dumps(finest))
