"""Scores by the official code: with a stand-in for the toolbox, and with the toolbox."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cellmap_pipeline.cli import main
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.submission import official_toolbox
from cellmap_pipeline.submission.official_scorer import score_officially
from cellmap_pipeline.submission.official_toolbox import TOOLBOX
from cellmap_pipeline.submission.package import package
from tests.support.drawn_volumes import write_array

GRID = Grid((8, 8, 8), (16, 0, 24), (12, 14, 16))
MANIFEST = [CropLabel(1, "a-1", label, GRID) for label in ("er", "mito")]

CROPS = """
from types import SimpleNamespace
class TestCropRow:
    @staticmethod
    def from_csv_row(row):
        id, _, label, *grid = row.split(",")
        return SimpleNamespace(id=int(id), class_label=label, grid=grid)
TEST_CROPS_DICT = {("its own", "crop"): None}
"""
# Scores in another process and with the manifest, as the toolbox does, by rules of this package.
EVALUATE = """
import json, os, time, numpy
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from cellmap_pipeline.data.manifest import parse_manifest, COLUMNS
from cellmap_pipeline.scoring.submission import score_submission as score
from .utils.crops import TEST_CROPS_DICT
def _score(path, truth):
    lines = [",".join(map(str, (r.id, "d", r.class_label, *r.grid)))
             for r in TEST_CROPS_DICT.values()]
    rows = parse_manifest("\\n".join([",".join(COLUMNS), *lines]), "manifest")
    return score(path, truth, rows, rules={rules!r})
def score_submission(path, result_file=None, truth_path=None):
    {action}
    (Path(truth_path) / "crop1/added").touch()
    with ProcessPoolExecutor(1) as pool:
        scores = pool.submit(_score, path, truth_path).result()
    scores["label_scores"]["mito"]["combined_score"] -= numpy.float64({less!r})
    Path({seen!r}).write_text(json.dumps(sorted(map(str, TEST_CROPS_DICT))))
    return scores
"""


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """Folder with a submission, its manifest and its ground truth."""
    true, predicted = np.zeros((2, *GRID.shape), "u1")
    true[2:8, 2:8, 2:8] = 1
    predicted[4:8, 2:8, 2:8] = 1
    attributes = {"voxel_size": GRID.voxel_size, "translation": GRID.translation}
    for row in MANIFEST:
        write_array(tmp_path / "labels/a-1/crop1" / row.label, predicted, attributes)
        write_array(tmp_path / "truth/crop1" / row.label, true, attributes)
    package(tmp_path / "labels", MANIFEST, tmp_path / "submission.zip")
    write_manifest(MANIFEST, tmp_path / "manifest.csv")
    return tmp_path


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    rules: str = "2026-06-30",
    less: float = 0.0,
    action: str = "",
) -> None:
    """Put a stand-in for the toolbox on the path; it scores by `rules`, and mito `less`."""
    utils = folder / "site" / TOOLBOX / "utils"
    utils.mkdir(parents=True)
    for path in (utils.parent, utils):
        (path / "__init__.py").touch()
    (utils / "test_crop_manifest.csv").write_text("its own")
    (utils / "crops.py").write_text(CROPS)
    seen = str(folder / "seen.json")
    text = EVALUATE.format(rules=rules, less=less, action=action or "pass", seen=seen)
    (utils.parent / "evaluate.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder / "site"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))


def score(folder: Path, *options: str) -> int:
    """Run the command on the submission in a folder."""
    paths = ["--truth", "truth", "--manifest", "manifest.csv", "--output", "scores.json"]
    arguments = [str(folder / p) if not p.startswith("--") else p for p in paths]
    own = ["score", str(folder / "submission.zip"), "--official", "--workers", "1"]
    own += ["--rules", "2026-06-30"]
    return main([*own, *arguments, *options])


def test_toolbox_that_agrees_with_the_requested_rules(
    submission: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(submission, monkeypatch)
    before = sorted([*map(str, submission.rglob("*")), *(str(submission / n) for n in (
        "seen.json", "scores.json", "scores.csv"))])  # fmt: skip
    assert score(submission) == 0
    printed = capsys.readouterr().out
    assert "the official toolbox agrees with the rules of 2026-06-30\n" in printed
    assert json.loads((submission / "seen.json").read_text()) == ["(1, 'er')", "(1, 'mito')"]
    after = sorted(str(path) for path in submission.rglob("*") if "__pycache__" not in str(path))
    assert after == before
    assert (submission / "site" / TOOLBOX / "utils/test_crop_manifest.csv").read_text() == "its own"


def test_toolbox_that_agrees_with_other_rules(
    submission: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(submission, monkeypatch, rules="2026-07")
    assert score(submission) == 2
    printed = capsys.readouterr().out
    assert "does not agree with the rules of 2026-06-30 (mito has " in printed
    assert "but with those of 2026-07: give these as --rules" in printed


def test_toolbox_that_agrees_with_no_rules(
    submission: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(submission, monkeypatch, less=0.25)
    assert score(submission) == 2
    *_, first, june, july = capsys.readouterr().out.splitlines()
    assert "agrees with none of the rules" in first
    expected = json.loads((submission / "scores.json").read_text())
    mito = expected["label_scores"]["mito"]["combined_score"]
    assert june == (
        f"by the rules of 2026-06-30, mito has {mito:.9g} here and {mito - 0.25:.9g} in the toolbox"
    )
    assert july.startswith("by the rules of 2026-07, mito has ")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("{}[1, 'golgi']", r"stops while it scores \(KeyError: \(1, 'golgi'\)\): see whether"),
        ("numpy.zeros(2**31, 'u1')", r"stops while it scores \(\w*MemoryError: "),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL, as when memory is short"),
        ("time.sleep(60)", "did not finish within .* hours: omit --official"),
    ],
)
def test_toolbox_that_fails(
    submission: Path, monkeypatch: pytest.MonkeyPatch, action: str, message: str
) -> None:
    install(submission, monkeypatch, action=action)
    if "sleep" in action:
        monkeypatch.setattr(official_toolbox, "MAX_HOURS", 1 / 3600)
    with pytest.raises(InputError, match=message):
        score_officially(submission / "submission.zip", submission / "truth", MANIFEST, memory_gb=1)
    assert not [name for name in os.listdir(submission) if name.startswith(".official")]


def test_failing_toolbox_does_not_hide_the_scores(
    submission: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(submission, monkeypatch)
    (submission / "site" / TOOLBOX / "evaluate.py").write_text("import torch_of_long_ago")
    assert score(submission) == 2
    printed = capsys.readouterr()
    assert "overall_score " in printed.out
    assert "does not run (ModuleNotFoundError: No module named 'torch_of_long_ago')" in printed.err


def test_submission_that_is_not_a_zip(submission: Path) -> None:
    with pytest.raises(InputError, match=r"labels: .* takes the submission as a zip"):
        score_officially(submission / "labels", submission / "truth", MANIFEST)


@pytest.mark.skipif(importlib.util.find_spec(TOOLBOX) is not None, reason="installed")
def test_toolbox_that_is_not_installed(
    submission: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(submission) == 2
    printed = capsys.readouterr()
    assert "overall_score " in printed.out
    assert "its scorer was not run: install it from https" in printed.err


@pytest.mark.skipif(importlib.util.find_spec(TOOLBOX) is None, reason="not installed")
def test_official_toolbox(submission: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(submission) == 0
    assert "the official toolbox agrees with the rules of 2026-06-30\n" in capsys.readouterr().out
    assert score(submission, "--rules", "2026-07") == 2
    assert "but with those of 2026-06-30" in capsys.readouterr().out
