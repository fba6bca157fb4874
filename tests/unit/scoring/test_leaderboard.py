"""Leaderboard of trainings and the submission."""

import json
from pathlib import Path
from typing import Any

import pytest

from cellmap_pipeline.cli import main
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.paths import ResultPaths
from cellmap_pipeline.scoring.leaderboard import leaderboard, write_leaderboard
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.summary import combine

JUNE = RULES["2026-06-30"]


def write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def validated(**classes: float) -> dict[str, Any]:
    overall = {f"overall_{name}score": sum(classes.values()) for name in
               ("", "instance_", "semantic_")}  # fmt: skip
    return {"classes": {label: {"score": score} for label, score in classes.items()}} | overall


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Folder with the scores of two trainings and a submission."""
    write(tmp_path / "weak/validation/scores.json", validated(mito=0.2, pm=0.1))
    write(tmp_path / "strong/validation/scores.json", validated(mito=0.5))
    er = {"tp": 1, "fp": 1, "fn": 0}
    write(
        tmp_path / "scores.json",
        {"crop1": {"er": er}} | combine({"crop1": {"er": er}}, JUNE),
    )
    return tmp_path


def test_submission_comes_first_then_the_best_training(results: Path) -> None:
    table = leaderboard(*ResultPaths(results).existing_scores())
    assert list(table["name"]) == ["submission", "strong", "weak"]
    assert list(table["scored_on"]) == ["test", "validation", "validation"]
    assert list(table["classes"]) == [1, 1, 2]
    assert list(table.columns[-3:]) == ["mito", "er", "pm"]
    assert table["er"].tolist()[0] == 0.5
    assert table["mito"].tolist()[1:] == [0.5, 0.2]
    write_leaderboard(table, results / "leaderboard.csv")
    assert (results / "leaderboard.csv").read_text().splitlines() == [
        "name,scored_on,rules,classes,overall_score,overall_instance_score,overall_semantic_score,"
        "mito,er,pm",
        "submission,test,2026-06-30,1,0.0,0.0,0.5,,0.5,",
        "strong,validation,2026-06-30,1,0.5,0.5,0.5,0.5,,",
        f"weak,validation,2026-06-30,2,{0.2 + 0.1},{0.2 + 0.1},{0.2 + 0.1},0.2,,0.1",
    ]


def test_command(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(results), "--output", str(results / "l.csv")]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["strong", "validation"]
    assert (results / "l.csv").is_file()


def test_command_makes_the_folder_of_the_table(results: Path) -> None:
    assert main(["leaderboard", str(results), "--output", str(results / "new/l.csv")]) == 0
    assert (results / "new/l.csv").is_file()


def test_trainings_of_one_kind_of_classes_are_ordered_by_its_mean(tmp_path: Path) -> None:
    """Their overall score is 0."""
    for name, instance, semantic in (("a", 0.1, 0), ("b", 0.9, 0), ("c", 0, 0.2), ("d", 0, 0.3)):
        means = {"overall_instance_score": instance, "overall_semantic_score": semantic}
        scores = validated(mito=instance) if instance else validated(pm=semantic)
        scores |= means | {"overall_score": 0.0}
        write(tmp_path / name / "validation/scores.json", scores)
    table = leaderboard(*ResultPaths(tmp_path).existing_scores())
    assert list(table["name"]) == ["b", "a", "d", "c"]


def test_scores_by_different_rules_are_never_mixed(results, caplog) -> None:
    of_july = validated(mito=0.9) | {"rules": "2026-07"}
    write(results / "later/validation/scores.json", of_july)
    found = ResultPaths(results).existing_scores()
    with pytest.raises(InputError, match=r"2026-06-30 and 2026-07, .* choose one by --rules"):
        leaderboard(*found)
    assert list(leaderboard(*found, rules="2026-07")["name"]) == ["later"]
    assert "strong is left out: it was scored by the rules of 2026-06-30" in caplog.text
    assert list(leaderboard(*found, rules="2026-06-30")["name"]) == ["submission", "strong", "weak"]


def test_rules_that_no_scores_follow_are_refused(results: Path, capsys) -> None:
    arguments = ["leaderboard", str(results), "--output", str(results / "l.csv"), "--rules"]
    assert main([*arguments, "pq"]) == 1
    message = "no scores follow the rules of pq, only those of 2026-06-30: choose these by --rules"
    assert message in capsys.readouterr().err
    assert main([*arguments, "2026-6-30"]) == 1
    assert "is not a set of scoring rules (did you mean '2026-06-30'?)" in capsys.readouterr().err
    assert not (results / "l.csv").exists()


def test_missing_and_broken_scores(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no scores"):
        leaderboard(*ResultPaths(tmp_path).existing_scores())
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(InputError, match=r"scores\.json is not JSON"):
        leaderboard(*ResultPaths(tmp_path).existing_scores())
