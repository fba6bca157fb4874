"""Checks of the contrast of raw, the ids of labels, and the scale of predictions."""

import re

import numpy as np
import pytest

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import Encoding
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.preflight.chunks import ChunkRequest, decode_chunks
from cellmap_pipeline.preflight.values import check_label, check_scale, raw_warnings

GRID = Grid((8, 8, 8), (0, 0, 0), (64, 64, 64))
RNG = np.random.default_rng(0)


def warnings_of(path, voxels):
    create(path, GRID, voxels.dtype.name, chunk=32).write(voxels).result()
    (level,) = Volume.open(path).levels
    request = ChunkRequest(level)
    request.add_box((0, 0, 0), GRID.shape)
    decode_chunks([request], 1)
    return list(raw_warnings(request, [("crop1", GRID)]))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "span"),
    [
        (60, 200, np.uint8, ""),
        # A span of 32 of 255 is just above an eighth.
        (110, 143, np.uint8, ""),
        (110, 142, np.uint8, "110 to 141, 12.2%"),
        (26000, 36000, np.uint16, ""),
        (30000, 33000, np.uint16, r"300\d\d to 329\d\d, 4.5%"),
        (0.45, 0.65, np.float32, ""),
        (0.45, 0.5, np.float32, r"0.450\d* to 0.499\d*, 4.9%"),
    ],
)
def test_raw_of_low_contrast_is_a_warning(tmp_path, low, high, dtype, span):
    found = warnings_of(tmp_path / "raw", RNG.uniform(low, high, GRID.shape).astype(dtype))
    assert len(found) == bool(span)
    if span:
        message = f"raw/s0 is {np.dtype(dtype)}, but 98% of its voxels around the crops are {span}"
        assert re.search(message, found[0])


def test_a_few_bright_voxels_and_padding_do_not_hide_low_contrast(tmp_path):
    voxels = RNG.normal(31500, 400, GRID.shape).astype(np.uint16)
    voxels[RNG.random(GRID.shape) < 0.002] = 65535
    # Padding covers two of eight chunks, and an edge of two others.
    voxels[:32, :32], voxels[:2] = 1, 1
    (message,) = warnings_of(tmp_path / "raw", voxels)
    assert "networks see almost no contrast" in message


@pytest.mark.parametrize(
    ("unknown", "other", "is_refused"), [(-1, 0, False), (-1, -2, True), (None, 0, True)]
)
def test_an_unknown_value_below_0_is_no_id(tmp_path, unknown, other, is_refused):
    voxels = np.full(GRID.shape, -1, np.int8)
    voxels[40:], voxels[50:] = 7, other
    create(tmp_path / "mito", GRID, "int8", chunk=32).write(voxels).result()
    (level,) = Volume.open(tmp_path / "mito").levels
    request = ChunkRequest(level, encoding=Encoding(unknown))
    request.add_box((0, 0, 0), GRID.shape)
    decode_chunks([request], 1)
    problems = []
    check_label(request, problems, [])
    lowest = min(other, -1 if unknown is None else 0)
    assert (
        problems
        == [
            f"{level.path} contains {lowest}, but ids are 0 or more: mark unknown voxels with an "
            "`unknown` value (docs/own-data.md)"
        ]
        * is_refused
    )


@pytest.mark.parametrize(
    ("highest", "number"), [((4000, 0), 1), ((4000, 300), 2), ((4200, 9), 0)], ids=str
)
def test_predictions_that_use_little_of_a_wide_integer_type_are_a_warning(
    tmp_path, highest, number
):
    by_label = {}
    for label, high in zip(("er", "mito"), highest, strict=True):
        create(tmp_path / label, GRID, "uint16").write(np.uint16(high)).result()
        (level,) = Volume.open(tmp_path / label).levels
        request = ChunkRequest(level)
        request.add_box((0, 0, 0), GRID.shape)
        decode_chunks([request], 1)
        by_label[label] = [request]
    problems, warnings = [], []
    check_scale("lab", by_label, problems, warnings)
    assert not problems and len(warnings) == number
    assert all("in uint16, 65535 is a probability of 1" in text for text in warnings)
