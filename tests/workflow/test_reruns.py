"""What a change runs again: each row of the table in docs/reruns.md, planned on a finished run."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ["submission.zip", "results/scores.json", "results/selection.csv"]
STAGES = {
    "check_inputs", "datasplit", "train", "predict_validation", "validate", "predict", "select",
    "segment", "package", "score",
}  # fmt: skip


def table():
    """By row of the documented table, the stages that it names."""
    page = (ROOT / "docs/reruns.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.M)[2:]
    # What comes after a semicolon in the last clause is of another change.
    return {
        change: STAGES.intersection(re.findall(r"`(\w+)`", stages.split("; where")[0]))
        for change, stages in rows
    }


def add_crop(run):
    """The labels of crop 5 again, as a crop 7."""
    lines = (run.folder / run.setting("test_crops")).read_text().splitlines()
    more = ["7" + line[1:] for line in lines if line.startswith("5,")]
    (run.folder / "manifest.csv").write_text("\n".join([*lines, *more]) + "\n")
    run.configure(test_crops="manifest.csv")


def move_data(run):
    shutil.copytree(run.folder / run.setting("data_root"), run.folder / "moved")
    run.configure(data_root="moved")


def copy_data(run):
    """A copy with times of its own, in the place of the data; and the manifest touched."""
    data = run.folder / run.setting("data_root")
    shutil.copytree(data, run.folder / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(data)
    shutil.move(run.folder / "copy", data)
    os.utime(run.folder / run.setting("test_crops"))


def checked_out(run):
    """All of the project that a run takes, anew and elsewhere."""
    copy = run.folder / "checkout"
    copy.mkdir()
    for name in ("Snakefile", "rules", "workflow", "src", "config", "envs", "profiles"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, copy / name)
    return replace(run, root=copy)


def edited(run, path, old, new):
    """A checkout with a file changed."""
    other = checked_out(run)
    file = other.root / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return other


# By row of the table, a change of that kind; where it gives another run, that one is planned.
CHANGES = {
    "`learning_rate`, or another setting that a network depends on": lambda run: run.train(
        "tiny", learning_rate=2e-2
    ),
    "`epochs` raised": lambda run: run.train("tiny", epochs=2),
    "a class added to a training": lambda run: run.train(
        "tiny", classes=["nuc", "mito", "pm", "ves"]
    ),
    "`inference`, such as `overlap`": lambda run: run.train("tiny", inference={"overlap": 0.5}),
    "a threshold in `postprocess`": lambda run: run.train(
        "tiny", postprocess={"pm": {"threshold": 0.7}}
    ),
    "the manifest gains a crop": add_crop,
    "a training added": lambda run: (
        run.train("third", classes=["pm"]),
        run.configure(trainings=["tiny", "other", "third"]),
    )[1],
    "a training removed": lambda run: run.configure(trainings=["tiny"]),
    "`data_root` names another folder, since there may be other data in it": move_data,
    "data touched, or copied to where they were": copy_data,
    "`log_every_steps`, `num_workers`, `memory_gb`, `checkpoint_minutes`, `resources`": (
        lambda run: run.train(
            "tiny",
            log_every_steps=3,
            num_workers=2,
            memory_gb=1,
            checkpoint_minutes=1,
            resources={"train": {"mem_mb": 1000}},
        )
    ),  # fmt: skip
    "a fresh checkout, touched scripts": checked_out,
    "a new version of this package": lambda run: edited(
        run, "src/cellmap_pipeline/__init__.py", '__version__ = "', '__version__ = "9'
    ),
    "one whose changelog names a stage with a new `RESULT_VERSION`, such as `segment`": (
        lambda run: edited(run, "src/cellmap_pipeline/plan.py", '"segment": ', '"segment": 9')
    ),
}
# Of some, how many jobs: there are five labels in two crops, of which `other` gives two.
JOBS = {
    "`learning_rate`, or another setting that a network depends on": {
        "train": 1, "predict": 2, "segment": 5,
    },
    "a threshold in `postprocess`": {"segment": 2},
    "the manifest gains a crop": {"predict": 2, "segment": 3},
    "a training added": {"train": 1, "datasplit": 1, "predict": 2, "segment": 2},
    "a training removed": {"segment": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(finished_run):
    """A run of two trainings that has come to its end."""
    run = finished_run()
    # What the second one made is not looked at, only that it is there and of which settings.
    run.train("other", classes=["mito"])
    run.configure(trainings=["tiny", "other"])
    shutil.copytree(run.folder / "results/tiny", run.folder / "results/other")
    run.snakemake("check_inputs")
    run.snakemake("--touch", *TARGETS)
    assert run.planned(*TARGETS) == {}
    return run


@pytest.fixture
def run(finished):
    """The same, put back afterwards."""
    shutil.copytree(finished.folder / "config", finished.folder / "kept")
    yield finished
    shutil.rmtree(finished.folder / "config")
    (finished.folder / "kept").rename(finished.folder / "config")
    shutil.rmtree(finished.folder / "checkout", ignore_errors=True)


def test_each_row_is_tried():
    assert list(table()) == list(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_runs_again_what_the_table_says(run, change):
    planned = (CHANGES[change](run) or run).planned(*TARGETS)
    assert set(planned) == table()[change]
    assert planned == planned | JOBS.get(change, {})


def test_the_data_are_looked_at_once_unless_asked(run):
    assert run.planned("check_inputs") == {"check_inputs": 1}
    run.train("tiny", validation_fraction=0.4)
    run.snakemake("check_inputs")
    assert "check_inputs" not in run.planned(*TARGETS)
    # What was not looked at is not made.
    assert run.planned(*TARGETS)["datasplit"] == 1
