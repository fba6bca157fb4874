"""Scoring of whole submissions."""

import csv
import errno
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import cellmap_pipeline.scoring.archive
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.scoring.archive import Archive
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.semantic import score_semantic
from cellmap_pipeline.scoring.submission import score_submission
from cellmap_pipeline.scoring.summary import combine, write_csv
from tests.support.drawn_volumes import write_submission

# Results of the official evaluator (2026-06-30) for `write_submission` of each seed.
DRAWN = json.loads((Path(__file__).parent / "reference" / "drawn_submissions.json").read_text())
GRID = Grid((8, 8, 8), (80, 0, 40), (8, 10, 12))
MANIFEST = [CropLabel(crop, "a-1", label, GRID) for crop in (1, 2) for label in ("er", "mito")]


def write_array(path: Path, voxels: np.ndarray, grid: Grid = GRID) -> None:
    array = zarr.open(str(path), mode="w", shape=voxels.shape, dtype=voxels.dtype, chunks=(8, 8, 8))
    array[:] = voxels
    array.attrs.update(voxel_size=grid.voxel_size, translation=grid.translation, shape=grid.shape)


def zip_folder(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Ground truth of two crops; `er` has 240 voxels, `mito` two objects."""
    folder = tmp_path / "truth.zarr"
    er, mito = np.zeros((2, *GRID.shape), np.uint8)
    er[:2], mito[1:3, 1:3, 1:3], mito[5:7, 5:9, 5:9] = 1, 1, 2
    for crop in ("crop1", "crop2"):
        zarr.open_group(str(folder / crop), mode="w")
        write_array(folder / crop / "er", er)
        write_array(folder / crop / "mito", mito)
    return folder


def test_semantic_counts() -> None:
    pred, truth = np.zeros((2, 4, 4, 4))
    pred[:2], truth[1:] = 0.2, 7
    pred[0, 0, 0] = np.nan
    assert score_semantic(pred, truth, RULES["2026-06-30"]) == {
        "tp": 16,
        "fp": 15,
        "fn": 32,
        "status": "scored",
    }
    with pytest.raises(ValueError, match="differ in shape"):
        score_semantic(pred, truth[:3], RULES["2026-06-30"])


def test_equals_the_official_evaluator_on_the_golden_submission(shared: Path) -> None:
    golden = shared / "golden" / "submission"
    manifest = read_manifest(golden / "test_crop_manifest.csv")
    scores = score_submission(
        golden / "submission.zip", golden / "truth.zarr", manifest, rules="2026-06-30"
    )
    expected = json.loads((golden / "expected.json").read_text())
    assert scores.pop("overall_semantic_score_without_masks") == pytest.approx(
        0.45860897550509566 / 3, rel=0, abs=1e-9
    )
    assert scores.pop("overall_score_without_masks") == pytest.approx(
        (0.6117702153570944 * 0.45860897550509566 / 3) ** 0.5, rel=0, abs=1e-9
    )
    assert scores.pop("rules") == "2026-06-30"
    assert_same(json.loads(json.dumps(scores)), expected)


@pytest.mark.parametrize("seed", range(len(DRAWN)))
def test_equals_the_official_evaluator_on_drawn_submissions(seed: int, tmp_path: Path) -> None:
    rows = write_submission(seed, tmp_path)
    zipped = zip_folder(tmp_path / "s.zarr", tmp_path / "s.zip", "s.zarr/" if seed % 2 else "")
    for submission in (tmp_path / "s.zarr", zipped):
        scores = score_submission(submission, tmp_path / "truth.zarr", rows, rules="2026-06-30")
        for name in list(scores):
            if name.endswith("_without_masks"):
                assert scores.pop(name) >= scores[name.removesuffix("_without_masks")]
        assert scores.pop("rules") == "2026-06-30"
        assert_same(json.loads(json.dumps(scores)), DRAWN[seed])


def assert_same(value: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert sorted(value) == sorted(expected), where
        for key in expected:
            assert_same(value[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=0, abs=1e-9), where
    else:
        assert value == expected, where


def test_perfect_submission_as_folder_and_zip_and_in_parallel(truth: Path, tmp_path: Path) -> None:
    scores = score_submission(truth, truth, MANIFEST)
    assert scores["overall_score"] == 1
    assert scores["num_evals_done"] == scores["total_evals"] == 4
    zipped = zip_folder(truth, tmp_path / "s.zip")
    assert score_submission(zipped, truth, MANIFEST) == scores
    assert score_submission(zipped, truth, MANIFEST, workers=2) == scores
    inside_a_folder = zip_folder(truth, tmp_path / "n.zip", "some/submission.zarr/")
    assert score_submission(inside_a_folder, truth, MANIFEST) == scores
    shutil.copytree(truth / "crop1", tmp_path / "bare" / "1")
    shutil.copytree(truth / "crop2", tmp_path / "bare" / "2")
    assert score_submission(tmp_path / "bare", truth, MANIFEST) == scores


def test_missing_labels_and_crops_get_the_worst_score(truth: Path, tmp_path: Path) -> None:
    submission = tmp_path / "s.zarr"
    shutil.copytree(truth / "crop1", submission / "crop1")
    shutil.rmtree(submission / "crop1" / "mito")
    scores = score_submission(submission, truth, MANIFEST)
    assert scores["crop1"]["mito"] == {
        "tp": 0, "fp": 0, "fn": 2, "hausdorff_norm_sum": 0.0, "n_hausdorff": 2,
        "num_voxels": 960, "voxel_size": [8, 8, 8], "is_missing": True, "status": "missing",
    }  # fmt: skip
    assert scores["crop2"]["er"]["fn"] == 960
    assert scores["label_scores"]["er"] == {"iou": 240 / (240 + 960), "tp": 240, "fp": 0, "fn": 960}
    assert scores["overall_instance_score"] == scores["overall_score"] == 0


def test_group_in_place_of_an_array_counts_as_missing(truth: Path, tmp_path: Path) -> None:
    submission = shutil.copytree(truth, tmp_path / "s.zarr")
    (submission / "crop1" / "er").rename(tmp_path / "er")
    zarr.open_group(str(submission / "crop1" / "er"), mode="w")
    (tmp_path / "er").rename(submission / "crop1" / "er" / "s0")
    assert score_submission(submission, truth, MANIFEST)["crop1"]["er"]["is_missing"]


def test_mask_is_applied_and_counted_as_a_class(truth: Path, tmp_path: Path) -> None:
    submission = shutil.copytree(truth, tmp_path / "s.zarr")
    wrong = np.zeros(GRID.shape, np.uint8)
    wrong[:2, :5], wrong[4:] = 1, 1
    write_array(submission / "crop1" / "er", wrong)
    mask = np.zeros(GRID.shape, np.uint8)
    mask[:4] = 1
    write_array(truth / "crop1" / "er_mask", mask)
    scores = score_submission(submission, truth, MANIFEST)
    assert [scores["crop1"]["er"][k] for k in ("tp", "fp", "fn")] == [120, 0, 120]
    assert scores["crop1"]["er_mask"]["fn"] == 960
    er = (120 + 240) / (240 + 240)
    assert scores["overall_semantic_score"] == pytest.approx(er / 2)
    assert scores["overall_semantic_score_without_masks"] == pytest.approx(er)
    assert scores["overall_score_without_masks"] == pytest.approx(er**0.5)


def test_prediction_on_another_grid_is_placed(truth: Path, tmp_path: Path) -> None:
    submission = shutil.copytree(truth, tmp_path / "s.zarr")
    mito = zarr.open(str(truth / "crop1" / "mito"))[:]
    moved = Grid(GRID.voxel_size, (80 + 8, 0, 40), (7, 10, 12))
    write_array(submission / "crop1" / "mito", mito[1:], moved)
    assert score_submission(submission, truth, MANIFEST)["overall_score"] == 1


def test_scores_without_collisions(truth: Path, tmp_path: Path) -> None:
    submission = shutil.copytree(truth, tmp_path / "s.zarr")
    mito = zarr.open(str(truth / "crop1" / "mito"))[:]
    # The stray voxel is component 1 and the first object component 2, so the first true object is
    # measured against both.
    mito[0, 8, 0] = 9
    write_array(submission / "crop1" / "mito", mito)
    shutil.rmtree(submission / "crop2" / "mito")
    plain = score_submission(submission, truth, MANIFEST, rules="2026-06-30")
    scores = score_submission(
        submission, truth, MANIFEST, without_collisions=True, rules="2026-06-30"
    )
    extra = {name for name in scores if name not in plain}
    assert extra == {
        "overall_instance_score_without_collisions", "overall_score_without_collisions",
        "overall_score_without_masks_or_collisions",
    }  # fmt: skip
    for name in plain.keys() - {"crop1", "crop2", "label_scores"}:
        assert scores[name] == plain[name]
    official, alone = scores["crop1"]["mito"], "hausdorff_norm_sum_without_collisions"
    assert official[alone] > official["hausdorff_norm_sum"]
    assert scores["crop2"]["mito"][alone] == 0
    mito_score = scores["label_scores"]["mito"]
    assert mito_score["combined_score_without_collisions"] > mito_score["combined_score"]
    assert scores["overall_score_without_collisions"] > scores["overall_score"]
    write_csv(scores, tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = {(row["crop"], row["label"]): row for row in csv.DictReader(file)}
    value = float(rows["all", "mito"]["combined_score_without_collisions"])
    assert value == mito_score["combined_score_without_collisions"]
    assert rows["crop1", "er"]["combined_score_without_collisions"] == ""
    value = float(rows["crop1", "mito"]["combined_score_without_collisions"])
    assert value == pytest.approx((0.8 * official[alone] / 3) ** 0.5)


def test_large_labels_are_scored_alone(truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tasks one at a time if two of them exceed the memory."""
    scores = score_submission(truth, truth, MANIFEST)
    assert score_submission(truth, truth, MANIFEST, workers=3, memory_gb=1e-6) == scores


def test_empty_prediction_of_empty_ground_truth_is_perfect() -> None:
    semantic = {"tp": 0, "fp": 0, "fn": 0}
    instance = semantic | {"hausdorff_norm_sum": 0.0, "n_hausdorff": 0}
    scores = combine({"crop1": {"er": semantic, "mito": instance}}, RULES["2026-06-30"])
    assert scores["label_scores"]["er"]["iou"] == 1
    assert scores["label_scores"]["mito"]["combined_score"] == 1
    assert combine({"crop1": {"er": semantic}}, RULES["2026-06-30"])["overall_score"] == 0


def test_counts_are_pooled_over_crops() -> None:
    def instance(tp: int, fp: int, fn: int, total: float, n: int) -> dict[str, Any]:
        return {"tp": tp, "fp": fp, "fn": fn, "hausdorff_norm_sum": total, "n_hausdorff": n}

    scores = combine(
        {
            "crop1": {"mito": instance(3, 1, 0, 3.5, 4)},
            "crop2": {"mito": instance(1, 0, 4, 1.0, 5)},
        },
        RULES["2026-06-30"],
    )
    mito = scores["label_scores"]["mito"]
    assert mito["f1"] == pytest.approx(8 / 13)
    assert mito["normalized_hausdorff_distance"] == pytest.approx(0.5)
    assert mito["combined_score"] == pytest.approx((8 / 13 * 0.5) ** 0.5)


def test_csv(truth: Path, tmp_path: Path) -> None:
    write_csv(score_submission(truth, truth, MANIFEST), tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["crop"], row["label"]) for row in rows[:6]] == [
        ("crop1", "er"), ("crop1", "mito"), ("crop2", "er"), ("crop2", "mito"),
        ("all", "er"), ("all", "mito"),
    ]  # fmt: skip
    assert {row["score"] for row in rows} == {"1.0"}
    assert rows[1]["n_hausdorff"] == "2"
    assert rows[0]["f1"] == ""
    assert "overall_score_without_masks" in {row["label"] for row in rows[6:]}


def test_error_messages(truth: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.zip is neither a zip nor a folder"):
        score_submission(tmp_path / "nothing.zip", truth, MANIFEST)
    shutil.copytree(truth / "crop1", tmp_path / "other" / "crop9")
    with pytest.raises(InputError, match="no crop in common"):
        score_submission(tmp_path / "other", truth, MANIFEST)
    submission = shutil.copytree(truth, tmp_path / "s.zarr")
    (submission / "crop2" / "mito" / "0.0.0").write_bytes(b"broken")
    with pytest.raises(InputError, match="crop2/mito cannot be read"):
        score_submission(submission, truth, MANIFEST)
    with pytest.raises(InputError, match="crop2/mito cannot be read"):
        score_submission(submission, truth, MANIFEST, workers=2)
    (submission / "crop2" / "mito" / ".zarray").write_text("{}")
    with pytest.raises(InputError, match="crop2/mito has broken zarr 2 metadata"):
        score_submission(submission, truth, MANIFEST)
    (truth / "crop1" / "er" / "1.0.0").unlink(missing_ok=True)
    (truth / "crop1" / "er" / "0.0.0").write_bytes(b"broken")
    with pytest.raises(InputError, match="crop1/er cannot be read"):
        score_submission(truth, truth, MANIFEST)


def test_ground_truth_must_match_the_manifest(truth: Path) -> None:
    other = [CropLabel(1, "a-1", "er", Grid((8, 8, 8), (80, 0, 40), (8, 10, 11)))]
    with pytest.raises(InputError, match=r"crop1/er has the shape \[8, 10, 12\]"):
        score_submission(truth, truth, other)


def as_multiscale(label: Path) -> None:
    """Move an array into a group, as its level s0."""
    level = label.with_name("s0")
    label.rename(level)
    zarr.open_group(str(label), mode="w")
    level.rename(label / "s0")


def test_ground_truth_of_groups_alone_is_refused(truth: Path, tmp_path: Path) -> None:
    submission = zip_folder(truth, tmp_path / "s.zip")
    for crop in ("crop1", "crop2"):
        for label in ("er", "mito"):
            as_multiscale(truth / crop / label)
    groups = "crop1/er, crop1/mito, crop2/er are groups"
    message = rf"truth.zarr has no zarr 2 array .* \({groups}\): put .* s0"
    with pytest.raises(InputError, match=message):
        score_submission(submission, truth, MANIFEST)


def test_groups_in_the_ground_truth_are_left_out_with_a_warning(
    truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    submission = zip_folder(truth, tmp_path / "s.zip")
    as_multiscale(truth / "crop1/er")
    scores = score_submission(submission, truth, MANIFEST)
    assert list(scores["crop1"]) == ["mito"] and list(scores["crop2"]) == ["er", "mito"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{truth}: 1 labels are groups, not arrays, and are not scored, as by the evaluator: "
        "crop1/er"
    ]


@pytest.mark.parametrize("crops", [["crop2"], ["crop1", "crop2"]])
def test_skipped_crops_are_reported_and_have_no_scores(
    truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, crops: list[str]
) -> None:
    """Of 2 objects, more than 87 are too many."""
    submission = shutil.copytree(truth, tmp_path / "s.zarr")
    specks = np.zeros(GRID.shape, np.uint8)
    specks.ravel()[::7][:100] = np.arange(1, 101)
    for crop in crops:
        write_array(submission / crop / "mito", specks)
    scores = score_submission(submission, truth, MANIFEST)
    assert scores["label_scores"]["mito"]["combined_score"] == 1
    alone = "; the class scores 1 without any other crop, as by the evaluator"
    status = scores["crop2"]["mito"]["status"].replace("_", " ")
    assert [record.getMessage() for record in caplog.records] == [
        f"mito: {', '.join(crops)} counts for nothing ({status})" + alone * (len(crops) == 2)
    ]
    write_csv(scores, tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = {(row["crop"], row["label"]): row for row in csv.DictReader(file)}
    for crop in ("crop1", "crop2"):
        row = rows[crop, "mito"]
        names = ("score", "combined_score", "f1")
        assert [row[name] for name in names] == ([""] if crop in crops else ["1.0"]) * 3
        assert rows[crop, "er"]["score"] == "1.0"


def test_several_zarr_folders(truth: Path, tmp_path: Path) -> None:
    path = zip_folder(truth, tmp_path / "s.zip", "a.zarr/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.zarr/.zgroup", "{}")
    with pytest.raises(InputError, match="several zarr folders"):
        score_submission(path, truth, MANIFEST)


def test_rules_of_july_2026_count_unmatched_objects_as_zero(truth: Path, tmp_path: Path) -> None:
    array = zarr.open(str(truth / "crop2/mito"), mode="r+")
    submission = zip_folder(truth, tmp_path / "s.zip")
    array[5:7, 5:9, 5:9] = 0  # One object of the submission then has no match.
    scores = score_submission(submission, truth, MANIFEST, rules="2026-07", without_collisions=True)
    assert scores["rules"] == "2026-07"
    mito = scores["crop2"]["mito"]
    assert (mito["tp"], mito["fp"], mito["fn"], mito["n_hausdorff"]) == (1, 1, 0, 2)
    assert mito["hausdorff_norm_sum"] == 1
    # These rules let no ids collide.
    assert not [name for name in scores if "collisions" in name]
    assert score_submission(submission, truth, MANIFEST)["rules"] == "2026-07"
    before = score_submission(submission, truth, MANIFEST, rules="2026-06-30")
    assert before["crop2"]["mito"]["hausdorff_norm_sum"] > 1


def test_panoptic_quality(truth: Path, tmp_path: Path) -> None:
    array = zarr.open(str(truth / "crop2/mito"), mode="r+")
    submission = zip_folder(truth, tmp_path / "s.zip")
    array[5:7, 5:9, 5:9] = 0  # One object of the submission then has no match.
    scores = score_submission(submission, truth, MANIFEST, rules="pq", without_collisions=True)
    assert scores["crop2"]["mito"]["sum_iou"] == scores["crop2"]["mito"]["tp"] == 1
    assert scores["label_scores"]["mito"] == {
        "sq": 1, "rq": pytest.approx(3 / 3.5), "pq": pytest.approx(3 / 3.5), "tp": 3, "fp": 1,
        "fn": 0,
    }  # fmt: skip
    # A semantic label is one object in each crop.
    assert scores["label_scores"]["er"] == {"sq": 1, "rq": 1, "pq": 1, "tp": 2, "fp": 0, "fn": 0}
    assert scores["overall_score"] == pytest.approx((1 + 3 / 3.5) / 2)
    write_csv(scores, tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["rules"] for row in rows} == {"pq"}
    assert "f1" not in rows[0] and "iou" not in rows[0]


def test_chunks_named_otherwise_than_stated_are_refused(truth: Path, tmp_path: Path) -> None:
    submission = zip_folder(truth, tmp_path / "s.zip")
    metadata = truth / "crop1/er/.zarray"
    stated = json.loads(metadata.read_text()) | {"dimension_separator": "/"}
    metadata.write_text(json.dumps(stated))
    wrong = zip_folder(truth, tmp_path / "wrong.zip")
    message = (
        r"er has no chunk named as .zarray says \(dimension_separator '/'\), but has '0.\d.\d'"
    )
    with pytest.raises(InputError, match=message):
        score_submission(submission, truth, MANIFEST)
    metadata.write_text(json.dumps(stated | {"dimension_separator": "."}))
    with pytest.raises(InputError, match=message):
        score_submission(wrong, truth, MANIFEST)


def test_labels_without_chunks_are_reported(
    truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    submission = zip_folder(truth, tmp_path / "s.zip")
    for chunk in (truth / "crop2/er").glob("*.*.*"):
        chunk.unlink()
    scores = score_submission(submission, truth, MANIFEST)
    assert scores["crop2"]["er"]["fp"] == 240
    assert [record.getMessage() for record in caplog.records] == [
        f"{truth}: crop2/er has no chunks and is scored as empty"
    ]


def test_ground_truth_on_a_disk_that_fails_is_not_called_broken(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive.open(truth)
    array = archive.array("crop1", "mito")

    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(cellmap_pipeline.scoring.archive, "open", fail, raising=False)
    for read in (lambda: array[:1], lambda: archive.array("crop1", "er")):
        with pytest.raises(UnavailableError, match="crop1/.* cannot be read now .Stale file"):
            read()
