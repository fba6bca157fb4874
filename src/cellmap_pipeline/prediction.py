"""Probabilities of all labels of a crop, from one pass of the network, on the labels' own grids.

Windows slide over the crop as in MONAI's `sliding_window_inference` and are blended with its
importance map. What is written is brought from the network's voxel size onto each label's grid
first, so that nothing is stored at the network's resolution.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.classes import class_of
from cellmap_pipeline.config import Inference
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape, shape_of, union
from cellmap_pipeline.manifest import CropLabel
from cellmap_pipeline.resampling import resample
from cellmap_pipeline.task import SegmentationTask, load_checkpoint
from cellmap_pipeline.volumes import Volume, create

log = logging.getLogger(__name__)

# What the blended probabilities of one block may take; a crop that needs more is cut in blocks.
BLOCK_BYTES = 1_500_000_000
PROBABILITY = {"cellmap_pipeline": {"kind": "probability"}}


def load_for_inference(checkpoint: Path, inference: Inference) -> SegmentationTask:
    """The network to predict with.

    Parameters
    ----------
    checkpoint : `model.ckpt` of a training, or the file that `inference.checkpoint` names.
    inference : its `checkpoint` may ask for the training's `last` instead of its best.

    Raises
    ------
    InputError
        The file is not a checkpoint, or there is no last one.
    """
    if inference.checkpoint == "last":
        checkpoint = checkpoint.parent / "training" / "checkpoints" / "last.ckpt"
    return load_checkpoint(checkpoint)


def predict_crop(
    task: SegmentationTask,
    raw: Volume,
    rows: Sequence[CropLabel],
    output: Path,
    inference: Inference,
) -> None:
    """Predict the labels of one crop.

    Parameters
    ----------
    task : the trained network.
    raw : the dataset's raw volume.
    rows : labels of one crop with their grids; all of them classes of the network.
    output : folder that gets a group per label (and per further channel of it), uint8 with
        0..255 for 0..1, level `s0` on the label's grid. It appears when it is complete.
    inference : window, overlap, blending and batch.

    Raises
    ------
    InputError
        A label is not one of the network's, or raw is missing under the crop.
    """
    settings = task.training_settings
    unknown = [row.label for row in rows if row.label not in settings.classes]
    if unknown:
        raise InputError(
            f"the checkpoint predicts {', '.join(settings.classes)}, not {', '.join(unknown)}: "
            "predict with the training's own checkpoint"
        )
    beside = output.with_name(output.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    targets = {
        channel: (row.grid, create(beside / channel, row.grid, "uint8", PROBABILITY))
        for row in rows
        for channel in task.channels
        if class_of(channel) == row.label
    }
    crop = raw.aligned(union([row.grid for row in rows]), settings.voxel_size)
    window = inference.window or settings.patch_size
    region = _region(raw, crop, window, inference.overlap)
    step = shape_of(max(1, int(w * (1 - inference.overlap))) for w in window)
    starts = _window_starts(region.shape, window, step)
    blocks = []
    for block in _blocks(crop, len(task.channels)):
        parts = {name: _part(grid, crop, *block) for name, (grid, _) in targets.items()}
        here = {name: part for name, part in parts.items() if part is not None}
        if here:
            low, high = _needed(region, [grid for grid, _ in here.values()])
            used = [start for start in starts if _meet(start, window, low, high)]
            blocks.append((here, low, high, used))
    log.info(
        "%d windows of %s over %s voxels in %d blocks",
        len(starts), list(window), list(region.shape), len(blocks),
    )  # fmt: skip
    runner = _Runner(task, inference, window)
    total = sum(len(used) for *_, used in blocks)
    with tqdm(total=total, unit="window", desc=output.name) as bar:
        for here, low, high, used in blocks:
            probabilities = runner.blend(raw, region, used, low, high, bar)
            source = region.box(low, probabilities.shape[1:])
            for name, (grid, slices) in here.items():
                values = resample(probabilities[task.channels.index(name)], source, grid)
                targets[name][1][slices] = np.round(values * 255).astype(np.uint8)
    shutil.rmtree(output, ignore_errors=True)
    beside.rename(output)


class _Runner:
    """Runs windows through the network and blends them."""

    def __init__(self, task: SegmentationTask, inference: Inference, window: Shape) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task = task.to(self.device)
        self.inference = inference
        self.window = window
        self.importance = (
            compute_importance_map(window, mode=inference.blending, sigma_scale=0.125)
            .clamp(min=1e-3)
            .numpy()
        )

    def blend(
        self,
        raw: Volume,
        region: Grid,
        used: Sequence[Shape],
        low: Shape,
        high: Shape,
        bar: tqdm,
    ) -> NDArray[np.float32]:
        """Probabilities (c, z, y, x) of the box low..high of `region`, from windows at `used`."""
        shape = [b - a for a, b in zip(low, high, strict=True)]
        total = np.zeros((len(self.task.channels), *shape), np.float32)
        weight = np.zeros(shape, np.float32)
        begin = [min(start[d] for start in used) for d in range(3)]
        end = [max(start[d] for start in used) + self.window[d] for d in range(3)]
        extent = [b - a for a, b in zip(begin, end, strict=True)]
        image = raw.read_raw(region.box(begin, extent), core=region)
        for i in range(0, len(used), self.inference.batch):
            batch = used[i : i + self.inference.batch]
            windows = [image[_slices([s - b for s, b in zip(start, begin, strict=True)],
                                     self.window)] for start in batch]  # fmt: skip
            for start, result in zip(batch, self._run(windows), strict=True):
                a = [max(s, lo) for s, lo in zip(start, low, strict=True)]
                b = [min(s + w, hi) for s, w, hi in zip(start, self.window, high, strict=True)]
                size = [e - s for s, e in zip(a, b, strict=True)]
                into = _slices([s - lo for s, lo in zip(a, low, strict=True)], size)
                out_of = _slices([s - w for s, w in zip(a, start, strict=True)], size)
                total[(slice(None), *into)] += (
                    result[(slice(None), *out_of)] * self.importance[out_of]
                )
                weight[into] += self.importance[out_of]
            bar.update(len(batch))
        return np.divide(total, weight, out=total)

    @torch.inference_mode()
    def _run(self, windows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Probabilities (n, c, z, y, x) of windows of raw."""
        batch = torch.from_numpy(np.stack(windows)[:, None]).to(self.device)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            logits = self.task(batch)
        return torch.sigmoid(logits.float()).cpu().numpy()


def _region(raw: Volume, crop: Grid, window: Shape, overlap: float) -> Grid:
    """Where windows are laid: the crop, and around it what raw is there as context.

    At least one window large; beyond the raw that is there it is mirrored.
    """
    context = crop.padded([int(w * overlap / 2) for w in window])
    there = raw.available(context, core=crop)
    low, high = crop.index_box(union([crop, there]))
    shape = [max(w, b - a) for w, a, b in zip(window, low, high, strict=True)]
    # A small region is padded to one window, alike on both sides.
    start = [a - (n - (b - a)) // 2 for a, b, n in zip(low, high, shape, strict=True)]
    return crop.box(start, shape)


def _window_starts(shape: Shape, window: Shape, step: Shape) -> list[Shape]:
    """Where windows begin: MONAI's own choice."""
    return [
        shape_of(axis.start for axis in patch) for patch in dense_patch_slices(shape, window, step)
    ]


def _blocks(crop: Grid, channels: int) -> Iterator[tuple[list[float], list[float]]]:
    """Parts of the crop, in its voxels, whose probabilities fit in memory; together all of it."""
    shape = np.array(crop.shape)
    parts = np.ones(3, int)
    while np.prod(np.ceil(shape / parts)) * 4 * (channels + 1) > BLOCK_BYTES:
        parts[np.argmax(shape / parts)] += 1
    edges = [np.linspace(0, n, k + 1).round() - 0.5 for n, k in zip(shape, parts, strict=True)]
    for axis in edges:
        axis[0], axis[-1] = -np.inf, np.inf
    for index in np.ndindex(*parts):
        yield (
            [edges[d][i] for d, i in enumerate(index)],
            [edges[d][i + 1] for d, i in enumerate(index)],
        )


def _part(
    grid: Grid, crop: Grid, start: Sequence[float], stop: Sequence[float]
) -> tuple[Grid, tuple[slice, ...]] | None:
    """The voxels of `grid` whose centres lie in a block of `crop`, if there are any."""
    first, last = [], []
    for d, position in enumerate(crop.position(grid)):
        step = grid.voxel_size[d] / crop.voxel_size[d]
        centres = position + step * np.arange(grid.shape[d])
        first.append(int(np.searchsorted(centres, start[d])))
        last.append(int(np.searchsorted(centres, stop[d])))
    size = [b - a for a, b in zip(first, last, strict=True)]
    if min(size) == 0:
        return None
    return grid.box(first, size), _slices(first, size)


def _meet(start: Shape, window: Shape, low: Shape, high: Shape) -> bool:
    """Whether the window at `start` overlaps the box low..high."""
    return all(s < hi and s + w > lo for s, w, lo, hi in zip(start, window, low, high, strict=True))


def _needed(region: Grid, grids: Sequence[Grid]) -> tuple[Shape, Shape]:
    """The box of `region` that voxels of `grids` are resampled from."""
    low, high = region.index_box(union(grids), margin=1)
    return (
        shape_of(max(0, a) for a in low),
        shape_of(min(n, b) for n, b in zip(region.shape, high, strict=True)),
    )


def _slices(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
