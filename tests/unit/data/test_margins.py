import pytest

from cellmap_pipeline.data.margins import RawMargins

MARGINS = RawMargins((64, 64, 64), (16, 16, 16), (48, 48, 48), (10, 10, 10))


@pytest.mark.parametrize(
    ("crop", "width"),
    [
        (100, 16),  # the context
        (48, 16),
        (40, 18),  # a patch of 48 voxels reaches 8 voxels beyond it, and is rotated
        (11, 47),
    ],
)
def test_raw_around_training_crops(crop, width):
    assert MARGINS.around((crop, 100, 100)) == (width, 16, 16)


@pytest.mark.parametrize(("crop", "width"), [(100, 16), (33, 16), (31, 17), (8, 28)])
def test_raw_around_predicted_crops(crop, width):
    margins = RawMargins(MARGINS.window, MARGINS.context)
    assert margins.around((crop, 100, 100)) == (width, 16, 16)


@pytest.mark.parametrize("crop", [100, 48, 40, 31, 8])
def test_wider_margins(crop):
    shape, more = (crop, 100, crop), (5, 0, 20)
    expected = tuple(map(sum, zip(MARGINS.around(shape), more, strict=True)))
    assert MARGINS.widened(more).around(shape) == expected
    assert MARGINS.widened((0, 0, 0)) == MARGINS


def test_fixed_width_does_not_depend_on_the_crop():
    margins = RawMargins.fixed(100, (8, 8, 40))
    assert margins.around((1, 50, 1000)) == (13, 13, 3)


def test_mirrored_share_of_a_window():
    # 64 voxels around a crop of 20 with 6 on each side.
    assert MARGINS.mirrored_window((20, 100, 64), (6, 0, 0)) == pytest.approx(0.5)
    assert MARGINS.mirrored_window((20, 20, 20), (22, 22, 22)) == 0


@pytest.mark.parametrize("padding", [0, 5, 30, 40])
def test_mirrored_share_of_a_patch_is_the_mean_over_its_places(padding):
    crop, patch, steps = 8, 48, 4000
    starts = [-(patch - crop) * (i + 0.5) / steps for i in range(steps)]
    outside = [
        max(0, -padding - start) + max(0, start + patch - crop - padding) for start in starts
    ]
    share = MARGINS.mirrored_patch((crop, 100, 48), (padding, padding, padding))
    assert share == pytest.approx(sum(outside) / steps / patch, abs=1e-4)
