import json

import numpy as np
import pytest

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.instances import score_instance
from cellmap_pipeline.scoring.semantic import score_semantic
from cellmap_pipeline.scoring.summary import combine
from cellmap_pipeline.segmentation.fragments import find_fragments
from cellmap_pipeline.segmentation.method_settings import check_settings, complete, defaults
from cellmap_pipeline.segmentation.methods import METHODS
from cellmap_pipeline.segmentation.segment import merge_fragments, size_in_voxels
from cellmap_pipeline.validation.cases import LoadedCase
from cellmap_pipeline.validation.estimates import MatchEstimator, Overlap
from cellmap_pipeline.validation.tuning import tune
from tests.support.labels import segment
from tests.support.simulated import filling, inner_boundary, spheres, with_gaps
from tests.support.simulated import predicted as all_predicted

VOXELS = (8.0, 8.0, 8.0)


def predicted(truth, label, noise=0.06, seed=0):
    """Simulate the predictions of a label and its boundary."""
    channels = all_predicted(truth, label, noise, seed)
    return {name: channels[name] for name in (label, f"{label}_boundary")}


def iou(case, settings, label="er"):
    labels = case.where_known(segment(label, case.channels, case.voxel_size, settings))
    counts = score_semantic(labels, case.where_known(case.truth))
    return counts["tp"] / (counts["tp"] + counts["fp"] + counts["fn"])


def semantic_case(seed=0, known=None):
    rng = np.random.default_rng(seed)
    truth = spheres((20, 24, 28), (9, 10, 9, 7), (10, 12, 20, 5))
    noisy = np.where(truth > 0, 90, 50) + rng.normal(0, 25, truth.shape)
    return LoadedCase({"er": noisy.clip(0, 255).astype(np.uint8)}, truth, known, VOXELS)


def test_semantic_threshold_is_the_best_of_all():
    case = semantic_case()
    result = tune("er", [case], budget=0)
    assert result["settings"]["method"] == "threshold"
    every = [iou(case, {"threshold": k / 255}) for k in range(1, 256)]
    curve = {round(p["threshold"] * 255 + 0.5): p["score"] for p in result["curve"]}
    for level, value in curve.items():
        assert value == pytest.approx(every[level - 1])
    assert result["score_at_half"] == pytest.approx(iou(case, {"threshold": 0.5}))
    tuned = tune("er", [case])
    assert tuned["score"] > max(every) + 0.1  # smoothing helps against noise
    assert tuned["settings"]["smooth_nm"] > 0
    assert tuned["score"] == pytest.approx(iou(case, tuned["settings"]))


def test_a_certain_prediction_keeps_a_middle_threshold():
    case = semantic_case()
    sure = LoadedCase(
        {"er": np.where(case.truth > 0, 255, 0).astype(np.uint8)}, case.truth, None, VOXELS
    )
    result = tune("er", [sure])
    assert result["settings"] == defaults("threshold") | {"threshold": pytest.approx(0.5, abs=0.01)}
    assert result["score"] == 1


def test_unknown_voxels_are_ignored():
    known = np.ones((20, 24, 28), bool)
    known[:, :, 14:] = False
    case = semantic_case(known=known)
    spoilt = {"er": np.where(known, case.channels["er"], 255).astype(np.uint8)}
    half = LoadedCase({"er": case.channels["er"][:, :, :14]}, case.truth[:, :, :14], None, VOXELS)
    result = tune("er", [LoadedCase(spoilt, case.truth, known, VOXELS)], budget=0)
    alone = tune("er", [half], budget=0)
    assert result["curve"] == alone["curve"]
    assert result["score_at_half"] == alone["score_at_half"]


def cells(seed, label="cell", shape=(40, 40, 40)):
    truth = filling(shape, n=10, seed=seed)
    channels = predicted(truth, label, noise=0.15, seed=seed)
    channels[label][:] = 255
    channels[f"{label}_boundary"] = with_gaps(channels[f"{label}_boundary"], seed)
    return LoadedCase(channels, truth, None, VOXELS)


def pooled(label, cases, settings):
    counts = {
        f"crop{i}": {
            label: score_instance(
                segment(label, case.channels, case.voxel_size, settings),
                case.truth,
                case.voxel_size,
            )
        }
        for i, case in enumerate(cases)
    }
    return combine(counts)["label_scores"][label]["combined_score"]


def test_cells_that_fill_the_volume():
    cases = [cells(1), cells(2)]
    result = tune("cell", cases)
    assert result["settings"]["method"] == "watershed_boundary"
    assert result["score_at_half"] < 0.5
    assert result["score"] > 0.9
    assert result["score"] == pytest.approx(pooled("cell", cases, result["settings"]))
    assert result["score"] > pooled("cell", cases, {}) + 0.02
    unseen = [cells(3)]
    assert pooled("cell", unseen, result["settings"]) > 0.85
    assert check_settings("cell", result["settings"]) == result["settings"]
    assert json.loads(json.dumps(result)) == result
    assert result["counts"]["tp"] > 15
    assert [point["threshold"] for point in result["curve"]] == [0.1, 0.3, 0.5, 0.7, 0.9]


def test_the_result_is_reproducible_with_any_number_of_workers():
    cases = [cells(1, shape=(20, 20, 20)), cells(2, shape=(20, 20, 20))]
    first = tune("cell", cases, budget=6)
    assert tune("cell", cases, budget=6) == first
    assert tune("cell", cases, budget=6, workers=2) == first


def test_without_a_boundary_objects_are_separated_by_distance():
    truth = spheres((28, 28, 50), (14, 14, 13, 9), (14, 14, 29, 9), (6, 6, 43, 4))
    channels = {"mito": predicted(truth, "mito")["mito"]}
    result = tune("mito", [LoadedCase(channels, truth, None, VOXELS)])
    assert result["settings"]["method"] == "watershed_distance"
    assert result["score"] > 0.97 > 0.9 > result["score_at_half"]


@pytest.mark.parametrize("kind", ["distance", "affinities"])
def test_other_auxiliary_channels_replace_a_boundary(kind):
    case = cells(1, shape=(24, 24, 24))
    made = all_predicted(case.truth, "cell", noise=0.15)
    channels = {"cell": case.channels["cell"]}
    channels |= {f"cell{suffix}": made[f"cell{suffix}"] for suffix in AUXILIARY_SUFFIXES[kind]}
    result = tune("cell", [LoadedCase(channels, case.truth, None, VOXELS)], budget=9)
    assert METHODS[result["settings"]["method"]].auxiliary == kind
    assert result["score"] > 0.8 > result["score_at_half"]


def test_a_crop_that_would_be_skipped_counts_as_missed():
    truth = np.zeros((30, 30, 30), np.uint8)
    truth[2:8, 2:8, 2:8] = 1
    specks = np.zeros(truth.shape, np.uint8)
    specks[10::2, 10::2, 10::2] = 130
    specks[truth > 0] = 100
    case = LoadedCase({"ves": specks}, truth, None, VOXELS)
    components = segment("ves", case.channels, VOXELS, {"min_size_nm3": 0})
    assert score_instance(components, truth, VOXELS)["status"] == "skipped_too_many_instances"
    result = tune("ves", [case])
    assert result["score_at_half"] == 0
    assert result["score"] == 1 and result["counts"]["tp"] == 1


def test_an_empty_ground_truth_keeps_the_defaults():
    case = LoadedCase(
        {"mito": np.full((6, 6, 6), 90, np.uint8)}, np.zeros((6, 6, 6), np.uint8), None, VOXELS
    )
    result = tune("mito", [case])
    assert result["settings"] == complete("mito", {}, [])
    assert result["score"] == 1


def test_nothing_to_tune_on():
    with pytest.raises(InputError, match="no validation crop"):
        tune("mito", [])
    case = LoadedCase({"er": np.zeros((2, 2, 2), np.uint8)}, np.ones((2, 2, 2)), None, VOXELS)
    with pytest.raises(InputError, match="no prediction"):
        tune("mito", [case])


def test_estimates_count_like_the_scorer():
    case = cells(1)
    settings = defaults("watershed_boundary") | {"min_size_nm3": 2e4, "merge_small": False}
    fragments = find_fragments("cell", case.channels, VOXELS, settings)
    overlap = Overlap.of(fragments.labels, case.truth, None, VOXELS)
    guess = MatchEstimator(overlap, merge_fragments(fragments, settings)).estimate(
        size_in_voxels(2e4, VOXELS)
    )
    real = score_instance(segment("cell", case.channels, VOXELS, settings), case.truth, VOXELS)
    for name in ("tp", "fp", "fn"):
        assert abs(getattr(guess, name) - real[name]) <= 1
    perfect = Overlap.of(case.truth, case.truth, None, VOXELS)
    lookup = np.arange(case.truth.max() + 1)
    assert MatchEstimator(perfect, lookup).estimate(0).score == pytest.approx(1)


def test_real_neurites(shared):
    """Real cells with a simulated prediction of their boundary."""
    zarr = pytest.importorskip("zarr")
    root = shared / "data/flyem/flyem_medulla-1/flyem_medulla-1.zarr/recon-1/labels/groundtruth"
    truth = zarr.open(str(root / "crop6/cell/s0"), mode="r")[:64, :64, :64]
    assert inner_boundary(truth).mean() > 0.05
    channels = predicted(truth, "cell", noise=0.15)
    channels["cell"][:] = 255
    channels["cell_boundary"] = with_gaps(channels["cell_boundary"])
    result = tune("cell", [LoadedCase(channels, truth, None, (10.0, 10.0, 10.0))], budget=9)
    assert result["settings"]["method"] == "watershed_boundary"
    assert result["score"] > 0.7 > 0.5 > result["score_at_half"]
