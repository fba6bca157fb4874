"""Warnings of `snakemake plan` about a `fetch.padding` that is too small."""

from pathlib import Path

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.crop_table import COLUMNS
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.preflight.estimates.outlook import outlook_text
from cellmap_pipeline.preflight.mirroring import mirroring_warnings
from tests.support.plans import two_trainings
from tests.support.trainings import settings

TRAINING = settings(patch_size=64, inference={"overlap": 0.5}, augment={"scaling": 0})


def labeled(number, side):
    grid = Grid((8, 8, 8), (0, 0, 0), (side,) * 3)
    return LabeledCrop("d", number, Path("d.zarr"), "em", f"crop{number}", grid, {})


def warnings(padding_nm, crops, training=TRAINING, predicted=()):
    rows = {crop: [CropLabel(crop, "d", "mito", grid)] for crop, grid in predicted}
    return list(mirroring_warnings(training, padding_nm, crops, rows))


def test_mirrored_shares_of_patches_and_windows_are_reported():
    crops = [labeled(1, 200), labeled(2, 48), labeled(3, 32)]
    patch, window = warnings(0, crops)
    # On average 16 of 64 voxels lie outside crop 2, and 32 of 64 outside crop 3.
    shares = "mirrored, on average 72.7%, at most 87.5% (d/crop3): remove `padding`"
    assert patch.startswith(f"around 2 of 3 crops a part of a patch is {shares}")
    assert window.startswith(f"around 2 of 3 crops a part of a window is {shares}")
    # With 8 more voxels on each side of crop 2, raw covers its windows, but not all patches.
    (patch,) = warnings(64, crops[:2])
    assert "patch is mirrored, on average 17.6%, at most 17.6% (d/crop2)" in patch


def test_mirrored_share_of_windows_around_test_crops_is_reported():
    small = Grid((4, 4, 4), (0, 0, 0), (96, 96, 96))
    (line,) = warnings(0, [], predicted=[(7, small)])
    assert "window is mirrored, on average 57.8%, at most 57.8% (d/crop7)" in line
    assert warnings(64, [], predicted=[(7, small)]) == []


def test_sufficient_padding_gives_no_warning():
    assert warnings(256, [labeled(1, 32)]) == []
    rotating = settings(patch_size=64, augment={"rotate": 180, "scaling": 0})
    (line,) = warnings(100, [labeled(1, 200)], rotating)
    # 63 / 2 voxels times the root of 3, less 63 / 2, are 24 voxels of 8 nm.
    assert line.startswith("rotated or scaled patches reach up to 192 nm beyond a crop")
    assert warnings(192, [labeled(1, 200)], rotating) == []
    scaling = settings(patch_size=64, augment={"scaling": {"range": [0.7, 1.4]}})
    (line,) = warnings(100, [labeled(1, 200)], scaling)
    # 0.4 times 63 / 2 voxels are 13 voxels.
    assert line.startswith("rotated or scaled patches reach up to 104 nm beyond a crop")


def test_warning_names_the_smallest_sufficient_crop_before_data_are_fetched():
    (line,) = warnings(100, None)
    assert line.startswith("around training crops of less than 412 nm a part of the patches")


def test_plan_warns_of_insufficient_padding(tmp_path):
    root = "s3://b/{0}/{0}.zarr/recon-1"
    rows = [
        f"{n},{d},recon-1,{root.format(d)}/crop{n},{root.format(d)}/em"
        for n, d in enumerate("ab", 10)
    ]
    table = tmp_path / "crops.csv"
    table.write_text("\n".join([",".join(COLUMNS), *rows]))
    changes = {"output": str(tmp_path / "results"), "data_root": str(tmp_path / "none")}
    number = {"crops": str(table), "padding": 100}
    text = outlook_text(two_trainings(tmp_path, fetch=number, **changes))
    assert "  warning: fetch.padding: 100 nm: around training crops of less than 412 nm" in text
    # 33 of 64 voxels are fetched: those of a test crop of 8 voxels, and 12.5 on each side.
    assert "window is mirrored, on average 86.3%, at most 86.3% (a/crop1)" in text
    text = outlook_text(two_trainings(tmp_path, fetch={"crops": str(table)}, **changes))
    assert "mirrored" not in text
