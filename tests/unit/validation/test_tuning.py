import json
from dataclasses import replace

import numpy as np
import pytest

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.instances import score_instance
from cellmap_pipeline.scoring.rules.base import Counts, DistanceScale
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.semantic import score_semantic
from cellmap_pipeline.scoring.summary import combine
from cellmap_pipeline.segmentation.fragments import find_fragments
from cellmap_pipeline.segmentation.method_settings import check_settings, complete, defaults
from cellmap_pipeline.segmentation.methods import METHODS
from cellmap_pipeline.segmentation.segment import merge_fragments, size_in_voxels
from cellmap_pipeline.validation import tuning
from cellmap_pipeline.validation.case_fragments import CaseFragments
from cellmap_pipeline.validation.case_results import CaseResults, fingerprint_of_cases
from cellmap_pipeline.validation.cases import LoadedCase
from cellmap_pipeline.validation.estimates import MatchEstimator, Overlap
from cellmap_pipeline.validation.evaluators import Estimator, Scorer, Search
from cellmap_pipeline.validation.search import plain_settings
from tests.support.labels import segment
from tests.support.simulated import filling, inner_boundary, spheres, with_gaps
from tests.support.simulated import predicted as all_predicted

VOXELS = (8.0, 8.0, 8.0)
# The mean over crops with caps of 800 and 400 nm: 100 and 50 voxels.
JUNE_WORST = (1.01 ** (-100 / 3**0.5) + 1.01 ** (-50 / 3**0.5)) / 2


def predicted(truth, label, noise=0.06, seed=0):
    """Simulate the predictions of a label and its boundary."""
    channels = all_predicted(truth, label, noise, seed)
    return {name: channels[name] for name in (label, f"{label}_boundary")}


def loaded(channels, truth, known, voxel_size, test_caps_nm=()):
    own = DistanceScale.of(truth.shape, voxel_size)
    of_tests = [DistanceScale(cap_nm, voxel_size) for cap_nm in test_caps_nm] or [own]
    return LoadedCase(channels, truth, known, voxel_size, own, of_tests)


def tune(label, cases, budget=None, workers=1, rules="2026-06-30"):
    return tuning.tune(Search(label, RULES[rules], workers), cases, budget)


def scorer(label, cases, rules):
    fragments = CaseFragments(label, cases, max_kept_voxels=0)
    return Scorer(Search(label, rules, workers=1), cases, fragments)


def iou(case, settings, label="er"):
    labels = case.where_known(segment(label, case.channels, case.voxel_size, settings))
    counts = score_semantic(labels, case.where_known(case.truth), RULES["2026-06-30"])
    return counts["tp"] / (counts["tp"] + counts["fp"] + counts["fn"])


def semantic_case(seed=0, known=None):
    rng = np.random.default_rng(seed)
    truth = spheres((20, 24, 28), (9, 10, 9, 7), (10, 12, 20, 5))
    noisy = np.where(truth > 0, 90, 50) + rng.normal(0, 25, truth.shape)
    return loaded({"er": noisy.clip(0, 255).astype(np.uint8)}, truth, known, VOXELS)


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
    sure = loaded(
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
    half = loaded({"er": case.channels["er"][:, :, :14]}, case.truth[:, :, :14], None, VOXELS)
    result = tune("er", [loaded(spoilt, case.truth, known, VOXELS)], budget=0)
    alone = tune("er", [half], budget=0)
    assert result["curve"] == alone["curve"]
    assert result["score_at_half"] == alone["score_at_half"]


def cells(seed, label="cell", shape=(40, 40, 40)):
    truth = filling(shape, n=10, seed=seed)
    channels = predicted(truth, label, noise=0.15, seed=seed)
    channels[label][:] = 255
    channels[f"{label}_boundary"] = with_gaps(channels[f"{label}_boundary"], seed)
    return loaded(channels, truth, None, VOXELS)


def pooled(label, cases, settings):
    counts = {
        f"crop{i}": {
            label: score_instance(
                segment(label, case.channels, case.voxel_size, settings),
                case.truth,
                case.voxel_size,
                RULES["2026-06-30"],
            )
        }
        for i, case in enumerate(cases)
    }
    return combine(counts, RULES["2026-06-30"])["label_scores"][label]["combined_score"]


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


def shared(result):
    """Return the results that do not depend on the parts."""
    others = ("by_case", "settings_by_case", "cross_fitted_score")
    return {name: value for name, value in result.items() if name not in others}


def test_cases_are_scored_with_settings_tuned_on_the_others():
    """The label is above 100 in the first two cases, and above 150 in the other two."""
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[:4] = 1
    cases = [
        loaded({"er": np.where(truth, low + 40, low).astype(np.uint8)}, truth, None, VOXELS)
        for low in (90, 90, 140, 140)
    ]
    rules = RULES["2026-07"]
    result = tuning.tune(Search("er", rules, 1), cases, parts=[[0, 1], [2, 3]])
    first, *_, last = (one["threshold"] * 255 for one in result["settings_by_case"])
    assert 140 < first < 180 and 90 < last < 130
    voxels, half = truth.size, truth.size // 2
    assert result["by_case"] == 2 * [{"tp": 0, "fp": 0, "fn": half}] + 2 * [
        {"tp": half, "fp": half, "fn": 0}
    ]
    assert result["cross_fitted_score"] == voxels / (3 * voxels)
    whole = tuning.tune(Search("er", rules, 1), cases)
    assert whole["cross_fitted_score"] is None
    assert whole["settings_by_case"] == [whole["settings"]] * 4
    assert shared(whole) == shared(result)


@pytest.mark.parametrize("workers", [1, 2])
def test_searches_share_results_and_change_none(workers):
    cases = [cells(seed, shape=(20, 20, 20)) for seed in (1, 2, 3)]
    rules = RULES["2026-07"]
    parts = [[0], [1], [2]]
    result = tuning.tune(Search("cell", rules, workers), cases, budget=6, parts=parts)
    assert shared(result) == shared(tune("cell", cases, budget=6, rules="2026-07"))
    for i, settings in enumerate(result["settings_by_case"]):
        alone = scorer("cell", [cases[i]], rules)
        assert result["by_case"][i] == rules.fields(alone.counts(settings), instance=True)
    pooled = sum((rules.counts(one, instance=True) for one in result["by_case"]), Counts())
    assert result["cross_fitted_score"] == rules.score(pooled, instance=True)


@pytest.mark.parametrize("evaluator", [Scorer, Estimator])
def test_each_case_is_evaluated_once_for_all_searches(evaluator, monkeypatch):
    evaluated, case_result = [], evaluator._case_result

    def counted(self, settings, i):
        evaluated.append((self._name, *settings.values(), i))
        return case_result(self, settings, i)

    monkeypatch.setattr(evaluator, "_case_result", counted)
    cases = [cells(seed, shape=(20, 20, 20)) for seed in (1, 2, 3)]
    tuning.tune(Search("cell", RULES["2026-07"], 1), cases, budget=6, parts=[[0], [1], [2]])
    assert len(evaluated) == len(set(evaluated)) >= 18


def test_settings_are_screened_on_parts_of_the_cases(monkeypatch):
    """A part is enough to find good settings; few of them are tried on the whole case."""
    case = cells(1)
    tried = {"screen": set(), "estimate": set()}
    case_result = Estimator._case_result

    def counted(self, settings, i):
        tried[self._name].add(tuple(settings.items()))
        assert self._cases[i].truth.size == {"screen": 20**3, "estimate": 40**3}[self._name]
        return case_result(self, settings, i)

    whole = tune("cell", [case])
    monkeypatch.setattr(Estimator, "_case_result", counted)
    monkeypatch.setattr(tuning, "MIN_SCREENED_VOXELS", 1)
    found = tune("cell", [case])
    assert found["score"] > whole["score"] - 0.03
    assert 0 < 2 * len(tried["estimate"]) < len(tried["screen"])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [3, 25])
def test_a_killed_search_resumes_from_its_results(tmp_path, monkeypatch, after):
    cases = [cells(seed, shape=(20, 20, 20)) for seed in (1, 2)]
    rules, path = RULES["2026-07"], tmp_path / "results.jsonl"
    uninterrupted = tuning.tune(Search("cell", rules, 1), cases, budget=10)
    evaluated = []
    for evaluator in (Scorer, Estimator):

        def counted(self, settings, i, case_result=evaluator._case_result):
            if len(evaluated) == after:
                raise Killed
            evaluated.append((self._name, *settings.items(), i))
            return case_result(self, settings, i)

        monkeypatch.setattr(evaluator, "_case_result", counted)
    with pytest.raises(Killed):
        tuning.tune(Search("cell", rules, 1, CaseResults(path)), cases, budget=10)
    # The process was killed while it wrote a line.
    with path.open("a") as file:
        file.write('["score", {"method": "wat')
    before, after = evaluated.copy(), -1
    found = tuning.tune(Search("cell", rules, 1, CaseResults(path)), cases, budget=10)
    assert found == uninterrupted
    assert len(set(evaluated)) == len(evaluated) > len(before)


def test_results_of_other_cases_are_not_taken():
    case = cells(1, shape=(12, 12, 12))
    same = cells(1, shape=(12, 12, 12))
    changed = cells(1, shape=(12, 12, 12))
    changed.channels["cell"][3, 4, 5] ^= 1
    partly_known = replace(case, known=np.ones(case.truth.shape, bool))
    other_tests = replace(case, test_scales=[DistanceScale(1.0, VOXELS)])
    found = [fingerprint_of_cases([c]) for c in (case, changed, partly_known, other_tests)]
    assert len(set(found)) == 4 and fingerprint_of_cases([same]) == found[0]


def test_without_a_boundary_objects_are_separated_by_distance():
    truth = spheres((28, 28, 50), (14, 14, 13, 9), (14, 14, 29, 9), (6, 6, 43, 4))
    channels = {"mito": predicted(truth, "mito")["mito"]}
    result = tune("mito", [loaded(channels, truth, None, VOXELS)])
    assert result["settings"]["method"] == "watershed_distance"
    assert result["score"] > 0.97 > 0.9 > result["score_at_half"]


@pytest.mark.parametrize("kind", ["distance", "affinities"])
def test_other_auxiliary_channels_replace_a_boundary(kind):
    case = cells(1, shape=(24, 24, 24))
    made = all_predicted(case.truth, "cell", noise=0.15)
    channels = {"cell": case.channels["cell"]}
    channels |= {f"cell{suffix}": made[f"cell{suffix}"] for suffix in AUXILIARY_SUFFIXES[kind]}
    result = tune("cell", [loaded(channels, case.truth, None, VOXELS)], budget=9)
    assert METHODS[result["settings"]["method"]].auxiliary == kind
    assert result["score"] > 0.8 > result["score_at_half"]


def test_a_crop_that_would_be_skipped_counts_as_missed():
    truth = np.zeros((30, 30, 30), np.uint8)
    truth[2:8, 2:8, 2:8] = 1
    specks = np.zeros(truth.shape, np.uint8)
    specks[10::2, 10::2, 10::2] = 130
    specks[truth > 0] = 100
    case = loaded({"ves": specks}, truth, None, VOXELS)
    components = segment("ves", case.channels, VOXELS, {"min_size_nm3": 0})
    skipped = score_instance(components, truth, VOXELS, RULES["2026-06-30"])
    assert skipped["status"] == "skipped_too_many_instances"
    result = tune("ves", [case])
    assert result["score_at_half"] == 0
    assert result["score"] == 1 and result["counts"]["tp"] == 1


def test_an_empty_ground_truth_keeps_the_defaults():
    case = loaded(
        {"mito": np.full((6, 6, 6), 90, np.uint8)}, np.zeros((6, 6, 6), np.uint8), None, VOXELS
    )
    result = tune("mito", [case])
    assert result["settings"] == complete("mito", {}, [])
    assert result["score"] == 1


def test_nothing_to_tune_on():
    with pytest.raises(InputError, match="no validation crop"):
        tune("mito", [])
    case = loaded({"er": np.zeros((2, 2, 2), np.uint8)}, np.ones((2, 2, 2)), None, VOXELS)
    with pytest.raises(InputError, match="no prediction"):
        tune("mito", [case])


def test_estimates_count_like_the_scorer():
    case = cells(1)
    settings = defaults("watershed_boundary") | {"min_size_nm3": 2e4, "merge_small": False}
    fragments = find_fragments("cell", case.channels, VOXELS, settings)
    overlap = Overlap.of(fragments.labels, case.truth, None)
    rules = RULES["2026-06-30"]
    scores = rules.estimate_matches(case.test_scales)
    guess = MatchEstimator(overlap.merged(merge_fragments(fragments, settings)), scores).estimate(
        size_in_voxels(2e4, VOXELS)
    )
    labels = segment("cell", case.channels, VOXELS, settings)
    real = score_instance(labels, case.truth, VOXELS, rules)
    for name in ("tp", "fp", "fn"):
        assert abs(getattr(guess, name) - real[name]) <= 1
    perfect = Overlap.of(case.truth, case.truth, None)
    counts = MatchEstimator(perfect, scores).estimate(0)
    assert rules.score(counts, instance=True) == pytest.approx(1)


def false_object_or_thin_objects(test_caps_nm=()):
    """Make a case in which a low threshold finds a false object, and a high one thin objects.

    The smallest side of the crop is 16 voxels of 32 nm, so distances are measured up to 256 nm.
    """
    truth = np.zeros((16, 40, 40), np.uint8)
    likely = np.zeros(truth.shape, np.uint8)
    for number, (y, x) in enumerate([(2, 2), (2, 20), (20, 2), (20, 20)]):
        box = np.s_[3:12, y : y + 9, x : x + 9]
        likely[box] = 150
        if number:
            truth[box] = number
            likely[7, y + 4, x + 4] = 250
    return loaded({"mito": likely}, truth, None, (32.0, 32.0, 32.0), test_caps_nm)


LOW, HIGH = ({**plain_settings("mito"), "threshold": threshold} for threshold in (0.5, 0.8))


@pytest.mark.parametrize(
    ("rules", "test_caps_nm", "best"),
    [
        # An object without a match counts 0.95 in such a small crop, …
        pytest.param("2026-06-30", (), HIGH, id="unmatched objects cost little"),
        # … and by the later rules 0, while the thin objects are nearly as far as can be.
        pytest.param("2026-07", (), LOW, id="unmatched objects cost more than wrong outlines"),
        pytest.param("2026-07", (16_000, 12_000), HIGH, id="outlines count less in large crops"),
        pytest.param("pq", (), LOW, id="thin objects do not overlap enough"),
    ],
)
def test_settings_rank_as_the_rules_and_the_test_crops_say(rules, test_caps_nm, best):
    case = false_object_or_thin_objects(test_caps_nm)
    evaluator = scorer("mito", [case], RULES[rules])
    low, high = evaluator.score([LOW, HIGH])
    assert best is (LOW if low > high else HIGH)


@pytest.mark.parametrize(
    ("rules", "tp", "score_sum"),
    [
        # A perfect match, one with an IoU of 1 / 4, and a predicted object without a match.
        ("2026-06-30", 2, 1 + (3 * JUNE_WORST + 1) / 4 + JUNE_WORST),
        ("2026-07", 2, 1 + 0.1 + 0.9 / 4),
        ("pq", 1, 1),
    ],
)
def test_estimates_follow_the_rules(rules, tp, score_sum):
    truth, made = np.zeros((2, 10, 10, 10), np.int64)
    truth[:2], truth[4:8] = 1, 2
    made[:2], made[4:5], made[9] = 1, 2, 3
    scales = [DistanceScale(cap_nm, VOXELS) for cap_nm in (800.0, 400.0)]
    scores = RULES[rules].estimate_matches(scales)
    counts = MatchEstimator(Overlap.of(made, truth, None), scores).estimate(0)
    assert (counts.tp, counts.fp, counts.fn) == (tp, 3 - tp, 2 - tp)
    assert counts.score_sum == pytest.approx(score_sum)


@pytest.mark.parametrize(("rules", "fp"), [("2026-06-30", 0), ("2026-07", 0), ("pq", 64)])
def test_estimates_of_a_crop_with_too_many_objects(rules, fp):
    truth, made = np.zeros((2, 8, 8, 8), np.int64)
    truth[0, 0, 0] = 1
    made[::2, ::2, ::2] = np.arange(1, 65).reshape(4, 4, 4)
    scores = RULES[rules].estimate_matches([DistanceScale(400.0, VOXELS)])
    guess = MatchEstimator(Overlap.of(made, truth, None), scores).estimate(0)
    assert guess == Counts(fn=1, fp=fp)
    case = loaded({"ves": np.where(made, 255, 0).astype(np.uint8)}, truth, None, VOXELS)
    evaluator = scorer("ves", [case], RULES[rules])
    assert evaluator.case_counts(plain_settings("ves"), 0) == (guess,)


def test_distances_count_with_the_mean_over_the_test_crops():
    case = false_object_or_thin_objects((1_000.0, 4_000.0, 4_000.0))
    evaluator = scorer("mito", [case], RULES["2026-07"])
    distance_nm = 4 * 32 * 3**0.5
    (score,) = evaluator.score([HIGH])
    expected = [0.1 ** (distance_nm / cap_nm) for cap_nm in (1_000, 4_000, 4_000)]
    assert score == pytest.approx(np.mean(expected) ** 0.5, rel=1e-6)
    official = RULES["2026-07"].score(evaluator.official_counts(HIGH), instance=True)
    assert official == pytest.approx(0.1 ** (distance_nm / 256 / 2), rel=1e-6)


def test_distances_are_measured_beyond_the_part_that_is_searched():
    truth, pred = np.zeros((2, 8, 8, 60), np.uint8)
    truth[2:4, 2:4, 2:50] = 1
    pred[2:4, 2:4, 2:20] = 255
    case = loaded({"mito": pred}, truth, None, VOXELS, (1_000.0,))
    (score,) = scorer("mito", [case], RULES["2026-07"]).score([LOW])
    # 30 voxels are missing; half of the shortest side are 4 voxels.
    assert score == pytest.approx(0.1 ** (30 * 8 / 1_000 / 2), rel=1e-6)


def test_real_neurites(shared):
    """Real cells with a simulated prediction of their boundary."""
    zarr = pytest.importorskip("zarr")
    root = shared / "data/flyem/flyem_medulla-1/flyem_medulla-1.zarr/recon-1/labels/groundtruth"
    truth = zarr.open(str(root / "crop6/cell/s0"), mode="r")[:64, :64, :64]
    assert inner_boundary(truth).mean() > 0.05
    channels = predicted(truth, "cell", noise=0.15)
    channels["cell"][:] = 255
    channels["cell_boundary"] = with_gaps(channels["cell_boundary"])
    result = tune("cell", [loaded(channels, truth, None, (10.0, 10.0, 10.0))], budget=9)
    assert result["settings"]["method"] == "watershed_boundary"
    assert result["score"] > 0.7 > 0.5 > result["score_at_half"]
