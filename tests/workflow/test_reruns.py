"""What a change reruns: each row of the table in docs/reruns.md, planned on a finished run."""

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ["submission.zip", "results/scores.json", "results/selection.csv"]
STAGES = {
    "check_inputs", "split", "datasplit", "raw_statistics", "training_raw_statistics", "train",
    "predict_validation", "validate", "predict", "predict_part", "select", "segment", "package",
    "score",
}  # fmt: skip


def table():
    """Return the stages that each row of the documented table names."""
    page = (ROOT / "docs/reruns.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.M)[2:]
    # The clause after the semicolon is about another change.
    return {
        change: STAGES.intersection(re.findall(r"`(\w+)`", stages.split("; where")[0]))
        for change, stages in rows
    }


def add_crop(run):
    """Add a crop 7 with the labels of crop 5 to the manifest."""
    lines = (run.folder / run.setting("test_crops")).read_text().splitlines()
    more = ["7" + line[1:] for line in lines if line.startswith("5,")]
    (run.folder / "manifest.csv").write_text("\n".join([*lines, *more]) + "\n")
    run.configure(test_crops="manifest.csv")


def move_data(run):
    shutil.copytree(run.folder / run.setting("data_root"), run.folder / "moved")
    run.configure(data_root="moved")


def copy_data(run):
    """Replace the data by a copy with new modification times, and touch the manifest."""
    data = run.folder / run.setting("data_root")
    shutil.copytree(data, run.folder / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(data)
    shutil.move(run.folder / "copy", data)
    os.utime(run.folder / run.setting("test_crops"))


def checkout(run):
    """Return the run with a fresh copy of all project files that it uses."""
    copy = Path(tempfile.mkdtemp(prefix="checkout-", dir=run.folder))
    for name in ("Snakefile", "rules", "workflow", "src", "config", "envs", "profiles"):
        source = ROOT / name
        if source.is_dir():
            without_bytecode = shutil.ignore_patterns("__pycache__")
            shutil.copytree(
                source, copy / name, copy_function=shutil.copyfile, ignore=without_bytecode
            )
        else:
            shutil.copyfile(source, copy / name)
    return replace(run, root=copy)


def edited_checkout(run, path, old, new):
    """Return the run with a checkout in which a file is changed."""
    other = checkout(run)
    file = other.root / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return other


def edit_table(run):
    """Return a finished run with a class table, which is changed."""
    other = replace(run, folder=run.folder.with_name("tables"))
    shutil.copytree(run.folder, other.folder, symlinks=True)
    table = other.folder / "classes.csv"
    table.write_text('mito,1,""\n')
    other.train("tiny", mutual_exclusion=table.name)
    other.snakemake("--touch", *TARGETS)
    assert other.planned(*TARGETS) == {}
    table.write_text('mito,2,""\n')
    return other


# A change for each row of the table; if it returns a run, that run is planned instead.
CHANGES = {
    "`learning_rate`, or another setting that a network depends on": lambda run: run.train(
        "tiny", learning_rate=2e-2
    ),
    "`epochs` raised": lambda run: run.train("tiny", epochs=2),
    "a class added to a training": lambda run: run.train(
        "tiny", classes=["nuc", "mito", "pm", "ves"]
    ),
    "`oversample` of a training": lambda run: run.train(
        "tiny", oversample={"datasets": {"demo_cell-1": 2}}
    ),
    "`normalize` of a training from `range` to `zscore`": lambda run: run.train(
        "tiny", normalize="zscore"
    ),
    "a training's classes in the table of `mutual_exclusion`, or of `hierarchy`": edit_table,
    "`inference`, such as `overlap`": lambda run: run.train("tiny", inference={"overlap": 0.5}),
    "`inference.jobs` or `job_voxels`, where a crop then has another number of jobs": lambda run: (
        run.train("tiny", inference={"overlap": 0.25, "jobs": 2})
    ),
    "a threshold in `postprocess`": lambda run: run.train(
        "tiny", postprocess={"pm": {"threshold": 0.7}}
    ),
    "the manifest gains a crop": add_crop,
    "`scoring.rules`": lambda run: run.configure(scoring={"rules": "2026-06-30"}),
    "`split.seed`, `split.by` or `split.validation_fraction`": lambda run: run.configure(
        split={"seed": 1}
    ),
    "`split.folds`": lambda run: run.configure(split={"folds": 3}),
    "a training added": lambda run: (
        run.train("third", classes=["pm"]),
        run.configure(trainings=["tiny", "other", "third"]),
    )[1],
    "a training removed": lambda run: run.configure(trainings=["tiny"]),
    "`data_root` points to another folder, which may hold other data": move_data,
    "data files touched, or replaced by copies": copy_data,
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
    "`container`, where `--sdm apptainer` is not given": lambda run: run.configure(
        container="docker://example.org/cellmap-pipeline:1"
    ),
    "a fresh checkout, touched scripts": checkout,
    "a new version of this package": lambda run: edited_checkout(
        run, "src/cellmap_pipeline/__init__.py", '__version__ = "', '__version__ = "9'
    ),
    "a new version whose changelog raises the `RESULT_VERSION` of a stage, such as `segment`": (
        lambda run: edited_checkout(
            run, "src/cellmap_pipeline/config/stages.py", '"segment": ', '"segment": 9'
        )
    ),
}
# Numbers of jobs of some changes: two crops have five labels, and `other` predicts two of them.
JOBS = {
    "`learning_rate`, or another setting that a network depends on": {
        "train": 1, "predict": 2, "segment": 5,
    },
    # Of two trainings, one is normalized by statistics; its test crops lie in two datasets.
    "`normalize` of a training from `range` to `zscore`": {
        "train": 1, "training_raw_statistics": 1, "raw_statistics": 2, "predict": 2,
    },
    "a training's classes in the table of `mutual_exclusion`, or of `hierarchy`": {
        "train": 1, "predict": 2, "segment": 5,
    },
    "a threshold in `postprocess`": {"segment": 2},
    "the manifest gains a crop": {"predict": 2, "segment": 3},
    "a training added": {"train": 1, "datasplit": 1, "predict": 2, "segment": 2},
    "a training removed": {"segment": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def checked(finished_run):
    """A finished run whose changed configuration, with a second training, was checked."""
    run = finished_run()
    # The second training's results are not read: only their existence and settings matter.
    run.train("other", classes=["mito"])
    run.configure(trainings=["tiny", "other"])
    shutil.copytree(run.folder / "results/tiny", run.folder / "results/other")
    run.train("tiny", crops=[1, 2, 3, 4])
    run.snakemake("check_inputs")
    return run


@pytest.fixture(scope="module")
def finished(checked):
    """A finished run of two trainings."""
    run = replace(checked, folder=checked.folder.with_name("touched"))
    shutil.copytree(checked.folder, run.folder, symlinks=True)
    run.train("tiny")
    run.snakemake("--touch", *TARGETS)
    assert run.planned(*TARGETS) == {}
    return run


@pytest.fixture
def run(finished):
    """The finished run; its configuration is restored afterwards."""
    shutil.copytree(finished.folder / "config", finished.folder / "kept")
    yield finished
    shutil.rmtree(finished.folder / "config")
    (finished.folder / "kept").rename(finished.folder / "config")
    for copy in finished.folder.glob("checkout-*"):
        shutil.rmtree(copy)


def test_each_row_of_the_table_is_tested():
    assert list(table()) == list(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
def test_change_reruns_the_documented_stages(run, change):
    planned = (CHANGES[change](run) or run).planned(*TARGETS)
    assert set(planned) == table()[change], run.waited_output.read_text()
    assert planned == planned | JOBS.get(change, {})


def test_changed_raw_statistics_retrain_only_the_training_that_uses_them(finished):
    run = replace(finished, folder=finished.folder.with_name("normalized"))
    shutil.copytree(finished.folder, run.folder, symlinks=True)
    run.train("tiny", normalize="zscore")
    run.snakemake("check_inputs")
    results = run.folder / "results"
    of_training = results / "tiny/raw_statistics.json"
    of_dataset, of_other = (results / f"raw_statistics/demo_cell-{i}.json" for i in (1, 2))
    of_dataset.parent.mkdir()
    for path in (of_training, of_dataset, of_other):
        path.write_text("{}")
    run.snakemake("--touch", *TARGETS)
    assert run.planned(*TARGETS) == {}
    of_dataset.write_text('{"a": {}}')
    planned = run.planned(*TARGETS)
    assert planned["predict"] == 1 and not planned.keys() & {"train", "predict_validation"}
    of_training.write_text('{"a": {}}')
    planned = run.planned(*TARGETS)
    assert (planned["train"], planned["predict_validation"]) == (1, 1)
    assert not planned.keys() & {"raw_statistics", "training_raw_statistics", "datasplit"}


def test_inputs_are_checked_once_unless_requested(checked):
    log = (checked.folder / "results/logs/check_inputs.log").read_text()
    assert "raw: " in log and "are free, at most" in log and "0 problems, 0 warnings" in log
    planned = checked.planned(*TARGETS)
    assert "check_inputs" not in planned
    # A check makes no data split.
    assert planned["datasplit"] == 1
    assert checked.planned("check_inputs") == {"check_inputs": 1}
