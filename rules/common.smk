"""What the stages share: the plan of the run, and the parts of it that each rule depends on."""

import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path

from cellmap_pipeline.config import stages
from cellmap_pipeline.crop_label import row_settings
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan import resources as requests
from cellmap_pipeline.plan.checks import check_folders
from cellmap_pipeline.plan.lineage import choice_for, label_lineage, label_sources
from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.plan.resources import prediction_jobs, segmentation_threads
from cellmap_pipeline.plan.sources import AVERAGE, origin
from cellmap_pipeline.plan.targets import check_target
from cellmap_pipeline.run import failures, locks, restart

CONFIGFILES = [Path(path) for path in (*workflow.overwrite_configfiles, *workflow.configfiles)]
TRAINING_FOLDERS = list(
    dict.fromkeys(
        [Path("config/training")]
        + [path.parent / "training" for path in CONFIGFILES]
        + [ROOT / "config/training"]
    )
)

try:
    PLAN = make_plan(config, str(CONFIGFILES[0] if CONFIGFILES else "config"), TRAINING_FOLDERS)
    # Snakemake knows its targets later; those of a workflow that takes this one as a module are its own.
    if not workflow.modifier.skip_configfile:
        for _before, _word in pairwise(sys.argv):
            if _before not in ("-d", "--directory", "-O", "--omit-from"):
                check_target(PLAN, _word)
except InputError as error:
    stop(error)

OUTPUT = PLAN.output
LOGS = OUTPUT / "logs"
restart.resume(LOGS)
DATASET = PLAN.dataset_of()
SELECT = PLAN.config.submission.select
# A training that gives nothing that is submitted is not trained.
USED = PLAN.used()
# By training and test crop, the rows of the manifest that it predicts.
PREDICTED = {(name, crop): rows for name in USED for crop, rows in PLAN.predicted(name).items()}
# By row of the submission, a hash of all settings that its label depends on.
LINEAGE = {row: label_lineage(PLAN, row) for row in PLAN.segmented()}


wildcard_constraints:
    training="|".join(PLAN.trainings),
    source="|".join(PLAN.validated()),
    dataset="[^/]+",
    crop=r"\d+",
    part=r"\d+",
    parts=r"\d+",
    label="[^/]+",


def rows_of(training, crop):
    """The rows that a training predicts in a crop, in plain builtins."""
    return [row_settings(row) for row in PREDICTED[training, crop]]


def version(stage):
    """Tracked by every rule: raised when the stage's results change."""
    return {"result_version": stages.RESULT_VERSION[stage]}


def training_params(stage, keys):
    """A params function: the part of the training's file that `stage` depends on."""

    def params(wildcards):
        training = PLAN.trainings[wildcards.training]
        return version(stage) | stages.training_settings(training, keys)

    return params


def untracked(get):
    """A params function whose value reruns nothing: Snakemake tracks none that takes threads."""

    def params(wildcards, threads):
        return get(wildcards)

    return params


def growing(amount):
    """A resources function: each retry of a job asks for more."""
    return lambda wildcards, attempt: amount * attempt


def asked(stage, key, grows=True):
    """A resources function: what a training's jobs of `stage` ask for."""

    def resources(wildcards, attempt):
        amount = requests.resources(PLAN.trainings[wildcards.training], stage)[key]
        return amount * attempt if grows else amount

    return resources


def failed_jobs():
    """What failed, each with its logs; of a group of jobs, those that were not done."""
    folder = Path(getattr(workflow.executor_settings, "logdir", None) or ".snakemake/slurm_logs")
    for item in workflow.scheduler.failed:
        if item.is_group():
            batch = failures.batch_log(folder / f"group_{item.name}")
            jobs = [job for job in item if not all(map(locks.is_ended, owners_of(job)))]
        else:
            wildcards = "_".join(item.wildcards).replace(os.sep, "_")
            batch = failures.batch_log(folder / f"rule_{item.name}" / wildcards)
            jobs = [item]
        for job in jobs:
            name = " ".join([job.rule.name, *job.wildcards])
            yield failures.Failure(name, [*map(Path, job.log), *batch])


def owners_of(job):
    """The files that say who makes the job's outputs."""
    return [Path(log).with_suffix(".owner") for log in job.log]


def print_failures():
    """Say at the end what failed, and where to look."""
    jobs = list(failed_jobs())
    if jobs:
        left = len(workflow.scheduler.remaining_jobs)
        print(f"\n{len(jobs)} failed; {left} that need them did not run:", file=sys.stderr)
        print(failures.describe(jobs), file=sys.stderr)
        # Then no log can say why.
        if shutil.disk_usage(LOGS).free < 1e6:
            print(f"the disk of {LOGS.parent.resolve()} is full", file=sys.stderr)


def check_start():
    """Folders that a run needs, and a plan (`-n`, or such a target) does not."""
    targets = set(workflow.dag_settings.targets)
    if targets and targets <= {"plan", "calibrate"}:
        return
    try:
        check_folders(PLAN)
    except InputError as error:
        stop(error)
