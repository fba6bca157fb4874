"""Warnings of `snakemake plan` about a `fetch.padding` that is too small."""

from pathlib import Path

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.preflight.mirroring import mirroring_warnings
from tests.support.trainings import settings

TRAINING = settings(patch_size=64, inference={"overlap": 0.5})


def labeled(number, side):
    grid = Grid((8, 8, 8), (0, 0, 0), (side,) * 3)
    return LabeledCrop("d", number, Path("d.zarr"), "em", f"crop{number}", grid, {})


def warnings(padding_nm, crops, training=TRAINING, predicted=()):
    rows = {crop: [CropLabel(crop, "d", "mito", grid)] for crop, grid in predicted}
    return list(mirroring_warnings(training, padding_nm, crops, rows))


def test_shares_of_patches_and_windows():
    crops = [labeled(1, 200), labeled(2, 48), labeled(3, 32)]
    patch, window = warnings(0, crops)
    # On average 16 of 64 voxels lie outside crop 2, and 32 of 64 outside crop 3.
    assert patch.startswith(
        "around 2 of 3 crops 57.8% to 87.5% (d/crop3) of a patch is mirrored: remove `padding`"
    )
    assert window.startswith("around 2 of 3 crops 57.8% to 87.5% (d/crop3) of a window")
    # With 8 voxels on each side, a window around crop 2 lies in raw; some patches do not.
    (patch,) = warnings(64, crops[:2])
    assert patch.startswith("around 1 of 2 crops 17.6% to 17.6% (d/crop2) of a patch")


def test_test_crops_are_predicted_in_windows():
    small = Grid((4, 4, 4), (0, 0, 0), (96, 96, 96))
    (line,) = warnings(0, [], predicted=[(7, small)])
    assert line.startswith("around 1 of 1 crops 57.8% to 57.8% (d/crop7) of a window")
    assert warnings(64, [], predicted=[(7, small)]) == []


def test_enough_padding_is_not_mentioned():
    assert warnings(256, [labeled(1, 32)]) == []
    rotating = settings(patch_size=64, augment={"rotate": 180})
    (line,) = warnings(100, [labeled(1, 200)], rotating)
    # 63 / 2 voxels times the root of 3, less 63 / 2, are 24 voxels of 8 nm.
    assert line.startswith("the corners of rotated patches reach up to 192 nm beyond a crop")
    assert warnings(192, [labeled(1, 200)], rotating) == []


def test_crop_size_that_a_number_suffices_for_before_the_data_are_fetched():
    (line,) = warnings(100, None)
    assert line.startswith("around training crops of less than 412 nm a part of the patches")
