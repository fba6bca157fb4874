"""Checks of a model's options, patch size and window."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import (
    build_model,
    check_model,
    check_patch_size,
    check_window,
)
from tests.support.networks import SMALL

VOXEL_NM = (8, 8, 8)


def test_model_checks_do_not_import_torch():
    code = (
        "import sys\n"
        "from cellmap_pipeline.models.build import check_model, check_patch_size\n"
        "model = check_model({'architecture': 'monai_dynunet'})\n"
        "check_patch_size(model, (64, 64, 64), (8, 8, 8))\n"
        "assert not {'torch', 'monai', 'zarr', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_checked_models_are_complete_and_stable():
    assert check_model({"architecture": "mednext", "kernel_size": 5}) == {
        "architecture": "mednext",
        "size": "B",
        "kernel_size": 5,
        "deep_supervision": False,
    }
    assert check_model({"architecture": "monai_unet"})["channels"] == [32, 64, 128, 256, 512]
    for name in SMALL:
        complete = check_model({"architecture": name})
        assert check_model(complete) == complete
        assert list(check_model(dict(reversed(complete.items())))) == list(complete)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "architecture must be one of mednext, .*not None"),
        ({"architecture": "unet"}, "no architecture 'unet'; choose one of mednext, monai_basic"),
        ({"architecture": "pytc:"}, "no architecture 'pytc:'"),
        ({"architecture": "pytc:NAME"}, "no architecture 'pytc:NAME'"),
        (
            {"architecture": "mednext", "kernl_size": 3},
            r"mednext has no option 'kernl_size'; it has size \(default B\), kernel_size",
        ),
        (
            {"architecture": "mednext", "size": "XL"},
            "should be 'S', 'B', 'M' or 'L'",
        ),
        (
            {"architecture": "mednext", "kernel_size": 4},
            "kernel_size of mednext should be 3, 5 or 7",
        ),
        ({"architecture": "mednext", "kernel_size": 3.0}, "should be a whole number, not 3.0"),
        (
            {"architecture": "mednext", "deep_supervision": "yes"},
            "should be a valid boolean",
        ),
        (
            {"architecture": "monai_basic_unet3d", "features": [8, 8]},
            "at least 6 items, not",
        ),
        (
            {"architecture": "monai_unet", "channels": [8]},
            "should have at least 2 items",
        ),
        ({"architecture": "monai_unet", "channels": 8}, "should be a list, not 8"),
        (
            {"architecture": "monai_unet", "dropout": 1},
            "dropout of monai_unet should be less than 1",
        ),
        (
            {"architecture": "monai_unet", "num_res_units": True},
            "should be a valid integer",
        ),
        ({"architecture": "pytc:rsunet", "settings": [1]}, "should be a mapping"),
    ],
    ids=str,
)
def test_invalid_models_are_refused(model, message):
    with pytest.raises(InputError, match=message):
        check_model(model)


def test_options_that_the_network_rejects_are_named():
    model = {"architecture": "monai_segresnet", "init_filters": 12}
    with pytest.raises(InputError, match="monai_segresnet cannot be built with .*12"):
        build_model(model, 1, 1, (64, 64, 64), VOXEL_NM)


MEDNEXT = {"architecture": "mednext"}


@pytest.mark.parametrize(
    ("patch", "nearest"),
    [
        ([100, 128, 128], r"nearest are \[96, 128, 128\] and \[112, 128, 128\]"),
        ([16, 16, 16], r"nearest are \[32, 32, 32\]"),
        ([20, 16, 16], r"nearest are \[32, 32, 32\]"),
        ([0, 64, 64], r"nearest are \[16, 64, 64\]"),
        ([64, 64], "three multiples of 16"),
    ],
    ids=str,
)
def test_unsupported_patch_sizes_suggest_the_nearest(patch, nearest):
    with pytest.raises(InputError, match=nearest):
        check_patch_size(MEDNEXT, patch, VOXEL_NM)


@given(st.lists(st.integers(1, 8).map(lambda n: 16 * n), min_size=3, max_size=3))
def test_multiples_of_the_stride_are_supported_if_more_than_one_voxel_remains(patch):
    if patch == [16, 16, 16]:
        with pytest.raises(InputError):
            check_patch_size(MEDNEXT, patch, VOXEL_NM)
    else:
        check_patch_size(MEDNEXT, patch, VOXEL_NM)


def test_windows_differ_from_the_patch_only_where_the_network_allows():
    check_window(MEDNEXT, (64, 64, 64), (32, 32, 32), VOXEL_NM)
    with pytest.raises(InputError, match="window: .*multiples of 16"):
        check_window(MEDNEXT, (60, 64, 64), (32, 32, 32), VOXEL_NM)
    unetr = {"architecture": "monai_unetr"}
    check_window(unetr, [32, 32, 32], (32, 32, 32), VOXEL_NM)
    with pytest.raises(InputError, match=r"window: .*set window to \[32, 32, 32\]"):
        check_window(unetr, (64, 64, 64), (32, 32, 32), VOXEL_NM)
