"""Instance scores, compared with the official evaluator's and with known results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellmap_pipeline.scoring import hausdorff, instances, matching, objects, slabs
from cellmap_pipeline.scoring.matching import instance_ratio_limit, match_objects
from cellmap_pipeline.scoring.rules.registry import RULES
from tests.support.drawn_volumes import KINDS, draw_pair

# Results of the official evaluator (2026-06-30) for `draw_case` of each seed.
REFERENCE = json.loads((Path(__file__).parent / "reference" / "instance_scores.json").read_text())
DRAWN = json.loads((Path(__file__).parent / "reference" / "drawn_scores.json").read_text())
VOXEL_SIZES = [(8.0, 8.0, 8.0), (3.48, 4.0, 4.0), (1.74, 2.0, 2.0), (16.0, 5.0, 11.3)]


def score_instance(
    pred: NDArray[Any],
    truth: NDArray[Any],
    voxel_size: Any,
    without_collisions: bool = False,
    rules: str = "2026-06-30",
) -> dict[str, Any]:
    return instances.score_instance(pred, truth, voxel_size, RULES[rules], without_collisions)


def draw_case(seed: int) -> tuple[NDArray[Any], NDArray[Any], tuple[float, float, float]]:
    """Draw a prediction, its ground truth and voxel size.

    The balls of the prediction are moved, resized, merged, missing and added ones.
    """
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(12, 36, 3))
    truth = np.zeros(shape, ["u1", "u2", "u4", "u8", "i8"][seed % 5])
    pred = np.zeros(shape, ["u4", "u2", "i8"][seed % 3])
    numbers = rng.permutation(np.arange(1, 60))
    for i in range(int(rng.integers(1, 12))):
        centre, radius = rng.integers(0, shape), int(rng.integers(1, 8))
        truth[_ball(shape, centre, radius)] = numbers[i] if seed % 2 else i + 1
        if rng.random() < 0.8:
            moved = centre + rng.integers(-2, 3, 3)
            inside = _ball(shape, moved, radius + int(rng.integers(-1, 2)))
            pred[inside] = 1 if seed % 4 == 3 else numbers[-1 - i]
    for _ in range(int(rng.integers(0, 6))):
        pred[_ball(shape, rng.integers(0, shape), int(rng.integers(0, 4)))] = rng.integers(1, 60)
    return pred, truth, VOXEL_SIZES[seed % 4]


def _ball(shape: tuple[int, ...], centre: NDArray[Any], radius: int) -> NDArray[np.bool_]:
    squares = [(np.arange(n) - c) ** 2 for n, c in zip(shape, centre, strict=True)]
    return np.add.outer(np.add.outer(squares[0], squares[1]), squares[2]) <= radius**2


def assert_score(score: dict[str, Any], expected: dict[str, Any]) -> None:
    distances = expected["hausdorff_norm_sum"]
    assert score | {"hausdorff_norm_sum": distances} == expected
    assert score["hausdorff_norm_sum"] == pytest.approx(distances, rel=0, abs=1e-9)


@pytest.mark.parametrize("seed", range(len(REFERENCE)))
def test_equals_the_official_evaluator(seed: int) -> None:
    assert_score(score_instance(*draw_case(seed)), REFERENCE[seed])


@pytest.mark.parametrize("first", range(len(KINDS)), ids=KINDS)
def test_equals_the_official_evaluator_on_every_kind_of_volume(first: int) -> None:
    seeds = range(first, len(DRAWN), len(KINDS))
    assert len(seeds) == 6
    for seed in seeds:
        kind, pred, truth, voxel_size = draw_pair(seed)
        kept = pred.copy(), truth.copy()
        assert_score(score_instance(pred, truth, voxel_size), DRAWN[seed])
        assert kind == KINDS[first]
        np.testing.assert_array_equal(pred, kept[0])
        np.testing.assert_array_equal(truth, kept[1])


@pytest.mark.parametrize("voxels", [1, 90, 1001])
def test_slabs_score_as_the_whole_does(voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read volumes in thin slabs, search surfaces in several trees, and sort overlaps."""
    for module in (slabs, hausdorff):
        monkeypatch.setattr(module, "SLAB_VOXELS", voxels)
    monkeypatch.setattr(hausdorff, "MAX_TREE_POINTS", 40)
    monkeypatch.setattr(hausdorff, "BATCH_CUBES", 2)
    monkeypatch.setattr(matching, "MAX_TABLE_PAIRS", 0)
    # Numbers need more than two bytes, and ids are renumbered.
    monkeypatch.setattr(objects, "MAX_UINT16", 5)
    for seed in range(len(DRAWN)):
        _, pred, truth, voxel_size = draw_pair(seed)
        assert_score(score_instance(pred, truth, voxel_size), DRAWN[seed])


def test_equals_the_official_evaluator_on_the_golden_cases(shared: Path) -> None:
    volumes = np.load(shared / "golden" / "scoring_cases.npz")
    cases = json.loads((shared / "golden" / "scoring_expected.json").read_text())
    instance = {name: case for name, case in cases.items() if case["kind"] == "instance"}
    assert len(instance) == 12
    for name, case in instance.items():
        pred, truth = volumes[f"{name}/pred"], volumes[f"{name}/truth"]
        assert_score(score_instance(pred, truth, case["voxel_size"]), case["result"])


def test_equals_the_golden_cases_of_july_2026(shared: Path) -> None:
    volumes = np.load(shared / "golden" / "scoring_cases.npz")
    cases = json.loads((shared / "golden" / "scoring_expected_2026_07.json").read_text())
    assert len(cases) == 12
    for name, case in cases.items():
        pred, truth = volumes[f"{name}/pred"], volumes[f"{name}/truth"]
        found = match_objects(pred, truth, case["voxel_size"])
        assert found.status == case["status"]
        if found.status != "scored":
            continue
        assert found.scale.cap_nm == pytest.approx(case["cap_nm"])
        expected = np.array(case["distances_nm"], float)  # None becomes NaN.
        distances = found.distances(ids_collide=False, cap_nm=case["cap_nm"])
        np.testing.assert_allclose(distances, expected, rtol=1e-6)
        score = score_instance(pred, truth, case["voxel_size"], rules="2026-07")
        assert {name: score[name] for name in ("tp", "fp", "fn")} == {
            name: case[name] for name in ("tp", "fp", "fn")
        }
        total = np.nansum(0.1 ** (expected / case["cap_nm"]))
        assert score["hausdorff_norm_sum"] == pytest.approx(total)
        assert score["n_hausdorff"] == case["n_hausdorff"]


def test_perfect_prediction_with_other_ids() -> None:
    truth = np.zeros((10, 10, 10), np.uint16)
    truth[1:4], truth[6:9] = 3, 900
    score = score_instance((truth == 3) * 7 + (truth == 900) * 2, truth, (4, 4, 4))
    assert_score(score, {"tp": 2, "fp": 0, "fn": 0, "hausdorff_norm_sum": 2.0, "n_hausdorff": 2,
                         "status": "scored"})  # fmt: skip


def test_distance_of_a_shifted_box() -> None:
    truth, pred = np.zeros((2, 40, 30, 30), np.uint8)
    truth[10:20, 10:20, 10:20] = 1
    pred[13:23, 10:20, 10:20] = 1
    score = score_instance(pred, truth, (2.0, 4.0, 4.0))
    assert score["tp"] == 1
    assert score["hausdorff_norm_sum"] == pytest.approx(1.01 ** (-3 * 2.0 / 6.0), abs=1e-9)


def test_unmatched_objects_count_at_the_capped_distance() -> None:
    labels, nothing = np.zeros((2, 12, 16, 16), np.uint8)
    labels[2:4, 2:4, 2:4], labels[8:, 8:, 8:] = 1, 2
    capped = 1.01 ** (-(12 * 4 / 2) / np.linalg.norm([4, 4, 4]))
    missed = score_instance(nothing, labels, (4, 4, 4))
    assert (missed["tp"], missed["fp"], missed["fn"]) == (0, 0, 2)
    assert missed["hausdorff_norm_sum"] == pytest.approx(2 * capped, abs=1e-9)
    invented = score_instance(labels, nothing, (4, 4, 4))
    assert (invented["tp"], invented["fp"], invented["fn"]) == (0, 2, 0)
    assert invented["hausdorff_norm_sum"] == pytest.approx(2 * capped, abs=1e-9)
    assert score_instance(nothing, nothing, (4, 4, 4))["n_hausdorff"] == 0


def test_unmatched_component_joins_the_true_instance_of_its_number() -> None:
    # Components are numbered by increasing x: the stray one is 1, the match of true object 1 is 2.
    truth, pred = np.zeros((2, 9, 9, 60), np.uint8)
    truth[3:6, 3:6, 20:24] = 1
    pred[3:6, 3:6, 20:24] = 5
    pred[3, 3, 10] = 5
    score = score_instance(pred, truth, (8, 8, 8))
    assert (score["tp"], score["fp"], score["fn"]) == (1, 1, 0)
    capped = 1.01 ** (-(9 * 8 / 2) / np.linalg.norm([8, 8, 8]))
    assert score["hausdorff_norm_sum"] == pytest.approx(2 * capped, abs=1e-9)
    # With another id of the true object the two do not collide.
    score = score_instance(pred, truth * 7, (8, 8, 8))
    assert score["hausdorff_norm_sum"] == pytest.approx(1 + capped, abs=1e-9)


def test_scores_without_the_collision_of_ids() -> None:
    truth, pred = np.zeros((2, 9, 9, 60), np.uint8)
    truth[3:6, 3:6, 20:24] = 1
    pred[3:6, 3:6, 20:24] = 5
    pred[3, 3, 10] = 5
    capped = 1.01 ** (-(9 * 8 / 2) / np.linalg.norm([8, 8, 8]))
    score = score_instance(pred, truth, (8, 8, 8), without_collisions=True)
    assert score.pop("hausdorff_norm_sum_without_collisions") == pytest.approx(1 + capped, abs=1e-9)
    assert score == score_instance(pred, truth, (8, 8, 8))
    # A true object without a match is measured against the component with its number, if any.
    pred[3:6, 3:6, 20:24] = 0
    score = score_instance(pred, truth, (8, 8, 8), without_collisions=True)
    near = 1.01 ** (-np.linalg.norm([2, 2, 13]) * 8 / np.linalg.norm([8, 8, 8]))
    near = max(near, capped)
    assert score["hausdorff_norm_sum"] == pytest.approx(near + capped, abs=1e-9)
    alone = score["hausdorff_norm_sum_without_collisions"]
    assert alone == pytest.approx(2 * capped, abs=1e-9)
    skipped = score_instance(np.indices((9, 9, 60)).sum(0) % 2, truth, (8, 8, 8), True)
    assert skipped["status"] == "scored"
    many = np.arange(truth.size).reshape(truth.shape)
    skipped = score_instance(many, truth, (8, 8, 8), True)
    assert skipped["status"] == "skipped_too_many_instances"
    assert skipped["hausdorff_norm_sum_without_collisions"] == 0


def test_crop_with_far_too_many_objects_is_skipped() -> None:
    truth, pred = np.zeros((2, 20, 20, 20), np.uint8)
    truth[:2] = 1
    pred[::2, ::2, ::2] = 1
    assert pred.sum() > instance_ratio_limit(1)
    score = score_instance(pred, truth, (8, 8, 8))
    assert score["status"] == "skipped_too_many_instances"
    assert score["tp"] == score["fp"] == score["fn"] == score["n_hausdorff"] == 0
    assert instance_ratio_limit(10) == pytest.approx(10 + 50 * np.exp(-2))


def test_true_ids_above_the_number_of_voxels() -> None:
    truth = np.zeros((6, 6, 6), np.uint64)
    truth[:2], truth[4:] = 2**40, 2**40 + 5
    score = score_instance(truth > 0, truth, (8, 8, 8))
    assert (score["tp"], score["hausdorff_norm_sum"]) == (2, 2.0)
    # An id equal to the number of voxels can still be scored, and counts as that many objects.
    truth[truth > 0] = truth.size
    many = np.zeros_like(truth)
    many[::2, ::2, ::2] = 1
    many[:, :, 5] = np.arange(1, 37).reshape(6, 6)
    assert score_instance(many, truth, (8, 8, 8))["status"] == "scored"
    truth[truth > 0] += 1
    assert score_instance(many, truth, (8, 8, 8))["status"] == "skipped_too_many_instances"


def test_unused_ids_are_left_out_of_large_matchings(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = np.zeros((20, 20, 20), np.uint32)
    truth[2:6, 2:6, 2:6], truth[10:15, 2:6, 2:6] = 3, 7000
    pred = np.roll(truth, 1, 0)
    expected = score_instance(pred, truth, (8, 8, 8))
    assert expected["tp"] == 2
    monkeypatch.setattr(matching, "MAX_NODES", 100)
    assert score_instance(pred, truth, (8, 8, 8)) == expected


def test_ids_above_two_bytes() -> None:
    truth = np.zeros((44, 44, 44), np.uint32)
    truth[2:6, 2:6, 2:6], truth[10:15, 2:6, 2:6], truth[30:34, 30:33, 30:] = 70_001, 3, 85_184
    pred = truth.astype(np.float64)
    score = score_instance(pred, truth.astype(np.float64), (8, 8, 8))
    assert (score["tp"], score["fp"], score["fn"], score["hausdorff_norm_sum"]) == (3, 0, 0, 3.0)


def test_arrays_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        score_instance(np.zeros((2, 2, 2), "u1"), np.zeros((2, 2, 3), "u1"), (1, 1, 1))
    for truth in (np.full((2, 2, 2), -1), np.full((2, 2, 2), 0.5), np.full((2, 2, 2), np.nan)):
        with pytest.raises(ValueError, match="0 or more"):
            score_instance(np.zeros((2, 2, 2), "u1"), truth, (1, 1, 1))
    with pytest.raises(TypeError, match="not currently supported"):
        score_instance(np.ones((2, 2, 2), ">u2"), np.ones((2, 2, 2), "u1"), (1, 1, 1))


masks = arrays(bool, st.tuples(*[st.integers(1, 11)] * 3), elements=st.booleans())


@settings(max_examples=60, deadline=None)
@given(mask=masks, data=st.data())
def test_distance_equals_all_pairs(mask: NDArray[np.bool_], data: st.DataObject) -> None:
    other = data.draw(arrays(bool, mask.shape, elements=st.booleans(), fill=st.just(False)))
    spacing = np.array(data.draw(st.sampled_from(VOXEL_SIZES)))
    mask[0, 0, 0] = other[-1, -1, -1] = True
    pred, truth = _joined(other), mask.astype(np.uint8)
    a, b = np.argwhere(mask) * spacing, np.argwhere(pred) * spacing
    pairs = np.linalg.norm(a[:, None] - b[None], axis=2)
    cap = (spacing * mask.shape).min() / 2
    distance = min(max(pairs.min(axis=1).max(), pairs.min(axis=0).max()), cap)
    # True object 1 is measured against component 1 even if unmatched; an unmatched component also
    # counts on its own.
    matched = bool((mask & pred).any())
    distances = np.array([distance] if matched else [distance, cap], np.float32)
    expected = (1.01 ** (-distances.astype(np.float64) / np.linalg.norm(spacing))).sum()
    score = score_instance(pred, truth, spacing)
    assert score["tp"] == matched
    assert score["hausdorff_norm_sum"] == pytest.approx(expected, rel=0, abs=1e-9)


def _joined(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Connect the voxels of a mask by lines through the far corner, to form one component."""
    joined = mask.copy()
    for z, y, x in np.argwhere(mask):
        joined[z:, y, x] = True
        joined[-1, y:, x] = True
    joined[-1, -1, np.argwhere(mask)[:, 2].min() :] = True
    return joined
