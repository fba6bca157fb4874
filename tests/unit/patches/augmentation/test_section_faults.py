import numpy as np
import pytest
import torch

from cellmap_pipeline.config.augmentation import Augmentation
from cellmap_pipeline.patches.augmentation.filters import gaussian_blur
from cellmap_pipeline.patches.augmentation.section_faults import (
    SectionFault,
    apply_fault,
    coarse_axes,
    draw_faults,
)
from tests.support.transforms import CUBE, OFF

PATCH = (6, 7, 8)
KINDS = ["missing_section", "shifted_section", "blurred_section"]


def faulty(fault):
    """Random raw before and after a fault."""
    raw = torch.rand(PATCH, generator=torch.Generator().manual_seed(0))
    changed = raw.clone()
    apply_fault(changed, fault)
    return raw, changed


@pytest.mark.parametrize(
    ("voxel", "axes"),
    [
        (CUBE, [0, 1, 2]),
        ((3.48, 4.0, 4.0), [0, 1, 2]),
        ((40.0, 4.0, 4.0), [0]),
        ((5.24, 4.0, 4.0), [0]),
        ((4.0, 8.0, 4.0), [1]),
    ],
    ids=str,
)
def test_sections_lie_across_the_coarse_axis(voxel, axes):
    assert coarse_axes(voxel) == axes
    options = Augmentation(**OFF | {kind: {"probability": 1} for kind in KINDS})
    rng = np.random.default_rng(0)
    drawn = [fault for _ in range(60) for fault in draw_faults(options, rng, PATCH, voxel)]
    assert {fault.axis for fault in drawn} == set(axes)
    for fault in drawn:
        assert fault.first >= 0 and fault.first + fault.count <= PATCH[fault.axis]
        assert fault.shift[fault.axis] == 0 and fault.sigmas[fault.axis] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_each_fault_has_its_probability(kind, share):
    options = Augmentation(**OFF | {kind: {"probability": share}})
    rng = np.random.default_rng(0)
    counts = [len(draw_faults(options, rng, PATCH, CUBE)) for _ in range(300)]
    assert np.mean(counts) == pytest.approx(share, abs=0 if share in (0, 1) else 0.08)


def test_strengths_are_within_their_ranges():
    options = Augmentation(
        **OFF
        | {"missing_section": {"probability": 1, "range": [2, 3]}}
        | {"shifted_section": {"probability": 1, "range": [3, 5]}}
        | {"blurred_section": {"probability": 1, "range": [1, 2]}}
    )
    rng = np.random.default_rng(0)
    drawn = [draw_faults(options, rng, (50, 50, 50), (40.0, 4.0, 4.0)) for _ in range(200)]
    counts = {missing.count for *_, missing in drawn if missing.first < 47}
    assert counts == {2, 3}
    distances = [np.linalg.norm(shifted.shift) for shifted, *_ in drawn]
    assert min(distances) >= 3 - 0.75 and max(distances) <= 5 + 0.75
    sigmas = [blurred.sigmas[1] for _, blurred, _ in drawn]
    assert min(sigmas) >= 1 and max(sigmas) <= 2
    assert all(
        blurred.sigmas == (0, s, s) for (_, blurred, _), s in zip(drawn, sigmas, strict=True)
    )


def test_missing_sections_are_blank_and_the_others_stay():
    raw, changed = faulty(SectionFault(1, 2, 2, is_missing=True))
    assert (changed[:, 2:4] == 0).all()
    assert torch.equal(changed[:, [0, 1, 4, 5, 6]], raw[:, [0, 1, 4, 5, 6]])


def test_a_shifted_section_is_moved_in_its_plane_and_repeats_its_edge():
    raw, changed = faulty(SectionFault(0, 3, shift=(0, 2, -1)))
    assert torch.equal(changed[3, 2:, :-1], raw[3, :-2, 1:])
    assert torch.equal(changed[3, :2, :-1], raw[3, :1, 1:].expand(2, 7))
    assert torch.equal(changed[3, 2:, -1], raw[3, :-2, -1])
    others = [0, 1, 2, 4, 5]
    assert torch.equal(changed[others], raw[others])


def test_a_blurred_section_is_blurred_in_its_plane():
    raw, changed = faulty(SectionFault(2, 4, sigmas=(1.0, 1.0, 0.0)))
    expected = gaussian_blur(raw, (1.0, 1.0, 0.0))
    torch.testing.assert_close(changed[..., 4], expected[..., 4])
    others = [0, 1, 2, 3, 5, 6, 7]
    assert torch.equal(changed[..., others], raw[..., others])
