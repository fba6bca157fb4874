"""Random predictions and ground truths of each kind that the official evaluator treats specially.

Its results are stored by seed in `unit/scoring/reference`: a changed generator needs new results.
"""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.scoring.matching import instance_ratio_limit

VOXEL_SIZES = [
    (8.0, 8.0, 8.0), (3.48, 4.0, 4.0), (1.74, 2.0, 2.0), (16.0, 5.0, 11.3), (32.0, 32.0, 32.0),
    (13.92, 16.0, 16.0), (40.0, 4.0, 4.0),
]  # fmt: skip
KINDS = [
    "balls", "holes", "border", "merged", "boxes", "cells", "noise", "thin", "points", "specks",
    "filled", "same", "no prediction", "no truth", "nothing", "bool", "float", "signed", "large",
]  # fmt: skip
LABELS = ["er", "mito", "ves", "pm", "nuc", "ecs"]
INSTANCES = {"mito", "ves", "nuc"}

Volume = NDArray[Any]
Vector = tuple[float, float, float]


def draw_pair(seed: int) -> tuple[str, Volume, Volume, Vector]:
    """Return the kind of case, the prediction, the ground truth, and the voxel size (nm)."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    shape = [int(n) for n in rng.integers(6, 28, 3)]
    if kind == "thin":
        shape[rng.integers(3)] = int(rng.integers(1, 3))
    n = int(rng.integers(1, 12))
    ids = rng.permutation(np.arange(1, 80 if rng.random() < 0.4 else n + 1))[:n]
    draw = DRAWN.get(kind, _balls)
    pred, truth = draw(rng, tuple(shape), ids, kind)
    if kind == "same":
        pred = truth.copy()
    if kind in ("no prediction", "nothing"):
        pred[:] = 0
    if kind in ("no truth", "nothing"):
        truth[:] = 0
    truth = truth.astype(rng.choice(["u1", "u2", "u4", "u8", "i4", "i8"]))
    pred = _typed(rng, pred, kind)
    if rng.random() < 0.15:
        pred = np.asfortranarray(pred)
    return kind, pred, truth, VOXEL_SIZES[rng.integers(len(VOXEL_SIZES))]


def _typed(rng: np.random.Generator, pred: Volume, kind: str) -> Volume:
    if kind == "bool":
        return pred > 0
    if kind == "float":
        pred = pred.astype(rng.choice(["f4", "f8"]))
        pred[rng.random(pred.shape) < 0.01] += 0.5
        return pred
    if kind == "signed":
        pred = pred.astype(rng.choice(["i1", "i2", "i4", "i8"]))
        return np.where(pred % 3 == 1, -pred, pred)
    if kind == "large":
        return np.where(pred > 0, pred.astype("u8") + np.uint64(2**40), np.uint64(0))
    return pred.astype(rng.choice(["u1", "u2", "u4", "u8", "i2", "i4", "i8"]))


def _balls(
    rng: np.random.Generator, shape: tuple[int, ...], ids: Volume, kind: str
) -> tuple[Volume, Volume]:
    pred, truth = np.zeros((2, *shape), np.int64)
    own = rng.permutation(np.arange(1, 60))
    for i, number in enumerate(ids):
        center, radius = rng.integers(0, shape), rng.integers(1, 7, 3)
        if kind == "border":
            center[rng.integers(3)] = 0
        truth[_ball(shape, center, radius)] = number
        if rng.random() < 0.8:
            moved = _ball(shape, center + rng.integers(-2, 3, 3), radius + rng.integers(-1, 2))
            pred[moved] = 1 if kind == "merged" else own[i]
        if rng.random() < 0.4:
            pred[tuple(rng.integers(0, shape))] = own[-1 - i]
        if kind == "holes":
            pred[_ball(shape, center, np.ones(3))] = 0
    for _ in range(int(rng.integers(0, 5))):
        stray = _ball(shape, rng.integers(0, shape), rng.integers(0, 4, 3))
        pred[stray] = rng.integers(1, 60)
    return pred, truth


def _ball(shape: tuple[int, ...], center: Volume, radius: Volume) -> NDArray[np.bool_]:
    squares = [
        ((np.arange(n) - c) / max(r, 0.3)) ** 2
        for n, c, r in zip(shape, center, radius, strict=True)
    ]
    return np.add.outer(np.add.outer(squares[0], squares[1]), squares[2]) <= 1


def _boxes(
    rng: np.random.Generator, shape: tuple[int, ...], ids: Volume, kind: str
) -> tuple[Volume, Volume]:
    """Draw boxes on a lattice, so that many overlaps are equal."""
    pred, truth = np.zeros((2, *shape), np.int64)
    for number in ids:
        start, size = rng.integers(0, shape) // 3 * 3, rng.integers(1, 4) * 2
        truth[tuple(slice(a, a + size) for a in start)] = number
        moved = start + rng.integers(-1, 2, 3) * (size // 2)
        pred[tuple(slice(max(0, a), max(0, a + size)) for a in moved)] = 90 - number
    return pred, truth


def _cells(
    rng: np.random.Generator, shape: tuple[int, ...], ids: Volume, kind: str
) -> tuple[Volume, Volume]:
    """Draw cells that fill the volume."""
    seeds = rng.uniform(0, shape, (len(ids), 3))
    places = np.indices(shape).reshape(3, -1).T
    volumes = []
    for centers in (seeds + rng.normal(0, 1, seeds.shape), seeds):
        nearest = ((places[:, None] - centers) ** 2).sum(-1).argmin(1)
        volumes.append(ids[nearest].reshape(shape).astype(np.int64))
    volumes[0][:, ::7] = 0
    return volumes[0], volumes[1]


def _noise(
    rng: np.random.Generator, shape: tuple[int, ...], ids: Volume, kind: str
) -> tuple[Volume, Volume]:
    truth = rng.choice(ids, shape) * (rng.random(shape) < rng.random())
    pred = rng.integers(0, 5, shape) * (rng.random(shape) < rng.random() * 0.08)
    return pred, truth


def _points(
    rng: np.random.Generator, shape: tuple[int, ...], ids: Volume, kind: str
) -> tuple[Volume, Volume]:
    pred, truth = np.zeros((2, *shape), np.int64)
    for number in ids:
        place = tuple(rng.integers(0, shape))
        truth[place] = number
        pred[place if rng.random() < 0.5 else tuple(rng.integers(0, shape))] = number
    return pred, truth


def _specks(
    rng: np.random.Generator, shape: tuple[int, ...], ids: Volume, kind: str
) -> tuple[Volume, Volume]:
    """Draw about as many predicted objects as the limit on their number allows."""
    _, truth = _balls(rng, shape, ids, kind)
    pred = np.zeros(shape, np.int64)
    highest = max(1, int(truth.max()))
    n = int(highest * instance_ratio_limit(highest)) + int(rng.integers(-2, 4))
    places = np.argwhere(np.ones([-(-side // 2) for side in shape])) * 2
    pred[tuple(rng.permutation(places)[:n].T)] = 1
    return pred, truth


def _filled(
    rng: np.random.Generator, shape: tuple[int, ...], ids: Volume, kind: str
) -> tuple[Volume, Volume]:
    pred, truth = np.full(shape, 7), np.ones(shape, np.int64)
    pred[_ball(shape, rng.integers(0, shape), rng.integers(1, 6, 3))] = 0
    truth[_ball(shape, rng.integers(0, shape), rng.integers(1, 6, 3))] = 0
    return pred, truth


DRAWN = {
    "boxes": _boxes, "cells": _cells, "noise": _noise, "points": _points, "specks": _specks,
    "filled": _filled,
}  # fmt: skip


def draw_submitted(seed: int) -> tuple[Volume, dict[str, Any], dict[str, Any], str, Grid]:
    """Draw a submitted array: voxels, attributes, storage options, label and target grid.

    Its grid is the target's or another one: finer, coarser, shifted by voxels or fractions of them,
    smaller, larger, far away, or missing.
    """
    rng = np.random.default_rng(seed)
    sizes = [*VOXEL_SIZES[:3], (4.0, 4.0, 4.0), (16.0, 16.0, 16.0), (5.0, 7.0, 11.0)]
    size = np.array(sizes[rng.integers(len(sizes))])
    target = Grid(
        tuple(size), tuple(np.round(rng.uniform(-500, 40_000, 3), 2)), rng.integers(1, 22, 3)
    )
    own = size if rng.random() < 0.4 else np.array(sizes[rng.integers(len(sizes))])
    shape = target.shape if rng.random() < 0.3 else tuple(int(n) for n in rng.integers(1, 26, 3))
    shift = [np.zeros(3), rng.integers(-9, 10, 3) * size, rng.uniform(-9, 10, 3) * size,
             rng.choice([-1e5, 1e5], 3)][rng.choice(4, p=[0.3, 0.3, 0.3, 0.1])]  # fmt: skip
    if rng.random() < 0.5:
        voxels = rng.integers(0, 4, shape) * (rng.random(shape) < 0.5)
    else:
        voxels = rng.random(shape)
    types = ["u1", "u2", "u8", "i2", "f4", "f8", "bool"]
    attributes = {
        ("voxel_size", "resolution", "scale")[rng.integers(3)]: own.tolist(),
        ("translation", "offset")[rng.integers(2)]: np.round(
            np.add(target.translation, shift), 2
        ).tolist(),
    }
    omitted = rng.choice(["", "voxel_size", "translation"], p=[0.7, 0.15, 0.15])
    names = {"voxel_size": ("voxel_size", "resolution", "scale"), "": ()}
    for name in names.get(omitted, ("translation", "offset")):
        attributes.pop(name, None)
    stored = {
        "chunks": tuple(int(n) for n in rng.integers(3, 30, 3)),
        "order": "F" if rng.random() < 0.15 else "C",
        "write_empty_chunks": bool(rng.random() < 0.5),
    }
    label = ["er", "mito"][rng.integers(2)]
    return voxels.astype(rng.choice(types)), attributes, stored, label, target


def write_submission(seed: int, folder: Path) -> list[CropLabel]:
    """Write `truth.zarr` and the submission `s.zarr` into a folder; return the manifest's rows.

    Some labels and crops are missing or superfluous, some ground truths have masks, and some arrays
    are on other grids.
    """
    rng = np.random.default_rng(seed)
    truth, submission = folder / "truth.zarr", folder / "s.zarr"
    for path in (truth, submission):
        zarr.open_group(str(path), mode="w")
    rows = []
    for crop in rng.permutation(np.arange(100, 400))[: int(rng.integers(2, 4))].tolist():
        size = np.array(VOXEL_SIZES[rng.integers(len(VOXEL_SIZES))])
        place = np.round(rng.uniform(0, 40_000, 3), 2)
        missing = rng.random() < 0.2
        zarr.open_group(str(truth / f"crop{crop}"), mode="w")
        if not missing:
            zarr.open_group(str(submission / f"crop{crop}"), mode="w")
        for label in rng.permutation(LABELS)[: int(rng.integers(1, 5))].tolist():
            _, pred, true, _ = draw_pair(int(rng.integers(1 << 30)))
            true = true if label in INSTANCES else (true > 0).astype("u1")
            rows.append(CropLabel(crop, "a-1", label, Grid(size, place, true.shape)))
            attributes = {"voxel_size": size.tolist(), "translation": place.tolist()}
            write_array(truth / f"crop{crop}" / label, true, attributes)
            if rng.random() < 0.3:
                mask = (rng.random(true.shape) < 0.7).astype(rng.choice(["u1", "bool"]))
                mask[: len(mask) // 3] = 0
                write_array(truth / f"crop{crop}" / f"{label}_mask", mask, attributes)
            if missing or rng.random() < 0.1:
                continue
            other = rng.random()
            if other < 0.1:
                del attributes["translation"]
            elif other < 0.2:
                del attributes["voxel_size"]
            elif other < 0.35:
                moved = place + rng.uniform(-3, 3, 3) * size
                attributes["translation"] = np.round(moved, 2).tolist()
            elif other < 0.45:
                attributes["voxel_size"] = (size * rng.choice([0.5, 2, 1.5])).tolist()
            elif other < 0.55:
                pred = np.pad(pred, ((1, 0), (0, 2), (0, 0)))
            write_array(submission / f"crop{crop}" / label, pred, attributes)
        if not missing and rng.random() < 0.3:
            write_array(submission / f"crop{crop}" / "extra", np.ones((4, 4, 4), "u1"), {})
    # A superfluous crop; and the first crop in any case: a submission without crops is an error.
    write_array(submission / "crop999" / "er", np.ones((4, 4, 4), "u1"), {})
    zarr.open_group(str(submission / f"crop{rows[0].crop}"), mode="a")
    return rows


def write_array(
    path: Path, voxels: Volume, attributes: dict[str, Any], stored: dict[str, Any] | None = None
) -> None:
    """Write a plain zarr 2 array."""
    array = zarr.open(
        str(path), mode="w", shape=voxels.shape, dtype=voxels.dtype,
        **(stored or {"chunks": (8, 8, 8)}),
    )  # fmt: skip
    array[:] = voxels
    array.attrs.update(attributes)
