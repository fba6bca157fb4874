"""Official scores of trainings that differ in some settings, on crops that none of them has seen.

Each setting is merged over the same training file, key by key at the top level, and trained with
each seed as a run of the workflow, from the check of the inputs to scores.json. The seed is that of
the weights, of the patches and of the run's split, so the settings form pairs by seed. The trained
network is then tuned, selected and scored by each set of rules; only these stages run again.

    python benchmarks/quality.py --folder DISK --training vnc.yaml --data-root data/vnc \\
        --manifest vnc_manifest.csv --truth vnc_truth.zarr \\
        --setting base='{}' --setting bce='{loss: bce}' --setting wide=wide.yaml
    python benchmarks/quality.py --folder DISK --demo --setting base='{}' --setting b=b.yaml
    python benchmarks/quality.py --folder DISK          # the tables alone

A training file may have `validation_fraction`, which becomes that of the run's split, and a setting
`split`, whose keys do: `{validation: folds, split: {folds: 2}, epochs: 8}` trains two networks of 8
epochs, which are tuned on all crops together. Paths in a setting should be absolute.
`--class-table` is the run's `class_table`. `--share 0.33` takes a third of the steps and of the
warm-up, in as many fewer epochs as possible, of every setting.
`{teach: {from: base}}` is taught by the network of the setting `base` with the same seed, which is
trained before it.

Each run lies in `DISK/{data}/{setting}/seed{n}`, where {data} is the stem of the training file. One
that has ended is not repeated and one that was interrupted resumes, so rows can be collected over
several calls and, with the same folder, from several checkouts: give a setting another name there.
A run whose settings have changed is refused. At the end, `scores.csv` (all labels, seeds and
rules), `scores.md` (a table per data and rules) and `scores_{data}_{rules}.png` (a point per seed)
are written from all runs in the folder.

A cell is the mean over seeds ± their standard deviation. The last column is the difference of the
overall score from the first setting trained, by pairs of the same seed: what counts is a difference
that is well above its own deviation, of three seeds or more.

What such small trainings show: whether a setting works, whether it breaks something, and effects
that are large early in a training. What they cannot show: what a training of the challenge's size
gains, since settings that pay off late (averaged weights, strong augmentation, large networks) lose
here, and one test crop with few objects is no sample of the test crops: its scores of instance
classes change in steps. Scores depend on the machine's arithmetic, too, so compare settings of one
machine alone.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.demo.make import MANIFEST, TRUTH, make_demo
from cellmap_pipeline.report.figures.style import saved_figure
from cellmap_pipeline.scoring.rules.registry import RULES

ROOT = Path(__file__).resolve().parents[1]
NAME = "quality"  # of the training in each run
OVERALL = "overall_score"
DEMO_FRACTION = 0.3  # of the crops that validate, as in config/config.yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--demo", action="store_true", help="train on the demo, which is generated")
    parser.add_argument("--training", type=Path, help="training file that all settings change")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--manifest", type=Path, help="manifest of the test crops")
    parser.add_argument("--truth", type=Path, help="zarr with the ground truth of the test crops")
    parser.add_argument("--class-table", type=Path, help="the challenge's classes.csv")
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=YAML",
        help="a name, and keys as {key: value} or a file of them; may be repeated",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=1.0, help="share of the training steps")
    parser.add_argument("--rules", nargs="+", default=["2026-06-30", "2026-07"], choices=RULES)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    settings = dict(read_setting(text) for text in arguments.setting)
    if settings:
        training, config = read_data(arguments, folder)
        # By seed first, so that the pairs of a call that is interrupted are complete.
        for seed in arguments.seeds:
            for name, changes in settings.items():
                values = changed_training(training, changes, seed, arguments.share)
                run = folder / config["output"] / name / f"seed{seed}"
                start_run(run, values, seed)
                taught = add_teacher(run, values)
                for rules in arguments.rules:
                    changed = {**run_config(config, changes, seed, rules), **taught}
                    score_run(run, changed, rules, arguments.cores)
    write_tables(folder)


def read_setting(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a setting and its keys, which are given in place or by a file."""
    name, _, value = text.partition("=")
    if not re.fullmatch(r"[\w.-]+", name) or not value:
        raise SystemExit(f"--setting {text}: write NAME=file.yaml or NAME='{{key: value}}'")
    if not value.lstrip().startswith("{"):
        value = Path(value).read_text(encoding="utf-8")
    keys = yaml.safe_load(value) or {}
    if not isinstance(keys, dict):
        raise SystemExit(f"--setting {name}: keys of a training file are expected, not {keys!r}")
    return name, keys


def read_data(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the training file's keys, and those of the run's configuration.

    `output` names the data; `split` lacks its seed.
    """
    if arguments.demo:
        root = folder / "demo_data"
        make_demo(root)
        path, manifest, truth = ROOT / "config/training/demo.yaml", root / MANIFEST, root / TRUTH
    else:
        path, root = arguments.training, arguments.data_root
        manifest, truth = arguments.manifest, arguments.truth
        if None in (path, root, manifest, truth):
            raise SystemExit("give --demo, or all of --training, --data-root, --manifest, --truth")
    training = yaml.safe_load(path.read_text(encoding="utf-8"))
    split = {"validation_fraction": DEMO_FRACTION} if arguments.demo else {}
    if "validation_fraction" in training:
        split = {"validation_fraction": training.pop("validation_fraction")}
    config = {
        "data_root": str(root.resolve()),
        "test_crops": str(manifest.resolve()),
        "ground_truth": str(truth.resolve()),
        "output": path.stem,
        "trainings": [NAME],
        "split": split,
    }
    if arguments.class_table:
        config["class_table"] = str(arguments.class_table.resolve())
    return training, config


def changed_training(
    training: Mapping[str, Any], changes: Mapping[str, Any], seed: int, share: float
) -> dict[str, Any]:
    """Merge a setting over the training file, with a seed and a share of the steps."""
    values = {**training, **changes, "seed": seed}
    values.pop("split", None)
    if share == 1:
        return values
    full = Training.model_validate(values)
    batches = max(1, round(share * full.epochs * full.iterations_per_epoch))
    epochs = max(1, round(share * full.epochs))
    scheduler = full.scheduler.model_dump(exclude_unset=True)
    if "warmup_steps" in scheduler:
        scheduler["warmup_steps"] = round(share * scheduler["warmup_steps"])
    return values | {
        "epochs": epochs,
        "iterations_per_epoch": math.ceil(batches / epochs),
        "scheduler": scheduler,
    }


def run_config(
    config: Mapping[str, Any], changes: Mapping[str, Any], seed: int, rules: str
) -> dict[str, Any]:
    """Complete the configuration of a run with a setting."""
    split = {**config["split"], **changes.get("split", {}), "seed": seed}
    return {**config, "output": "results", "split": split, "scoring": {"rules": rules}}


def start_run(run: Path, training: Mapping[str, Any], seed: int) -> None:
    """Write the training file of a run; refuse a run with other settings."""
    path = run / f"config/training/{NAME}.yaml"
    if path.exists() and yaml.safe_load(path.read_text(encoding="utf-8")) != training:
        raise SystemExit(
            f"{path} has other settings: give the setting another name, or remove {run}"
        )
    write_yaml(path, training)


def add_teacher(run: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    """Write the training file of the network that teaches a run; return the keys that add it."""
    if "teach" not in training:
        return {}
    name = training["teach"]["from"]
    origin = run.parents[1] / name / run.name
    checkpoint = origin / f"results/{NAME}/model.ckpt"
    if not checkpoint.is_file():
        raise SystemExit(f"{run}: {checkpoint} does not exist: train the setting {name!r} first")
    teacher = yaml.safe_load((origin / f"config/training/{NAME}.yaml").read_text(encoding="utf-8"))
    inference = {**teacher.get("inference", {}), "checkpoint": str(checkpoint)}
    write_yaml(run / f"config/training/{name}.yaml", {**teacher, "inference": inference})
    select = dict.fromkeys(training["classes"], NAME)
    return {"trainings": [NAME, name], "submission": {"select": select}}


def score_run(run: Path, config: Mapping[str, Any], rules: str, cores: int) -> None:
    """Run the workflow by a set of rules and keep its table of scores, unless it is there."""
    kept = run / f"scores_{rules}.csv"
    if kept.exists():
        return
    print(f"{run}, rules of {rules}", flush=True)
    write_yaml(run / "config/config.yaml", config)
    command = [
        sys.executable, "-m", "cellmap_pipeline.cli", "run", "--snakefile", str(ROOT / "Snakefile"),
        "--cores", str(cores), "--resources", "gpu=1", "--", "results/scores.csv",
    ]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PATH": path}
    with (run / f"{rules}.log").open("a") as log:
        done = subprocess.run(command, cwd=run, env=environment, stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(f"{run}: the run failed: see {log.name}")
    check_test_crops(run, Path(config["test_crops"]))
    table = pd.read_csv(run / "results/scores.csv")
    table.assign(steps=steps(run), commit=commit()).to_csv(kept, index=False)


def check_test_crops(run: Path, manifest: Path) -> None:
    """Raise an error if a test crop trained or tuned."""
    text = "".join(path.read_text(encoding="utf-8") for path in datasplits(run))
    used = set(re.findall(r"/crop(\d+)/", text))
    if not used:
        raise SystemExit(f"{run}: no datasplit.csv names a crop")
    both = used & set(pd.read_csv(manifest)["crop_name"].astype(str))
    if both:
        raise SystemExit(f"{run}: test crops {sorted(both)} are in the training's split")


def datasplits(run: Path) -> list[Path]:
    """List the datasplit of each network, of which a training with folds has several."""
    return sorted((run / "results" / NAME).rglob("datasplit.csv"))


def commit() -> str:
    """Return the commit of this checkout, marked if files were changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")


def write_tables(folder: Path) -> None:
    """Write scores.csv and scores.md of all runs in the folder, and print the latter."""
    scores = collected(folder)
    if scores.empty:
        raise SystemExit(f"{folder} has no run that has ended")
    scores.to_csv(folder / "scores.csv", index=False)
    parts = [
        f"### {data}, rules of {rules}\n\n{markdown(rows)}"
        for (data, rules), rows in scores.groupby(["data", "rules"], sort=False)
    ]
    text = "\n\n".join(parts) + "\n"
    (folder / "scores.md").write_text(text, encoding="utf-8")
    print(text)
    for (data, rules), rows in scores.groupby(["data", "rules"], sort=False):
        draw(rows, f"{data}, rules of {rules}", folder / f"scores_{data}_{rules}.png")


def collected(folder: Path) -> pd.DataFrame:
    """Return a row per data, setting, seed, rules and label; the earliest setting first."""
    paths = sorted(folder.glob("*/*/seed*/scores_*.csv"), key=lambda path: path.stat().st_mtime_ns)
    tables = []
    for path in paths:
        run = path.parent
        table = pd.read_csv(path)
        is_label = ~table["label"].str.startswith("overall_") | (table["label"] == OVERALL)
        rows = table[(table["crop"] == "all") & is_label]
        place = {"data": run.parts[-3], "setting": run.parts[-2], "seed": int(run.name[4:])}
        columns = [*place, "rules", "label", "score", "steps", "commit"]
        tables.append(rows.assign(**place)[columns])
    return pd.concat(tables) if tables else pd.DataFrame()


def steps(run: Path) -> int:
    """Return the number of optimizer steps of all networks of a run's training."""
    text = (run / f"config/training/{NAME}.yaml").read_text(encoding="utf-8")
    return Training.model_validate(yaml.safe_load(text)).steps * len(datasplits(run))


def markdown(rows: pd.DataFrame) -> str:
    """Return a Markdown table with a line per setting and a column per label."""
    labels = labels_of(rows)
    header = ["setting", "steps", "seeds", *labels, "overall, difference"]
    lines = [header, ["---"] * len(header)]
    first: pd.Series | None = None
    for setting, of_setting in rows.groupby("setting", sort=False):
        by_label = {label: of_label.set_index("seed")["score"]
                    for label, of_label in of_setting.groupby("label")}  # fmt: skip
        overall = by_label[OVERALL]
        first = overall if first is None else first
        difference = (overall - first).dropna()
        n_steps = "–".join(str(n) for n in sorted(set(of_setting["steps"])))
        cells = [
            mean_and_spread(by_label[label], "") if label in by_label else "" for label in labels
        ]
        compared = "" if first is overall else mean_and_spread(difference, "+")
        lines.append([str(setting), n_steps, str(len(overall)), *cells, compared])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(rows: pd.DataFrame, title: str, path: Path) -> None:
    """Draw the scores of each setting, a panel per label: a point per seed, and their mean."""
    labels = labels_of(rows)
    settings = list(rows["setting"].unique())[::-1]  # the first one on top
    with saved_figure(path, 1.5 + 1.6 * len(labels), 1.1 + 0.35 * len(settings)) as figure:
        figure.suptitle(title)
        for axes, label in zip(figure.subplots(1, len(labels), sharey=True), labels, strict=True):
            of_label = rows[rows["label"] == label]
            places = of_label["setting"].map(settings.index)
            axes.plot(of_label["score"], places, ls="", marker="o", alpha=0.6)
            means = of_label.groupby(places)["score"].mean()
            axes.plot(means, means.index, ls="", marker="|", ms=16, mew=2, color="black")
            axes.set(title="overall" if label == OVERALL else label, xlabel="score")
            axes.set_yticks(range(len(settings)), settings)
            axes.set_ylim(-0.5, len(settings) - 0.5)
            axes.grid(axis="x", alpha=0.3)


def labels_of(rows: pd.DataFrame) -> list[str]:
    """List the labels, the overall score first."""
    return [OVERALL, *sorted(set(rows["label"]) - {OVERALL})]


def mean_and_spread(values: pd.Series, sign: str) -> str:
    """Return the mean ± the standard deviation, which one value alone does not have."""
    if values.empty:
        return ""
    spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.3f}{spread}"


if __name__ == "__main__":
    main()
