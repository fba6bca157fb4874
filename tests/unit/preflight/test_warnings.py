"""Suspicious inputs that may be intended: a warning each, and the run continues."""

import logging
import re
import shutil

import numpy as np
import pytest

from cellmap_pipeline.geometry import Grid
from tests.support.spoiled import (
    CROP,
    RAW,
    STARTS,
    TEST_CROP,
    Folder,
    check_run,
    external_predictions,
    pattern,
    replace_by_link,
)


def link_out_of_the_data(folder: Folder) -> None:
    shutil.copytree(folder.label(), folder.path / "elsewhere")
    replace_by_link(folder.label(), "../../../../../../../elsewhere")


def write_coarse_raw(folder: Folder) -> None:
    voxels = np.arange(32 * 32 * 48).astype(np.uint8).reshape(32, 32, 48)
    folder.store(folder.raw, voxels, Grid((16, 16, 16), (4, 4, 4), voxels.shape))


def write_dark_raw(folder: Folder) -> None:
    folder.store(folder.raw, np.full(RAW.shape, 200, np.uint16), RAW)


def write_flat_raw(folder: Folder) -> None:
    """Write values of 30000 to 33000 in uint16, with black padding at an edge."""
    voxels = np.random.default_rng(0).integers(30000, 33001, RAW.shape).astype(np.uint16)
    voxels[:, :, :3] = 0
    folder.store(folder.raw, voxels, RAW)


def write_two_labels(folder: Folder, mito: int, pm: int, dtype: type = np.uint8) -> None:
    """Store external predictions of both labels with these largest values."""
    for label, high in (("mito", mito), ("pm", pm)):
        voxels = np.full(CROP, high, dtype)
        voxels[:16] = 0
        folder.write_predictions(voxels, RAW.box(STARTS[TEST_CROP], CROP), channel=label)
    folder.configure(predictions={"nnunet": "other/{dataset}/crop{crop}/{label}"})


def write_most_of_a_crop(folder: Folder) -> None:
    external_predictions(folder, np.full((32, 32, 30), 200, np.uint8))


def write_half_of_validation_crops(folder: Folder) -> None:
    external_predictions(folder, np.full(CROP, 200, np.uint8))
    for crop in set(STARTS) - {TEST_CROP}:
        grid = RAW.box(STARTS[crop], (16, 32, 32))
        folder.write_predictions(np.full(grid.shape, 200, np.uint8), grid, crop)


WARNINGS = {
    "a link that leads out of the data": (
        "crop1/mito is a link to …/elsewhere, outside the data folder: it must exist on every "
        "machine that runs jobs",
        link_out_of_the_data,
    ),
    "a crop without a number": (
        "cropA is ignored: its name is not `crop` and a number",
        lambda folder: shutil.copytree(folder.label().parent, folder.label().parents[1] / "cropA"),
    ),
    "raw that is nearly black": (
        "s0 is uint16 but has no values above 200 around the crops, and 65535 is read as white: "
        "scale it, or store it as uint8",
        write_dark_raw,
    ),
    "raw of little contrast": (
        "s0 is uint16, but 98% of its voxels around the crops are 300… to 329…, 4.5% of the range "
        "that is read as black to white, so that networks see almost no contrast: rescale it to "
        "use the range, or set `normalize: percentile`",
        write_flat_raw,
    ),
    "predictions in percent": (
        "predictions.nnunet: no value of mito is above 100 (as in other/a/crop3/mito/s0), but in "
        "uint8, 255 is a probability of 1: multiply by 2.55, or write floats from 0 to 1",
        lambda folder: write_two_labels(folder, 100, 200),
    ),
    "predictions of 8 bits in 16": (
        "predictions.nnunet: no value of pm is above 255 (as in other/a/crop3/pm/s0), but in "
        "uint16, 65535 is a probability of 1: multiply by 257, or write floats from 0 to 1",
        lambda folder: write_two_labels(folder, 50000, 255, np.uint16),
    ),
    "a prediction that may be a mask": (
        "predictions.nnunet: no value of pm is above 1 (as in other/a/crop3/pm/s0), but in uint8, "
        "255 is a probability of 1: multiply by 255, or write floats from 0 to 1",
        lambda folder: write_two_labels(folder, 200, 1),
    ),
    "constant raw": (
        "a/crop1: all of its raw in …s0 is 7 and shows nothing: check its translation",
        lambda folder: folder.store(folder.raw, np.full(RAW.shape, 7, np.uint8), RAW),
    ),
    "an incomplete copy": (
        "s0 has … labeled voxels, but its annotation counts 5,…: is the copy complete?",
        lambda folder: folder.store(
            folder.label(),
            np.ones(CROP, np.uint8),
            RAW.box((0, 0, 0), CROP),
            cellmap={"annotation": {"complement_counts": {"absent": 32**3 - 5280}}},
        ),
    ),
    "voxels finer than the raw": (
        "training tiny: its voxels of [8.0, 8.0, 8.0] nm are finer than the raw … ([16.0, 16.0, "
        "16.0] nm), which is interpolated: that takes time without adding detail",
        write_coarse_raw,
    ),
    "a label thinner than half a voxel": (
        "a/crop1: …mito covers less than half of any voxel of [8.0, 8.0, 8.0] nm, so that it "
        "teaches nothing at this size: train with smaller voxels, or leave the crop out",
        lambda folder: folder.store(
            folder.label(), np.ones((1, 32, 32), np.uint8), Grid((2, 8, 8), (1, 0, 0), (1, 32, 32))
        ),
    ),
    "a prediction of most of a crop": (
        "predictions.nnunet: …s0 does not cover 6% of its crop (voxels [0, 0, 0] to [32, 32, 32] "
        "of [32, 32, 30]), where its outermost voxels are repeated: check its translation",
        write_most_of_a_crop,
    ),
    "voxels of two classes that exclude each other": (
        "training tiny: a/crop1: 19.3% of its voxels are annotated as both mito and pm, which "
        "exclude each other by its `hierarchy`: these voxels teach none of its classes",
        lambda folder: folder.configure_training(hierarchy=[["mito"], ["pm"]]),
    ),
    "a prediction of half a validation crop": (
        "predictions.nnunet: other/a/crop…/mito does not cover 50% of a/crop… and is scored on "
        "the rest alone: check its translation",
        write_half_of_validation_crops,
    ),
}


@pytest.mark.parametrize(("message", "spoil"), WARNINGS.values(), ids=WARNINGS)
def test_suspicious_inputs_are_warnings(folder, caplog, message, spoil):
    spoil(folder)
    with caplog.at_level(logging.INFO):
        assert check_run(folder) == ("", "")
    assert any(re.search("warning: .*" + pattern(message), line) for line in caplog.messages)
    assert re.fullmatch(r"0 problems, [1-9]\d* warnings", caplog.messages[-1])
