"""Prediction of all labels of a crop in one pass of the network, on the labels' own grids.

Windows slide over the crop as in MONAI's `sliding_window_inference` and are blended with its
importance map. Probabilities are resampled from the network's voxel size to each label's grid
before they are written; nothing is stored at the network's resolution.

The crop is predicted along z, one layer of windows at a time, and no window is computed twice.
After each layer, planes of labels that no later window changes are written and recorded as done: a
job that was killed resumes from there.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.channels import class_of, sampled_grid
from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.config.stages import INFERENCE_KEYS, RESULT_VERSION
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape, intersection, shape_of, union
from cellmap_pipeline.io.raw_statistics import VolumeStatistics
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.patches.normalization import Normalization, normalization_of
from cellmap_pipeline.prediction.output import PartialResult
from cellmap_pipeline.prediction.predictor import Predictor
from cellmap_pipeline.prediction.window_sums import (
    FiniteWindows,
    HostTransfer,
    RowSums,
    WindowSums,
)
from cellmap_pipeline.prediction.windows import WindowLayer, Windows, overlaps, plan_layers
from cellmap_pipeline.run.scratch import scratch
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)

# Sums of windows beyond this are kept in scratch files.
MAX_SUMS_BYTES = 1_000_000_000
# Rows of windows that may wait to be summed while the network continues.
MAX_WAITING_ROWS = 2


def predict_crop(
    tasks: Sequence[SegmentationTask],
    raw: Volume,
    rows: Sequence[CropLabel],
    output: Path,
    inference: Inference,
    part: tuple[int, int] = (0, 1),
    statistics: VolumeStatistics | None = None,
    with_auxiliary: bool = True,
) -> None:
    """Predict the labels of one crop.

    Parameters
    ----------
    tasks
        Trained networks with the same channels; their probabilities are averaged.
    raw
        The dataset's raw volume.
    rows
        Labels of one crop with their grids; all of them classes of the network.
    output
        Folder for a group per label (and per auxiliary channel of it), uint8 with 0..255 for
        0..1, level `s0` on the label's grid. It is created when the prediction is complete; until
        then, the planes that are done lie in `{output}.partial`, from which the same call resumes.
    inference
        Window, overlap, blending, symmetries, batch, and whether descriptors are stored.
    part
        (i, n): predict only the i-th of n parts along z (from 0); `join_parts` joins them.
    statistics
        Statistics of the raw volume's levels; not needed by networks of `normalize: range`.
    with_auxiliary
        Whether the auxiliary channels of labels are stored.

    Raises
    ------
    InputError
        The network does not predict a label, or returns values that are not finite; or raw is
        missing under the crop, or its statistics.
    """
    settings = tasks[0].training_settings
    unknown = [row.label for row in rows if row.label not in settings.classes]
    if unknown:
        raise InputError(
            f"the checkpoint predicts {', '.join(settings.classes)}, not {', '.join(unknown)}: "
            "predict with the training's own checkpoint"
        )
    grids = {
        channel: row.grid
        for row in rows
        for channel in inference.stored_channels(tasks[0].channels)
        if channel == row.label or (with_auxiliary and class_of(channel) == row.label)
    }
    crop = raw.aligned(union([row.grid for row in rows]), settings.voxel_size)
    window = inference.window_for(settings.patch_size)
    context = inference.context_for(settings.patch_size)
    available, region = _region(raw, crop, window, context)
    windows = Windows(region.shape, window, inference.overlap, inference.blending)
    normalization = normalization_of(settings.normalize, raw, settings.voxel_size, statistics)
    identity = _identity(tasks, raw, normalization, inference)
    result = PartialResult(output, grids, _chunks(grids, region), identity, part)
    sampled = {name: sampled_grid(name, region, grid) for name, grid in grids.items()}
    first, last = region.index_box(available)
    layers = plan_layers(
        windows, region, sampled, result.planes_per_chunk, result.pending(), (first[0], last[0])
    )
    corners = _corners(windows, region, available, sampled.values())
    log.info(
        "%d windows of %s over %s voxels",
        len(layers) * len(corners), list(window), list(region.shape),
    )  # fmt: skip
    with scratch() as folder:
        sums = WindowSums(len(grids), folder, MAX_SUMS_BYTES)
        total = len(layers) * len(corners)
        with tqdm(total=total, unit="window", desc=output.name) as bar:
            predictor = Predictor(tasks, list(grids), window, inference)
            crop_name = f"{rows[0].dataset}/crop{rows[0].crop}"
            layer_predictor = _LayerPredictor(
                predictor, raw, normalization, region, available, windows, crop_name
            )
            layer_predictor.run(layers, corners, sums, result, bar)
    result.finish()


class _LayerPredictor:
    """Predicts the windows of layers and sums them.

    The main thread runs the network. One thread reads raw ahead, another one sums windows, and
    has helpers resample and write.
    """

    def __init__(
        self,
        predictor: Predictor,
        raw: Volume,
        normalization: Normalization,
        region: Grid,
        available: Grid,
        windows: Windows,
        crop_name: str,
    ) -> None:
        self.predictor, self.windows = predictor, windows
        self.raw, self.region, self.available = raw, region, available
        self.normalization, self.crop_name = normalization, crop_name

    def run(
        self,
        layers: Sequence[WindowLayer],
        corners: Sequence[tuple[int, int]],
        sums: WindowSums,
        result: PartialResult,
        bar: tqdm,
    ) -> None:
        """Predict layer by layer, and write to `result` the planes that each layer finishes."""
        window, device = self.windows.window, self.predictor.device
        along_x = sorted({x for _, x in corners})
        # Without a GPU, the network itself keeps all CPUs busy.
        helper_threads = 1 if device.type == "cpu" else torch.get_num_threads()
        with (
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
            ThreadPoolExecutor(helper_threads) as helpers,
        ):
            pending: deque[Future] = deque()
            previous: Future | None = None

            def submit(work: Callable[..., None], *arguments: object) -> None:
                nonlocal previous
                while len(pending) >= MAX_WAITING_ROWS:
                    pending.popleft().result()
                previous = writer.submit(_unless_failed, previous, work, *arguments)
                pending.append(previous)

            # All layers use the same memory: a row's last advance leaves zeros.
            rows = RowSums(sums.channels, window, along_x, device)
            for layer in layers:
                starts = [shape_of((layer.start, *corner)) for corner in corners]
                y = starts[0][1]
                row: dict[Shape, torch.Tensor] = {}
                for start, values, finite in self._values(starts, rows, reader, bar):
                    if start[1] > y:
                        done = rows.advance(start[1] - y), FiniteWindows(row)
                        submit(self._add, sums, (layer.start, y, along_x[0]), *done, helpers)
                        y, row = start[1], {}
                    rows.add(start[2], values)
                    row[start] = finite
                done = rows.advance(window[1]), FiniteWindows(row)
                submit(self._add, sums, (layer.start, y, along_x[0]), *done, helpers)
                submit(result.write, layer, self.region, sums, helpers)
            for future in pending:
                future.result()

    def _values(
        self, starts: Sequence[Shape], rows: RowSums, reader: ThreadPoolExecutor, bar: tqdm
    ) -> Iterator[tuple[Shape, torch.Tensor, torch.Tensor]]:
        """Yield the weighted probabilities of windows of a layer, and whether they are finite.

        A batch never spans two layers, so that batches, and every bit of the result, do not
        depend on the layer at which a run resumes.
        """
        images = self._images(starts, reader)
        while batch := list(islice(images, self.predictor.batch)):
            batch_starts, raw = zip(*batch, strict=True)
            weights = [self.windows.weights(s, self.predictor.device) for s in batch_starts]
            for done in self.predictor.run(batch_starts, raw, weights, rows.move_to_host):
                yield from zip(*done, strict=True)
                bar.update(len(done[0]))

    def _images(
        self, starts: Sequence[Shape], reader: ThreadPoolExecutor
    ) -> Iterator[tuple[Shape, NDArray[np.float32]]]:
        """Yield windows of standardized raw; one row along x is read at a time, one row ahead."""
        rows = [list(row) for _, row in groupby(starts, key=lambda start: start[:2])]
        ahead = [reader.submit(self._read, row) for row in rows[:1]]
        for i, row in enumerate(rows):
            image = ahead.pop().result()
            ahead += [reader.submit(self._read, row) for row in rows[i + 1 : i + 2]]
            for start in row:
                x = start[2] - row[0][2]
                yield start, image[:, :, x : x + self.windows.window[2]]

    def _add(
        self,
        sums: WindowSums,
        start: Shape,
        values: HostTransfer,
        windows: FiniteWindows,
        helpers: Executor,
    ) -> None:
        """Add rows of voxels at `start`, unless a window that is complete in them is not finite."""
        nonfinite = windows.first_nonfinite()
        if nonfinite is not None:
            grid = self.region.box(nonfinite, self.windows.window)
            precisions = {task.training_settings.precision for task in self.predictor.tasks}
            raise InputError(
                f"{self.crop_name}: the network returned values that are not finite (NaN or "
                f"infinity) in the window of {list(grid.shape)} voxels at "
                f"{list(grid.translation)} nm: `precision: {', '.join(sorted(precisions))}` may "
                "have overflowed, then train with `precision: 32`; or raw is not finite there"
            )
        sums.add(start, values.numpy().view(np.uint16), helpers)

    def _read(self, row: Sequence[Shape]) -> NDArray[np.float32]:
        window = self.windows.window
        shape = [window[0], window[1], row[-1][2] - row[0][2] + window[2]]
        box = self.region.box(row[0], shape)
        # A window may reach beyond the raw that is available around a small crop.
        core = intersection(box, self.available)
        return self.normalization.standardize(self.raw.read_raw(box, core=core))


def _unless_failed(previous: Future | None, work: Callable[..., None], *arguments: object) -> None:
    """Do the work unless the previous one failed: raise its error instead."""
    if previous:
        previous.result()
    work(*arguments)


def _region(raw: Volume, crop: Grid, window: Shape, context: Shape) -> tuple[Grid, Grid]:
    """Find the raw available in and around the crop, and the region to cover with windows.

    The region is the crop with the raw available around it, up to `context` voxels on each side,
    and has at least the size of a window. Beyond the available raw, raw is mirrored.
    """
    available = raw.available(crop.padded(context), core=crop)
    low, high = crop.index_box(union([crop, available]))
    shape = [max(w, b - a) for w, a, b in zip(window, low, high, strict=True)]
    # A small region is padded to one window, equally on both sides.
    start = [a - (n - (b - a)) // 2 for a, b, n in zip(low, high, shape, strict=True)]
    return available, crop.box(start, shape)


def _corners(
    windows: Windows, region: Grid, available: Grid, grids: Iterable[Grid]
) -> list[tuple[int, int]]:
    """List the starts in y and x of windows that labels depend on and that contain raw."""
    low, high = region.index_box(union(list(grids)), margin=1)
    first, last = region.index_box(available)
    boxes = [(low, high), (first, last)]
    return [
        (y, x)
        for y in windows.starts[1]
        for x in windows.starts[2]
        if all(overlaps((y, x), windows.window[1:], a[1:], b[1:]) for a, b in boxes)
    ]


def _chunks(grids: Mapping[str, Grid], region: Grid) -> dict[str, Shape]:
    """Choose the chunk of each channel's array: thin along z, so that planes are finished early."""
    chunks = {}
    for name, grid in grids.items():
        planes = round(32 * region.voxel_size[0] / grid.voxel_size[0])
        chunks[name] = shape_of((min(max(planes, 4), 64), 128, 128))
    return chunks


def _identity(
    tasks: Sequence[SegmentationTask],
    raw: Volume,
    normalization: Normalization,
    inference: Inference,
) -> dict[str, Any]:
    """Describe everything that determines the result besides the labels' grids."""
    weights = hashlib.sha256()
    for task in tasks:
        for name, tensor in sorted(task.state_dict().items()):
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return {
        "result_version": RESULT_VERSION["predict"],
        "weights": weights.hexdigest(),
        "training": tasks[0].training_settings.model_dump(mode="json"),
        "raw": str(raw.path),
        "normalization": asdict(normalization),
        "inference": inference.model_dump(mode="json", include=set(INFERENCE_KEYS)),
    }
