import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cellmap_pipeline.validation.validate as validation
from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.geometry import Grid, central_box
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.plan.validation import PredictionPattern, ValidationTask
from cellmap_pipeline.prediction import validation as prediction_of_validation
from cellmap_pipeline.prediction.validation import predict_validation
from cellmap_pipeline.scoring.rules.base import Counts, DistanceScale
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.segmentation.probabilities import Probabilities
from cellmap_pipeline.validation.cases import ValidationCase
from cellmap_pipeline.validation.validate import validate
from tests.support.networks import tiny_task
from tests.support.simulated import predicted, spheres

JUNE = RULES["2026-06-30"]

GRID = Grid((8, 8, 8), (0, 0, 0), (40, 40, 40))
TRAINING = "t"
PATH = "{dataset}/crop{crop}/{label}"


class Bright(torch.nn.Module):
    """Stands for a trained network: bright voxels are inside, and there are no boundaries."""

    def forward(self, normalized):
        inside = normalized * 4
        return torch.cat([inside, inside - 100, inside], dim=1)


@pytest.fixture
def task():
    made = tiny_task()
    made.network = Bright()
    return made


def stored(path, values, grid=GRID):
    path.parent.mkdir(parents=True, exist_ok=True)
    create(path, grid, values.dtype.name).write(values).result()


@pytest.fixture
def datasplit(tmp_path):
    """Two objects, bright in the raw, labeled as several classes."""
    ids = np.zeros(GRID.shape, np.uint8)
    ids[5:15, 5:30, 5:30] = 1
    ids[22:35, 5:30, 5:30] = 2
    raw = np.where(ids > 0, 200, 60).astype(np.uint8)
    raw[ids == 0] += np.random.default_rng(0).integers(0, 60, np.sum(ids == 0)).astype(np.uint8)
    stored(tmp_path / "raw", raw)
    labels = tmp_path / "a.zarr/crop1"
    stored(labels / "mito", ids)
    stored(labels / "pm", (ids > 0).astype(np.uint8))
    stored(labels / "all", (ids > 0).astype(np.uint8))
    rows = "".join(f"{use},{tmp_path}/raw,{labels}\n" for use in ("train", "validate"))
    (tmp_path / "datasplit.csv").write_text(rows)
    return tmp_path / "datasplit.csv"


def tasks_for(folder, *labels, sizes=(), trainings=(TRAINING,), **parts):
    return {
        label: [task_for((folder,), sizes, trainings, parts.get(label, []))] for label in labels
    }


def task_for(folders, sizes=(), trainings=(TRAINING,), parts=()):
    sources = [PredictionPattern([f"{folder}/{PATH}"], list(parts)) for folder in folders]
    return ValidationTask(list(sizes), [[] for _ in sizes], sources, list(trainings))


def test_crops_are_predicted_tuned_and_scored(task, datasplit, tmp_path):
    predictions = tmp_path / "predictions"
    predict_validation([task], datasplit, Inference(), {"all": ["mito", "pm"]}, predictions)
    channels = Probabilities("mito", GRID, [[predictions / "a/crop1/mito"]]).read()
    assert set(channels) == {"mito", "mito_boundary"}
    mito, _ = LabelVolume.open(tmp_path / "a.zarr/crop1/mito").read(GRID)
    assert np.array_equal(channels["mito"] > 127, mito > 0)
    tasks = tasks_for(predictions, "mito", "pm", "all", "er", all=["pm"])
    scores, found = validate(
        tasks, {TRAINING: [datasplit]}, (8, 8, 8), everywhere=False, rules=JUNE
    )
    assert list(scores["classes"]) == ["mito", "pm", "all"]
    for value in scores["classes"].values():
        assert value["score"] == pytest.approx(1)
    assert scores["classes"]["all"]["parts"] == ["pm"]
    (size,) = scores["classes"]["mito"]["voxel_sizes"]
    assert size["crops"] == ["a/crop1"]
    assert size["voxel_size"] == size["measured_at"] == [8, 8, 8]
    assert scores["overall_score"] == pytest.approx(1)
    assert found["mito"][0]["settings"]["threshold"]
    assert size["by_crop"] == {"a/crop1": size["counts"]}
    assert size["cross_fitted_score"] is None is scores["classes"]["mito"]["cross_fitted_score"]
    assert size["auxiliary"] == ["boundary"]
    assert json.loads(json.dumps(scores)) == scores


@pytest.mark.parametrize("folder", ["a.zarr/val_07", "a.zarr/gt", "exp/val_07"])
def test_crops_in_folders_of_any_name_are_predicted_and_scored(task, datasplit, tmp_path, folder):
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "a.zarr/crop1").rename(tmp_path / folder)
    datasplit.write_text(datasplit.read_text().replace("a.zarr/crop1", folder))
    predictions = tmp_path / "predictions"
    predict_validation([task], datasplit, Inference(), {}, predictions)
    tasks = tasks_for(predictions, "pm")
    scores, _ = validate(tasks, {TRAINING: [datasplit]}, (8, 8, 8), everywhere=False, rules=JUNE)
    assert scores["classes"]["pm"]["score"] == pytest.approx(1)


def test_a_killed_validation_resumes(task, datasplit, tmp_path, monkeypatch):
    predictions, state = tmp_path / "predictions", tmp_path / "state"
    predict_validation([task], datasplit, Inference(), {}, predictions)
    arguments = (
        tasks_for(predictions, "mito", "pm"), {TRAINING: [datasplit]}, (8, 8, 8), False, JUNE
    )  # fmt: skip
    expected = validate(*arguments)
    state.mkdir()
    tune, tuned = validation.tune, []

    def counted(search, *rest):
        if search.label == "pm" and tuned == ["mito"]:
            tuned.append("killed")
            raise KeyboardInterrupt
        tuned.append(search.label)
        return tune(search, *rest)

    monkeypatch.setattr(validation, "tune", counted)
    with pytest.raises(KeyboardInterrupt):
        validate(*arguments, state=state)
    assert validate(*arguments, state=state) == expected
    assert tuned == ["mito", "killed", "pm"]


def test_a_score_for_each_voxel_size(tmp_path, datasplit):
    """The prediction at 8 nm agrees only with the ground truth at 8 nm."""
    fine = Grid((4, 4, 4), (-2, -2, -2), (80, 80, 80))
    truth = np.zeros(fine.shape, np.uint8)
    truth[::2] = 1  # planes of 4 nm that the prediction does not resolve
    folder = tmp_path / "a.zarr/crop1/pm"
    create(folder, fine, "uint8").write(truth).result()
    attributes = json.loads((folder / ".zattrs").read_text())
    coarse = create(folder / "s1", GRID, "uint8")
    coarse.write(np.ones(GRID.shape, np.uint8)).result()
    for name in (".zattrs", ".zgroup"):
        (folder / "s1" / name).unlink()
    for path in (folder / "s1/s0").iterdir():
        path.rename(folder / "s1" / path.name)
    (folder / "s1/s0").rmdir()
    attributes["multiscales"][0]["datasets"].append({
        "path": "s1",
        "coordinateTransformations": [
            {"type": "scale", "scale": [8, 8, 8]}, {"type": "translation", "translation": [0, 0, 0]}
        ],
    })  # fmt: skip
    (folder / ".zattrs").write_text(json.dumps(attributes))
    stored(tmp_path / "p/a/crop1/pm", np.full(GRID.shape, 255, np.uint8))
    tasks = tasks_for(tmp_path / "p", "pm", sizes=[[3.48, 4, 4], [8, 8, 8]])
    scores, found = validate(tasks, {TRAINING: [datasplit]}, None, everywhere=False, rules=JUNE)
    by_size = scores["classes"]["pm"]["voxel_sizes"]
    assert [entry["measured_at"] for entry in by_size] == [[4, 4, 4], [8, 8, 8]]
    assert [entry["score"] for entry in by_size] == [pytest.approx(0.5, abs=0.01), 1]
    assert scores["classes"]["pm"]["score"] == pytest.approx(0.75, abs=0.01)
    assert [entry["voxel_size"] for entry in found["pm"]] == [[3.48, 4, 4], [8, 8, 8]]


def test_crops_that_validate_in_all_or_any_trainings(tmp_path, datasplit):
    labels = tmp_path / "a.zarr"
    for number in (2, 3):
        stored(labels / f"crop{number}/pm", np.ones(GRID.shape, np.uint8))
        stored(tmp_path / f"p/a/crop{number}/pm", np.full(GRID.shape, 255, np.uint8))
    stored(tmp_path / "p/a/crop1/pm", np.full(GRID.shape, 255, np.uint8))
    splits = {}
    for name, validating in (("a", (1, 2)), ("b", (2, 3)), ("other", (4,))):
        (path,) = splits[name] = [tmp_path / f"{name}.csv"]
        rows = [f"validate,{tmp_path}/raw,{labels}/crop{n}\n" for n in validating]
        path.write_text("".join([*rows, f"train,{tmp_path}/raw,{labels}/crop9\n"]))
    tasks = tasks_for(tmp_path / "p", "pm", trainings="ab")
    for everywhere, crops in ((True, ["a/crop2"]), (False, ["a/crop2", "a/crop3", "a/crop1"])):
        scores, _ = validate(tasks, splits, (8, 8, 8), everywhere, JUNE)
        assert scores["classes"]["pm"]["voxel_sizes"][0]["crops"] == crops


def test_all_crops_of_a_training_with_folds_validate(tmp_path, datasplit):
    labels = tmp_path / "a.zarr"
    splits, tasks = [], {}
    for fold, number in enumerate((2, 3)):
        stored(labels / f"crop{number}/pm", np.ones(GRID.shape, np.uint8))
        stored(tmp_path / f"fold{fold}/a/crop{number}/pm", np.full(GRID.shape, 255, np.uint8))
        splits.append(tmp_path / f"fold{fold}.csv")
        rows = [
            f"{('train', 'validate')[n == number]},{tmp_path}/raw,{labels}/crop{n}\n"
            for n in (2, 3)
        ]
        splits[-1].write_text("".join(rows))
    paths = [f"{tmp_path}/fold{fold}/{PATH}" for fold in (0, 1)]
    tasks["pm"] = [ValidationTask([], [], [PredictionPattern(paths)], [TRAINING])]
    for everywhere in (True, False):
        scores, _ = validate(tasks, {TRAINING: splits}, (8, 8, 8), everywhere, JUNE)
        (entry,) = scores["classes"]["pm"]["voxel_sizes"]
        assert entry["crops"] == ["a/crop2", "a/crop3"]


def test_the_mean_of_several_predictions_is_tuned(tmp_path, datasplit):
    pm, _ = LabelVolume.open(tmp_path / "a.zarr/crop1/pm").read(GRID)
    stored(tmp_path / "p/a/crop1/pm", np.where(pm, 200, 100).astype(np.uint8))
    stored(tmp_path / "q/a/crop1/pm", np.where(pm, 60, 60).astype(np.uint8))
    tasks = {"pm": [task_for([tmp_path / "p", tmp_path / "q"])]}
    scores, found = validate(tasks, {TRAINING: [datasplit]}, (8, 8, 8), everywhere=True, rules=JUNE)
    assert scores["classes"]["pm"]["score"] == 1
    assert 80 / 255 < found["pm"][0]["settings"]["threshold"] < 130 / 255


@pytest.mark.parametrize("order", ["pq", "qp"])
def test_a_mean_is_tuned_where_all_predictions_exist(tmp_path, datasplit, order):
    whole = np.full(GRID.shape, 255, np.uint8)
    stored(tmp_path / "p/a/crop1/pm", whole)
    part = Grid(GRID.voxel_size, GRID.translation, (40, 40, 20))
    create(tmp_path / "q/a/crop1/pm", part, "uint8").write(whole[:, :, :20]).result()
    (case,) = validation.find_cases(
        "pm", None, task_for([tmp_path / name for name in order]).sources,
        validation._validation_crops([[datasplit]], True),
    )  # fmt: skip
    assert case.grid == part


def test_different_means_at_different_voxel_sizes(tmp_path, datasplit):
    """Each mean is tuned separately: the threshold of one would leave nothing of the other."""
    pm, _ = LabelVolume.open(tmp_path / "a.zarr/crop1/pm").read(GRID)
    for name, inside in {"a": 200, "b": 240, "c": 20, "d": 30}.items():
        values = np.where(pm, inside, inside // 2).astype(np.uint8)
        stored(tmp_path / name / "a/crop1/pm", values)
    means = [([tmp_path / "a", tmp_path / "b"], 2.0), ([tmp_path / "c", tmp_path / "d"], 32.0)]
    tasks = {"pm": [task_for(folders, [[size] * 3]) for folders, size in means]}
    scores, found = validate(tasks, {TRAINING: [datasplit]}, None, everywhere=True, rules=JUNE)
    assert [entry["score"] for entry in scores["classes"]["pm"]["voxel_sizes"]] == [1, 1]
    assert [entry["voxel_size"] for entry in found["pm"]] == [[2.0] * 3, [32.0] * 3]
    fine, coarse = (entry["settings"]["threshold"] for entry in found["pm"])
    assert 110 / 255 < fine < 220 / 255
    assert 12 / 255 < coarse <= 25 / 255


@pytest.mark.parametrize("scored_voxels", [40**3, 20**3])
def test_scores_are_cross_fitted_from_four_crops_with_the_label(
    tmp_path, datasplit, monkeypatch, scored_voxels
):
    """The probability of the label differs between crops, and crop 5 lacks the label."""
    monkeypatch.setattr(validation, "MAX_SEMANTIC_VOXELS", 5 * scored_voxels)
    labels = tmp_path / "a.zarr"
    for number, low in enumerate((60, 90, 60, 90, 60), 1):
        truth = np.zeros(GRID.shape, np.uint8)
        truth[:20] = number < 5
        stored(labels / f"crop{number}/er", truth)
        stored(tmp_path / f"p/a/crop{number}/er", np.where(truth, low + 20, low).astype(np.uint8))
    rows = [f"validate,{tmp_path}/raw,{labels}/crop{n}\n" for n in (5, 3, 1, 2, 4)]
    datasplit.write_text("".join([*rows, f"train,{tmp_path}/raw,{labels}/crop9\n"]))
    scores, _ = validate(
        tasks_for(tmp_path / "p", "er"), {TRAINING: [datasplit]}, None, False, JUNE
    )
    (size,) = scores["classes"]["er"]["voxel_sizes"]
    assert list(size["by_crop"]) == size["crops"] == [f"a/crop{n}" for n in (5, 3, 1, 2, 4)]
    pooled = sum((JUNE.counts(one, instance=False) for one in size["by_crop"].values()), Counts())
    assert pooled.tp + pooled.fn == 4 * GRID.size // 2
    assert size["cross_fitted_score"] == JUNE.score(pooled, instance=False) <= size["score"]
    assert scores["classes"]["er"]["cross_fitted_score"] == size["cross_fitted_score"]


def test_parts_share_the_crops_with_the_label_evenly():
    def crop(number, occurs):
        case = SimpleNamespace(crop=f"d/crop{number}")
        case.truth = np.full(1, occurs)
        case.where_known = lambda truth: truth
        return case

    cases = [crop(n, n != 2) for n in (9, 2, 5, 1, 7)]
    assert validation._cross_fitted_parts(cases, cases) == [[3, 0], [2, 1], [4]]
    assert validation._cross_fitted_parts(cases[:4], cases[:4]) == []


def test_labels_excluded_by_a_datasplit_are_not_used(tmp_path, datasplit):
    stored(tmp_path / "p/a/crop1/pm", np.full(GRID.shape, 255, np.uint8))
    folder = tmp_path / "a.zarr/crop1"
    datasplit.write_text(
        f'validate,{tmp_path}/raw,{folder}/[mito]\ntrain,{tmp_path}/raw,"{folder}/[mito,pm]"\n'
    )
    tasks = tasks_for(tmp_path / "p", "pm")
    assert validate(tasks, {TRAINING: [datasplit]}, (8, 8, 8), False, JUNE)[0]["classes"] == {}


def test_large_crops_are_tuned_on_a_part_and_scored_on_more(tmp_path, datasplit, monkeypatch):
    truth = spheres(GRID.shape, (30, 30, 30, 8), (30, 30, 12, 8), (10, 10, 10, 3))
    stored(tmp_path / "a.zarr/crop1/mito", truth)
    for name, values in predicted(truth, "mito", noise=0.02).items():
        stored(tmp_path / f"p/a/crop1/{name}", values)
    tuned_on = []
    tune = validation.tune
    monkeypatch.setattr(
        validation, "tune", lambda search, cases, *rest: tuned_on.extend(cases) or tune(
            search, cases, *rest
        )
    )  # fmt: skip
    monkeypatch.setattr(validation, "MAX_INSTANCE_VOXELS_PER_CROP", 24**3)
    tasks = tasks_for(tmp_path / "p", "mito")
    scores, _ = validate(tasks, {TRAINING: [datasplit]}, (8, 8, 8), False, JUNE)
    (case,) = tuned_on
    assert case.truth.size <= 24**3 and case.truth.any()
    # Distances count as in the whole crop of 40 voxels of 8 nm.
    assert case.scale.cap_nm == 160 and case.test_scales == [case.scale]
    assert scores["classes"]["mito"]["voxel_sizes"][0]["counts"]["tp"] == 3
    assert scores["classes"]["mito"]["score"] > 0.95


def test_objects_at_the_end_of_a_large_crop_are_scored(tmp_path, datasplit, monkeypatch):
    truth = spheres(GRID.shape, (6, 6, 6, 5))
    stored(tmp_path / "a.zarr/crop1/mito", truth)
    for name, values in predicted(truth, "mito", noise=0.02).items():
        stored(tmp_path / f"p/a/crop1/{name}", values)
    monkeypatch.setattr(validation, "MAX_INSTANCE_VOXELS_PER_CROP", 14**3)
    monkeypatch.setattr(validation, "MAX_SCORED_VOXELS_PER_CROP", 16**3)
    tasks = tasks_for(tmp_path / "p", "mito")
    scores, settings = validate(tasks, {TRAINING: [datasplit]}, (8, 8, 8), False, JUNE)
    assert scores["classes"]["mito"]["voxel_sizes"][0]["counts"]["tp"] == 1
    assert "mito" in settings


@pytest.mark.parametrize("searched_voxels", [40**3, 36**3])
def test_distances_count_by_the_test_crops_and_by_the_validation_crop(
    tmp_path, datasplit, monkeypatch, searched_voxels
):
    truth, mito = np.zeros((2, *GRID.shape), np.uint8)
    truth[4:30, 4:30, 4:30] = 1
    mito[14:30, 4:30, 4:30] = 255
    stored(tmp_path / "a.zarr/crop1/mito", truth)
    stored(tmp_path / "p/a/crop1/mito", mito)
    monkeypatch.setattr(validation, "MAX_INSTANCE_VOXELS_PER_CROP", searched_voxels)
    task = replace(task_for([tmp_path / "p"], [[8, 8, 8]]), caps_nm=[[400.0, 1_000.0]])
    splits = {TRAINING: [datasplit]}
    scores, _ = validate({"mito": [task]}, splits, None, False, RULES["2026-07"])
    found = scores["classes"]["mito"]
    (at_size,) = found["voxel_sizes"]
    assert [at_size["counts"][name] for name in ("tp", "fp", "fn")] == [1, 0, 0]
    # The cap of the validation crop is half of 40 voxels of 8 nm.
    distance_nm = -160 * 2 * np.log10(found["official_score"])
    assert distance_nm > 16
    in_tests = [0.1 ** (distance_nm / cap_nm) for cap_nm in (400, 1_000)]
    assert found["score"] == pytest.approx(np.mean(in_tests) ** 0.5, rel=1e-6)
    assert at_size["counts"]["hausdorff_norm_sum"] == pytest.approx(np.mean(in_tests), rel=1e-6)


def test_the_densest_box(tmp_path):
    truth = np.zeros(GRID.shape, np.uint8)
    truth[35:, 35:, :10] = 1
    stored(tmp_path / "pm", truth)
    scale = DistanceScale.of(GRID.shape, GRID.voxel_size)
    whole = ValidationCase(
        "c", LabelVolume.open(tmp_path / "pm"), Probabilities("pm", GRID, []), scale, [scale]
    )
    assert whole.densest_box(40**3).grid == GRID
    assert GRID.offset(whole.densest_box(20**3).grid) == (20, 20, 0)
    assert GRID.offset(whole.central_box(20**3).grid) == (10, 10, 10)


@pytest.mark.parametrize("most", [1, 5, 100, 39**3, 40**3])
def test_the_central_box_has_up_to_max_voxels(most):
    for grid in (GRID, Grid((30, 4, 4), (0, 0, 0), (7, 90, 41))):
        part = central_box(grid, most)
        assert part.size <= most or part.size == 1
        assert part.size > most / 4 or part == grid
        assert grid.covers(part)


def test_the_central_box_of_large_crops_is_predicted(task, datasplit, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_of_validation, "MAX_PREDICTED_VOXELS", 20**3)
    predict_validation([task], datasplit, Inference(), {}, tmp_path / "p")
    assert Volume.open(tmp_path / "p/a/crop1/mito").levels[0].grid.shape == (20, 20, 20)
    scores, _ = validate(
        tasks_for(tmp_path / "p", "pm"),
        {TRAINING: [datasplit]},
        (8, 8, 8),
        False,
        JUNE,
    )
    assert scores["classes"]["pm"]["score"] == pytest.approx(1)


def test_a_label_that_occurs_in_no_crop_has_no_score(tmp_path, datasplit, caplog):
    nothing = np.zeros(GRID.shape, np.uint8)
    for folder in ("a.zarr/crop1/pm", "p/a/crop1/pm"):
        stored(tmp_path / folder, nothing)
    tasks = tasks_for(tmp_path / "p", "pm")
    scores, found = validate(tasks, {TRAINING: [datasplit]}, (8, 8, 8), False, JUNE)
    assert scores["classes"] == found == {}
    assert "pm occurs in no validation crop: it is not scored" in caplog.text
