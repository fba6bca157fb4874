"""The command line."""

import argparse
import errno
import importlib.util
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cellmap_pipeline.cli import COMMANDS, main
from cellmap_pipeline.commands import run
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create

GRID = Grid((8, 8, 8), (0, 0, 0), (16, 16, 16))


@pytest.fixture
def labels(tmp_path):
    rows = [CropLabel(1, "d", label, GRID) for label in ("mito", "pm")]
    write_manifest(rows, tmp_path / "m.csv")
    for row in rows:
        path = tmp_path / "labels/d/crop1" / row.label
        path.parent.mkdir(parents=True, exist_ok=True)
        create(path, GRID, "uint8").write(np.ones(GRID.shape, np.uint8)).result()
    return tmp_path


def run_command(folder, *arguments):
    return main([*map(str, arguments), "--manifest", str(folder / "m.csv")])


def test_packaged_labels_pass_the_check(labels, capsys):
    zip_path = labels / "out.zip"
    assert run_command(labels, "package", labels / "labels", "--output", zip_path) == 0
    assert run_command(labels, "check", zip_path) == 0
    assert "no problems found" in capsys.readouterr().out


def test_exit_codes_of_rejected_and_incomplete_submissions(labels, capsys):
    (labels / "labels/d/crop1/pm").rename(labels / "pm")
    zip_path = labels / "out.zip"
    assert run_command(labels, "package", labels / "labels", "--output", zip_path) == 2
    assert "the overall score can reach 0.0000 at most" in capsys.readouterr().out
    by_mean = ("--output", zip_path, "--rules", "pq")
    assert run_command(labels, "package", labels / "labels", *by_mean) == 2
    assert "the overall score can reach 0.5000 at most" in capsys.readouterr().out
    zip_path.write_bytes(b"not a zip")
    assert run_command(labels, "check", zip_path) == 1


def test_nothing_is_packaged_by_unknown_rules(labels, capsys):
    options = ["--output", labels / "out.zip", "--rules", "pg"]
    assert run_command(labels, "package", labels / "labels", *options) == 1
    assert "'pg' is not a set of scoring rules: choose one of" in capsys.readouterr().err
    assert not (labels / "out.zip").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "none"),
        ("check", "s.zip", "--truth", "none"),
        ("package", "none"),
        ("score", "none", "--truth", "t.zarr"),
        ("score", "s.zip", "--truth", "none"),
    ],
    ids=str,
)
def test_errors_name_missing_paths(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.zip").touch()
    (tmp_path / "t.zarr").mkdir()
    assert main([*arguments, "--manifest", "m.csv"]) == 1
    expected = f"error: none does not exist (looked in {tmp_path}): correct the path\n"
    assert capsys.readouterr().err == expected


def test_errors_name_the_option_of_a_missing_manifest(labels, capsys):
    arguments = ["package", str(labels / "labels"), "--manifest", "none.csv"]
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert message == (
        "error: test-crop manifest none.csv does not exist: set `--manifest` to a file in the "
        "challenge's format\n"
    )
    assert main([*arguments[:-1], "file:///none.csv"]) == 1
    assert "error: --manifest: file:///none.csv cannot be downloaded" in capsys.readouterr().err


def test_a_missing_option_exits_like_other_bad_input(capsys):
    with pytest.raises(SystemExit) as error:
        main(["check", "nothing.zip"])
    assert error.value.code == 1
    message = capsys.readouterr().err
    assert "check: error: the following arguments are required: --manifest" in message


def test_a_manifest_of_a_url_is_downloaded_by_each_call(labels, monkeypatch, capsys):
    run_command(labels, "package", labels / "labels", "--output", labels / "out.zip")
    monkeypatch.chdir(labels)
    url = f"file://{labels}/m.csv"
    # Of a run, or of another call.
    write_manifest([CropLabel(7, "d", "er", GRID)], labels / "test_crop_manifest.csv")
    assert main(["check", "out.zip", "--manifest", url]) == 0
    (labels / "test_crop_manifest.csv").unlink()
    assert main(["check", "out.zip", "--manifest", url]) == 0
    assert not (labels / "test_crop_manifest.csv").exists()


def test_score_writes_json_and_csv(labels, capsys):
    run_command(labels, "package", labels / "labels", "--output", labels / "out.zip")
    truth = labels / "truth.zarr"
    for label in ("mito", "pm"):
        shutil.copytree(labels / "labels/d/crop1" / label / "s0", truth / "crop1" / label)
    output = labels / "new/folder/scores.json"
    options = ["--truth", truth, "--output", output, "--without-collisions", "--workers", 2]
    assert run_command(labels, "score", labels / "out.zip", *options) == 0
    printed = capsys.readouterr().out
    assert "note on the rules of 2026-07: the curve" in printed
    assert "note on --without-collisions: no ids collide" in printed
    options += ["--rules", "2026-06-30"]
    assert run_command(labels, "score", labels / "out.zip", *options) == 0
    printed = capsys.readouterr().out
    assert "overall_score_without_collisions" in printed and "note" not in printed
    assert json.loads(output.read_text())["overall_score"] == 1
    assert output.with_suffix(".csv").is_file()
    # It would be overwritten by the table.
    options += ["--output", labels / "scores.csv"]
    assert run_command(labels, "score", labels / "out.zip", *options) == 1
    assert "scores.csv must end with .json; a .csv of the same name" in capsys.readouterr().err
    assert not (labels / "scores.csv").exists()


def test_check_against_ground_truth_and_with_the_official_reader(labels, capsys):
    run_command(labels, "package", labels / "labels", "--output", labels / "out.zip")
    truth = labels / "truth.zarr/crop1/mito"
    shutil.copytree(labels / "labels/d/crop1/mito/s0", truth)
    for _ in range(2):
        assert run_command(labels, "check", labels / "out.zip", "--truth", truth.parents[1]) == 0
    if importlib.util.find_spec("cellmap_segmentation_challenge") is None:
        capsys.readouterr()
        assert run_command(labels, "check", labels / "out.zip", "--official") == 0
        printed = capsys.readouterr()
        assert "no problems found" in printed.out
        assert printed.err.count("\n") == 1
        assert "toolbox (cellmap-segmentation-challenge) is not installed" in printed.err


def test_a_full_disk_is_named(monkeypatch, capsys):
    def fill(_options):
        raise OSError(errno.ENOSPC, "No space left on device", ".snakemake/run.owner")

    monkeypatch.setattr(run, "execute", fill)
    assert main(["run"]) == 1
    assert "run.owner cannot be written (No space left on device)" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.split(".")[-1])
def test_each_command_says_what_it_does(command, capsys):
    commands = argparse.ArgumentParser().add_subparsers()
    command.add_parser(commands)
    (name,) = commands.choices
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert re.search(rf"^ +{name}\s+\w", capsys.readouterr().out, re.MULTILINE)
    if command is run:  # Its help is Snakemake's.
        return
    description = commands.choices[name].description
    assert description.endswith(".") and len(description) > 50


def test_help_imports_nothing_slow():
    code = (
        "import sys; from cellmap_pipeline.cli import _parser; _parser().format_help(); "
        "print([name for name in ('torch', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
