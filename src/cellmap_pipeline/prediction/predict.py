"""Probabilities of all labels of a crop, from one pass of the network, on the labels' own grids.

Windows slide over the crop as in MONAI's `sliding_window_inference` and are blended with its
importance map. What is written is brought from the network's voxel size onto each label's grid
first, so that nothing is stored at the network's resolution.

The crop is walked along z, a layer of windows at a time. No window is computed twice. Planes of a
label that no later window changes are written, and noted as done, before the walk goes on: a job
that was killed goes on from there.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.config.stages import INFERENCE_KEYS, RESULT_VERSION
from cellmap_pipeline.config.training import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape, shape_of, union
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.prediction.output import PartialResult
from cellmap_pipeline.prediction.predictor import Predictor
from cellmap_pipeline.prediction.window_sums import Accumulator, RowSums, Transfer
from cellmap_pipeline.prediction.windows import Layer, Windows, meets, plan_layers
from cellmap_pipeline.run.scratch import scratch
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)

# What the sums of windows may take in memory; a layer that needs more waits in scratch files.
MEMORY = 1_000_000_000
# Rows of windows that may wait to be summed while the network goes on.
WAITING = 2


def predict_crop(
    tasks: Sequence[SegmentationTask],
    raw: Volume,
    rows: Sequence[CropLabel],
    output: Path,
    inference: Inference,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Predict the labels of one crop.

    Parameters
    ----------
    tasks
        Trained networks with the same channels, whose probabilities are averaged.
    raw
        The dataset's raw volume.
    rows
        Labels of one crop with their grids; all of them classes of the network.
    output
        Folder that gets a group per label (and per further channel of it), uint8 with 0..255 for
        0..1, level `s0` on the label's grid. It appears when it is complete; until then what is
        done lies in `{output}.partial`, from where the same call goes on.
    inference
        Window, overlap, blending, symmetries and batch.
    part
        (i, n): only the i-th of n parts along z (from 0); `join_parts` makes one of them.

    Raises
    ------
    InputError
        A label is not one of the network's, or raw is missing under the crop.
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
        for channel in tasks[0].channels
        if class_of(channel) == row.label
    }
    crop = raw.aligned(union([row.grid for row in rows]), settings.voxel_size)
    window = inference.window or settings.patch_size
    there, region = _region(raw, crop, window, inference.overlap)
    windows = Windows(region.shape, window, inference.overlap, inference.blending)
    result = PartialResult(
        output, grids, _chunks(grids, region), _identity(tasks, raw, inference), part
    )
    layers = plan_layers(windows, region, grids, result.planes_per_chunk, result.to_do())
    corners = _corners(windows, region, there, grids.values())
    log.info(
        "%d windows of %s over %s voxels",
        len(layers) * len(corners), list(window), list(region.shape),
    )  # fmt: skip
    with scratch() as folder:
        sums = Accumulator(len(grids), folder, MEMORY)
        total = len(layers) * len(corners)
        with tqdm(total=total, unit="window", desc=output.name) as bar:
            walk = _Walk(Predictor(tasks, list(grids), window, inference), raw, region, windows)
            walk.run(layers, corners, sums, result, bar)
    result.finish()


class _Walk:
    """Runs the windows of layers through the network and sums them up.

    The main thread runs the network; one thread reads raw ahead, another sums, and has helpers
    resample and write.
    """

    def __init__(self, predictor: Predictor, raw: Volume, region: Grid, windows: Windows) -> None:
        self.predictor = predictor
        self.raw, self.region, self.windows = raw, region, windows

    def run(
        self,
        layers: Sequence[Layer],
        corners: Sequence[tuple[int, int]],
        sums: Accumulator,
        result: PartialResult,
        bar: tqdm,
    ) -> None:
        """Predict layer by layer; what a layer finishes is in `result` when this returns."""
        window, device = self.windows.window, self.predictor.device
        along_x = sorted({x for _, x in corners})
        # Without a GPU, the network keeps all processors busy.
        helping = 1 if device.type == "cpu" else torch.get_num_threads()
        with (
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
            ThreadPoolExecutor(helping) as helpers,
        ):
            pending: deque[Future] = deque()

            def hand_over(work: Callable[..., None], *arguments: object) -> None:
                while len(pending) >= WAITING:
                    pending.popleft().result()
                pending.append(writer.submit(work, *arguments))

            for layer in layers:
                starts = [shape_of((layer.start, *corner)) for corner in corners]
                rows = RowSums(sums.channels, window, along_x, device)
                y = starts[0][1]
                for start, values in self._values(starts, reader, bar):
                    if start[1] > y:
                        done = rows.advance(start[1] - y)
                        hand_over(_add, sums, (layer.start, y, along_x[0]), done, helpers)
                        y = start[1]
                    rows.add(start[2], values)
                done = rows.advance(window[1])
                hand_over(_add, sums, (layer.start, y, along_x[0]), done, helpers)
                hand_over(result.write, layer, self.region, sums, helpers)
            for future in pending:
                future.result()

    def _values(
        self, starts: Sequence[Shape], reader: ThreadPoolExecutor, bar: tqdm
    ) -> Iterator[tuple[Shape, torch.Tensor]]:
        """Weighted probabilities of the windows of a layer, on the device.

        Batches never reach over layers: they, and so all bits of the result, are the same in a
        run that begins at any layer.
        """
        images = self._images(starts, reader)
        while batch := list(islice(images, self.predictor.batch)):
            places, raw = zip(*batch, strict=True)
            weights = [self.windows.weights(place, self.predictor.device) for place in places]
            for some, values in self.predictor.run(places, raw, torch.stack(weights)):
                yield from zip(some, values, strict=True)
                bar.update(len(some))

    def _images(
        self, starts: Sequence[Shape], reader: ThreadPoolExecutor
    ) -> Iterator[tuple[Shape, NDArray[np.float32]]]:
        """Windows of raw, read a row along x at a time, one row ahead."""
        rows = [list(row) for _, row in groupby(starts, key=lambda start: start[:2])]
        ahead = [reader.submit(self._read, row) for row in rows[:1]]
        for i, row in enumerate(rows):
            image = ahead.pop().result()
            ahead += [reader.submit(self._read, row) for row in rows[i + 1 : i + 2]]
            for start in row:
                x = start[2] - row[0][2]
                yield start, image[:, :, x : x + self.windows.window[2]]

    def _read(self, row: Sequence[Shape]) -> NDArray[np.float32]:
        window = self.windows.window
        shape = [window[0], window[1], row[-1][2] - row[0][2] + window[2]]
        return self.raw.read_raw(self.region.box(row[0], shape), core=self.region)


def _add(sums: Accumulator, start: Shape, values: Transfer, helpers: Executor) -> None:
    sums.add(start, values.numpy(), helpers)


def _region(raw: Volume, crop: Grid, window: Shape, overlap: float) -> tuple[Grid, Grid]:
    """The raw that is there in and around the crop, and the region that windows are laid over.

    That is the crop, and around it what raw is there as context; at least one window large.
    Beyond the raw that is there it is mirrored.
    """
    context = crop.padded([int(w * overlap / 2) for w in window])
    there = raw.available(context, core=crop)
    low, high = crop.index_box(union([crop, there]))
    shape = [max(w, b - a) for w, a, b in zip(window, low, high, strict=True)]
    # A small region is padded to one window, alike on both sides.
    start = [a - (n - (b - a)) // 2 for a, b, n in zip(low, high, shape, strict=True)]
    return there, crop.box(start, shape)


def _corners(
    windows: Windows, region: Grid, there: Grid, grids: Iterable[Grid]
) -> list[tuple[int, int]]:
    """Where in y and x windows begin that labels take and that hold any raw."""
    low, high = region.index_box(union(list(grids)), margin=1)
    first, last = region.index_box(there)
    boxes = [(low, high), (first, last)]
    return [
        (y, x)
        for y in windows.starts[1]
        for x in windows.starts[2]
        if all(meets((y, x), windows.window[1:], a[1:], b[1:]) for a, b in boxes)
    ]


def _chunks(grids: Mapping[str, Grid], region: Grid) -> dict[str, Shape]:
    """By channel, the chunk of its array: thin along z, so that few planes wait for it."""
    chunks = {}
    for name, grid in grids.items():
        planes = round(32 * region.voxel_size[0] / grid.voxel_size[0])
        chunks[name] = shape_of((min(max(planes, 4), 64), 128, 128))
    return chunks


def _identity(
    tasks: Sequence[SegmentationTask], raw: Volume, inference: Inference
) -> dict[str, Any]:
    """What the result hangs on besides the labels' grids."""
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
        "inference": inference.model_dump(mode="json", include=set(INFERENCE_KEYS)),
    }
