"""Errors in the layout and the values of raw, labels and external predictions."""

import shutil

import numpy as np
import pytest

from tests.support.spoiled import (
    CHECK,
    CROP,
    RAW,
    Folder,
    Row,
    assert_refused,
    change_array,
    change_axes,
    change_scale,
    change_translation,
    external_predictions,
    replace_by_link,
)


def write_float_raw(folder: Folder, value: float) -> None:
    voxels = np.full(RAW.shape, 0.5, np.float32)
    voxels[5, 5, 5:7] = value
    folder.store(folder.raw, voxels, RAW)


def write_label(folder: Folder, voxels: np.ndarray, start=(0, 0, 0)) -> None:
    folder.store(folder.label(), voxels, RAW.box(start, voxels.shape))


ROWS = {
    "data_root at a dataset": Row(
        CHECK,
        "data_root: data/a contains no "
        "{dataset}/{dataset}.zarr/recon-1/labels/groundtruth/crop{number}: it is inside a "
        "dataset; set data_root to …/data",
        lambda folder: folder.configure(data_root="data/a"),
    ),
    "data_root above the data": Row(
        CHECK,
        "data_root: . contains no …: set data_root to data",
        lambda folder: folder.configure(data_root="."),
    ),
    "a zarr with another name than its folder": Row(
        CHECK,
        "data_root: data contains no …: rename data/a/b.zarr to a.zarr, like its folder",
        lambda folder: (folder.path / "data/a/a.zarr").rename(folder.path / "data/a/b.zarr"),
    ),
    "a broken link": Row(
        CHECK,
        "crop1/mito is a link to /nowhere, which does not exist or is not readable: correct or "
        "remove the link",
        lambda folder: replace_by_link(folder.label(), "/nowhere"),
    ),
    "a crop twice": Row(
        CHECK,
        "crop1 and … have the same dataset and crop number: move one out of the data folder, or "
        "renumber it",
        lambda folder: shutil.copytree(folder.recon, folder.recon.with_name("recon-2")),
    ),
    "raw under another name": Row(
        CHECK,
        "fibsem-uint8 does not exist, but its folder contains fibsem-uint16: rename or link the "
        "raw to fibsem-uint8, or give its path in a `datasplit` of your own",
        lambda folder: folder.raw.rename(folder.raw.with_name("fibsem-uint16")),
    ),
    "no raw": Row(
        CHECK,
        "fibsem-uint8 does not exist: copy or fetch the raw (its path is in docs/own-data.md)",
        lambda folder: shutil.rmtree(folder.raw.parent),
    ),
    "nanometers declared as micrometers": Row(
        CHECK,
        "s0: [800000.0, 800000.0, 800000.0] nm is not a plausible voxel size: correct the scale "
        "or the unit in its metadata",
        lambda folder: (
            change_scale(folder.raw, [800.0] * 3),
            change_axes(folder.raw, unit="micrometer"),
        ),
    ),
    "a wrong dtype of raw": Row(
        CHECK,
        "s0 is int32, but raw is uint8, uint16 or float from 0 to 1: convert it",
        lambda folder: folder.store(folder.raw, np.ones(RAW.shape, np.int32), RAW),
    ),
    "labels that are probabilities": Row(
        CHECK,
        "s0 is float32, but labels are whole numbers: convert it",
        lambda folder: write_label(folder, np.ones(CROP, np.float32)),
    ),
    "NaN in raw": Row(
        CHECK,
        "s0 contains NaN: replace it, with 0 where nothing is known",
        lambda folder: write_float_raw(folder, np.nan),
    ),
    "raw of floats up to 255": Row(
        CHECK,
        "s0 has values from 0.5 to 255, but raw stored as float must be from 0 to 1: scale it, or "
        "store it as uint8",
        lambda folder: write_float_raw(folder, 255),
    ),
    "a wrong chunk separator": Row(
        CHECK,
        "s0 has no chunk named as .zarray says (dimension_separator '.'), but has '0': correct "
        "the separator",
        lambda folder: change_array(folder.label() / "s0", dimension_separator="."),
    ),
    "a label without its chunks": Row(
        CHECK,
        "crop1/mito/s0 has no chunks, but its annotation counts 6,336 labeled voxels: copy or "
        "fetch it again",
        lambda folder: shutil.rmtree(folder.label() / "s0/0"),
    ),
    "negative ids": Row(
        CHECK,
        "s0 contains -1, but ids are 0 or more: mark unknown voxels with an `unknown` value "
        "(docs/own-data.md)",
        lambda folder: write_label(folder, np.arange(-1, 32**3 - 1, dtype=np.int32).reshape(CROP)),
    ),
    "a label larger than its raw": Row(
        CHECK,
        "a/crop1: 56% of it lies outside its raw … (voxels [0, 0, 0] to [96, 96, 96] of [64, 64, "
        "96]): correct the labels' voxel size and translation (nm, z, y, x), or leave the crop "
        "out",
        lambda folder: write_label(folder, np.ones((96, 96, 96), np.uint8)),
    ),
    "a label outside its crop": Row(
        CHECK,
        "pm does not overlap the crop's other labels: correct its translation",
        lambda folder: change_translation(folder.label("pm"), [256, 256, 0]),
    ),
    "a ground truth of other crops": Row(
        CHECK,
        "ground_truth: data/truth.zarr contains no array {crop}/{label} of crop3 with a predicted "
        "label, so nothing can be scored. …: of a multiscale label, provide its s0; or set "
        "ground_truth: null",
        lambda folder: (folder.ground_truth / "crop3").rename(folder.ground_truth / "crop4"),
    ),
    "missing predictions": Row(
        CHECK,
        "predictions.nnunet: 1 of 1 labels do not exist, such as other/a/crop3/mito: add them, or "
        "list the classes that exist as `predictions: {nnunet: {path: …, classes: […]}}`",
        Folder.configure_predictions,
    ),
    "predictions that are labels": Row(
        CHECK,
        "predictions.nnunet: …s0 is int64, but probabilities are uint8 or float from 0 to 1: "
        "convert it",
        lambda folder: external_predictions(folder, np.ones(CROP, np.int64)),
    ),
    "predictions at another position": Row(
        CHECK,
        "predictions.nnunet: …s0 at [0.0, 0.0, 0.0] nm does not overlap the crop at [128.0, "
        "128.0, 512.0] nm: correct its translation and voxel size",
        lambda folder: external_predictions(folder, np.full(CROP, 200, np.uint8), (0, 0, 0)),
    ),
    "predictions of half a crop": Row(
        CHECK,
        "predictions.nnunet: …s0 does not cover 50% of its crop (voxels [0, 0, 0] to [32, 32, 32] "
        "of [16, 32, 32]): predict all of it, with 0 where nothing is known, or correct its "
        "translation and voxel size",
        lambda folder: external_predictions(folder, np.full((16, 32, 32), 200, np.uint8)),
    ),
    "predictions without any chunk": Row(
        CHECK,
        "predictions.nnunet: …s0 has no chunks, so that all of it is read as probability 0: copy "
        "it again, or leave the label out of `classes`",
        lambda folder: external_predictions(folder, np.zeros(CROP, np.uint8)),
    ),
    "logits as predictions": Row(
        CHECK,
        "s0 has values from -3 to -3, but probabilities stored as float must be from 0 to 1: "
        "scale it, or store it as uint8",
        lambda folder: external_predictions(folder, np.full(CROP, -3, np.float32)),
    ),
    "masks as predictions": Row(
        CHECK,
        "predictions.nnunet: no value of mito is above 1 (as in other/a/crop3/mito/s0), but in "
        "uint8, 255 is a probability of 1: multiply by 255, or write floats from 0 to 1",
        lambda folder: external_predictions(folder, np.ones(CROP, np.uint8)),
    ),
    "an oversampled dataset without training crops": Row(
        CHECK,
        "training tiny: oversample.datasets: no crop that trains is from 'A' (did you mean 'a'?), "
        "only from a: correct the name, or leave it out",
        lambda folder: folder.configure_training(oversample={"datasets": {"a": 2, "A": 3}}),
    ),
    "an average without the channels for its method": Row(
        CHECK,
        "predictions.nnunet: other/a/crop3/mito is averaged with `method: watershed_boundary`, "
        "which training 'tiny' sets, but other/a/crop3/mito_boundary does not exist: add it, "
        "leave these predictions out of the average, or set another method",
        lambda folder: [
            external_predictions(folder, np.full(CROP, 200, np.uint8)),
            folder.configure_training(postprocess={"mito": {"method": "watershed_boundary"}}),
            folder.configure(submission={"select": "average"}),
        ],
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_data_are_refused(folder, row):
    assert_refused(folder, row)
