import pytest

from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.make import read_plan
from cellmap_pipeline.preflight.estimates.tuning_cost import tuning_hours


def crop(number, voxel_nm, *labels):
    grid = Grid((voxel_nm,) * 3, (0, 0, 0), (1600 // voxel_nm,) * 3)
    present = dict.fromkeys(labels, 1.0)
    return LabeledCrop("d", number, "d.zarr", "raw", f"crop{number}", grid, present)


@pytest.fixture
def plan(folder):
    folder.configure(split={"validation_fraction": 0.5})
    return read_plan(folder.config)


def test_voxels_of_the_crops_that_validate_at_the_size_of_the_test_crops(plan):
    """Test crops have 8 nm: 200 voxels along each axis, of 4 nm crops, too; 16 nm stay."""
    found = tuning_hours(plan, "tiny", [crop(1, 4, "mito"), crop(2, 8, "mito", "pm")])
    assert found["mito"][0] == found["pm"][0] == 200**3
    assert tuning_hours(plan, "tiny", [crop(1, 16, "pm")]) == {"pm": (100**3, pytest.approx(
        found["pm"][1] / 8
    ))}  # fmt: skip
    # Instances try many more settings, and take longer for each.
    assert found["mito"][1] > 10 * found["pm"][1]
    assert 0.05 < found["mito"][1] < 0.2


def test_the_search_is_limited(plan):
    unknown = tuning_hours(plan, "tiny", None)
    assert {label: voxels for label, (voxels, _) in unknown.items()} == {
        "mito": 16_000_000, "pm": 48_000_000
    }  # fmt: skip
    many = [crop(n, 8, "mito", "pm") for n in range(40)]
    found = tuning_hours(plan, "tiny", many)
    assert found["mito"][0] == unknown["mito"][0] and found["pm"][0] == unknown["pm"][0]
    # At least 60³ voxels of each crop are screened.
    assert found["mito"][1] > 1.1 * unknown["mito"][1]
