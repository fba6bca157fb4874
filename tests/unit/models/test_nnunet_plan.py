"""The stages of nnU-Net's networks are those of its planner."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import build_model, check_patch_size, check_window, total_stride
from cellmap_pipeline.models.nnunet_plan import plan_stages

# Plans of nnunetv2 2.8.1, for 1 input channel, 2 labels and 20 volumes of the given shape:
# `ExperimentPlanner`, `nnUNetPlannerResEncM` and `nnUNetPlannerResEncL`, whose
# `get_plans_for_configuration` was called with spacing and shape. Of each: the voxel size, the
# patch size, the batch size, and the strides and kernels of the stages.
ISOTROPIC = (8, 8, 8)
SECTIONS = (45, 9.2, 9.2)
HALVED, IN_PLANE = (2, 2, 2), (1, 2, 2)
CUBE, FLAT = (3, 3, 3), (1, 3, 3)
CUBES = [CUBE] * 6
OF_CUBES = [HALVED] * 5
OF_SECTIONS = [IN_PLANE, IN_PLANE, HALVED, HALVED, IN_PLANE, IN_PLANE]
OF_DEEPER_SECTIONS = [IN_PLANE, IN_PLANE, HALVED, HALVED, HALVED, IN_PLANE]
SECTION_KERNELS = [FLAT, FLAT, *[CUBE] * 5]
OF_THIN = [HALVED, HALVED, *[IN_PLANE] * 4]
PLANS = {
    "plain, 400 × 400 × 400 at 8 nm": (ISOTROPIC, (128, 128, 128), 2, OF_CUBES, CUBES),
    "M, 400 × 400 × 400 at 8 nm": (ISOTROPIC, (128, 128, 128), 2, OF_CUBES, CUBES),
    "L, 400 × 400 × 400 at 8 nm": (ISOTROPIC, (192, 192, 192), 2, OF_CUBES, CUBES),
    "plain, 100 × 1000 × 1000 at 45 × 9.2 × 9.2 nm": (
        SECTIONS, (28, 256, 256), 2, OF_SECTIONS, SECTION_KERNELS,
    ),
    "M, 100 × 1000 × 1000 at 45 × 9.2 × 9.2 nm": (
        SECTIONS, (24, 256, 256), 2, OF_SECTIONS, SECTION_KERNELS,
    ),
    "L, 100 × 1000 × 1000 at 45 × 9.2 × 9.2 nm": (
        SECTIONS, (32, 384, 384), 2, OF_DEEPER_SECTIONS, SECTION_KERNELS,
    ),
    "plain, 20 × 800 × 800 at 8 nm": (ISOTROPIC, (20, 256, 256), 4, OF_THIN, [CUBE] * 7),
    "M, 20 × 800 × 800 at 8 nm": (ISOTROPIC, (20, 256, 256), 4, OF_THIN, [CUBE] * 7),
    "L, 20 × 800 × 800 at 8 nm": (ISOTROPIC, (20, 256, 256), 12, OF_THIN, [CUBE] * 7),
}  # fmt: skip
# Its budgets of GPU memory, in the unit of `compute_conv_feature_map_size`, for batches of 2.
BUDGETS = {"plain": 560e6, "M": 680e6, "L": 2100e6}


@pytest.mark.parametrize("name", PLANS)
def test_stages_and_batch_are_those_of_the_planner(name):
    voxel_size, patch_size, batch_size, strides, kernels = PLANS[name]
    stages = plan_stages(patch_size, voxel_size)
    assert list(stages.strides) == [(1, 1, 1), *strides]
    assert list(stages.kernels) == kernels
    budget = name.partition(",")[0]
    architecture = "nnunet_plain" if budget == "plain" else "nnunet_resenc"
    network = on_meta(architecture, patch_size, voxel_size, deep_supervision=False)
    values = network.compute_conv_feature_map_size(patch_size)
    assert max(2, round(2 * BUDGETS[budget] / values)) == batch_size


def on_meta(architecture, patch_size, voxel_size, **options):
    with torch.device("meta"):
        model = {"architecture": architecture, **options}
        return build_model(model, 1, 2, patch_size, voxel_size)


def test_voxels_ten_times_as_long_are_convolved_from_the_stage_on_at_which_they_are_not():
    stages = plan_stages((24, 256, 256), (40, 4, 4))
    assert stages.strides[:6] == ((1, 1, 1), IN_PLANE, IN_PLANE, IN_PLANE, HALVED, HALVED)
    assert stages.kernels[:4] == (FLAT, FLAT, FLAT, CUBE)


@given(
    st.tuples(*[st.integers(12, 300)] * 3),
    st.tuples(*[st.sampled_from([2, 4, 8, 9.2, 16, 30, 45])] * 3),
)
def test_a_patch_that_is_filled_up_has_the_same_stages(patch_size, voxel_size):
    stages = plan_stages(patch_size, voxel_size)
    filled = [-(-n // s) * s for n, s in zip(patch_size, stages.total_stride, strict=True)]
    assert plan_stages(filled, voxel_size) == stages
    check_patch_size({"architecture": "nnunet_resenc"}, filled, voxel_size)


RESENC = {"architecture": "nnunet_resenc"}


@pytest.mark.parametrize(
    ("patch_size", "voxel_size", "message"),
    [
        (
            (28, 250, 256),
            SECTIONS,
            r"patch_size: \[28, 250, 256\] does not suit nnunet_resenc, which needs multiples of "
            r"\[4, 64, 64\]; the nearest are \[28, 192, 256\] and \[28, 256, 256\]$",
        ),
        # Halved once, 14 voxels leave 7 and the next stages halve the other axes, which are odd.
        (
            (15, 63, 338),
            (2, 30, 16),
            r"multiples of \[2, 1, 1\]; the nearest are \[16, 63, 338\]$",
        ),
        ((7, 7, 7), ISOTROPIC, r"\[7, 7, 7\] is too small .* at least 12 voxels along the axes"),
        ((64, 64, 8), (45, 45, 9), "is too small"),
    ],
    ids=str,
)
def test_unsupported_patch_sizes_suggest_the_nearest(patch_size, voxel_size, message):
    with pytest.raises(InputError, match=message):
        check_patch_size(RESENC, patch_size, voxel_size)


def test_windows_are_multiples_of_the_stride_of_the_patch():
    patch = (28, 256, 256)
    assert total_stride(RESENC, patch, SECTIONS) == (4, 64, 64)
    check_window(RESENC, (20, 128, 320), patch, SECTIONS)
    with pytest.raises(InputError, match=r"window: .*multiples of \[4, 64, 64\]; the nearest"):
        check_window(RESENC, (28, 256, 288), patch, SECTIONS)
