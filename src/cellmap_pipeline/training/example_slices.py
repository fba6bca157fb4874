"""Example images of a training for TensorBoard."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary

from cellmap_pipeline.classes import style_of
from cellmap_pipeline.patches.targets import UNKNOWN


class ExampleSlices(pl.Callback):
    """Logs one validation tile per epoch to TensorBoard: its middle slice.

    The image shows raw, ground truth and prediction side by side. Classes have the same colors as
    in all figures; in the ground truth, gray is unknown.
    """

    def on_validation_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int, *_: Any
    ) -> None:
        """Draw the tile of the middle batch."""
        middle_batch = int(trainer.num_val_batches[0]) // 2
        if index != middle_batch or trainer.logger is None or not trainer.is_global_zero:
            return
        middle = outputs["raw"].shape[2] // 2
        raw, target, logits = (
            outputs[key][0, :, middle].float().cpu().numpy() for key in ("raw", "target", "logits")
        )
        classes = [
            i for i, name in enumerate(task.channels) if name in task.training_settings.classes
        ]
        colors = [rgb_of(style_of(task.channels[i]).color) for i in classes]
        truth = overlay_masks(raw[0], target[classes] == 1, colors)
        truth[(target[classes] == UNKNOWN).all(0)] = 0.5
        prediction = overlay_masks(raw[0], logits[classes] > 0, colors)
        gray = np.repeat(raw[0][..., None], 3, axis=-1)
        gap = np.ones((len(gray), 4, 3))
        image = np.concatenate([gray, gap, truth, gap, prediction], axis=1)
        _log_image(trainer, "raw, ground truth, prediction", image)


def _log_image(trainer: pl.Trainer, tag: str, image: NDArray[np.floating]) -> None:
    """Log an RGB image (y, x, 3) in 0..1; TensorBoard's own function for that needs Pillow."""
    encoded = Summary.Image(
        height=image.shape[0],
        width=image.shape[1],
        colorspace=image.shape[2],
        encoded_image_string=encode_png((image * 255).clip(0, 255).astype(np.uint8)),
    )
    summary = Summary(value=[Summary.Value(tag=tag, image=encoded)])
    writer = trainer.logger.experiment  # type: ignore[union-attr]
    writer.file_writer.add_summary(summary, trainer.global_step)


def rgb_of(color: str) -> tuple[float, float, float]:
    """Return the red, green and blue, in 0..1, of a color such as `#0072B2`."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red / 255, green / 255, blue / 255


def overlay_masks(
    raw: NDArray[np.floating], masks: NDArray[np.bool_], colors: list[tuple[float, float, float]]
) -> NDArray[np.floating]:
    """Overlay a gray slice (y, x) in 0..1 with masks (c, y, x); returns RGB (y, x, 3)."""
    image = np.repeat(raw[..., None], 3, axis=-1).astype(np.float32)
    for mask, color in zip(masks, colors, strict=True):
        image[mask] = 0.5 * image[mask] + 0.5 * np.array(color, np.float32)
    return image


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode an RGB image (y, x, 3) as PNG."""
    height, width, _ = image.shape
    # Each line begins with the number of its filter: 0 is none.
    lines = np.pad(image.reshape(height, 3 * width), ((0, 0), (1, 0)))
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(lines.tobytes()),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
