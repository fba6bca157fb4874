"""Checks when a run starts, and the list of failed jobs when it ends."""

import os
import shutil
import sys
from pathlib import Path

from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.checks import check_container, check_folders
from cellmap_pipeline.plan.resources import JobRequest, check_job_arrays, check_nodes
from cellmap_pipeline.run import restart, signals
from cellmap_pipeline.run.locking import locks
from cellmap_pipeline.run.snakemake import failures


def log_completely():
    """Log all that `cellmap-pipeline status` reads, even if `--quiet` hides it in the terminal."""
    for handler in logger.handlers:
        if handler.name == "DefaultLogFileHandler":
            for part in (handler.formatter, *handler.filters):
                part.quiet = set()


def check_start():
    """Check the folders that a run needs; a target that only plans needs none."""
    targets = set(workflow.dag_settings.targets)
    if targets and targets <= {"plan", "calibrate"}:
        return
    try:
        check_folders(PLAN)
        if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
            check_container(PLAN, CONFIG_NAME)
        check_requests()
    except InputError as error:
        stop(error)


def check_requests():
    """Check that the executor's plugin can submit the jobs as they are requested."""
    jobs = [
        JobRequest(job.rule.name, {"threads": job.threads} | dict(job.resources.items()))
        for job in workflow.dag.needrun_jobs()
        if not job.is_local
    ]
    check_nodes(jobs, workflow.executor_plugin.name)
    if arrays := getattr(workflow.executor_settings, "array_jobs", None):
        limit = workflow.scheduling_settings.max_jobs_per_timespan.max_jobs
        check_job_arrays(jobs, arrays, min(workflow.resource_settings.nodes, limit))


def get_batch_folder(item):
    """The folder of the batch system's logs of a job or a group, as Snakemake's plugins name it."""
    if workflow.executor_plugin.name == "lsf":
        folder = Path(".snakemake/lsf_logs")
        if item.is_group():
            return folder / f"group_{item.groupid}"
        wildcards = [f"{key}={value}" for key, value in item.wildcards_dict.items()]
        return folder / f"rule_{item.name}" / "..".join(wildcards).replace(os.sep, "___")
    folder = Path(getattr(workflow.executor_settings, "logdir", None) or ".snakemake/slurm_logs")
    if item.is_group():
        return folder / f"group_{item.name}"
    return folder / f"rule_{item.name}" / "_".join(item.wildcards).replace(os.sep, "_")


def get_failed_jobs():
    """Each failed job with its logs; of a group of jobs, those that did not finish."""
    for item in workflow.scheduler.failed:
        batch = failures.batch_log(get_batch_folder(item))
        jobs = [item]
        if item.is_group():
            jobs = [job for job in item if not all(map(locks.is_released, get_lock_files(job)))]
        for job in jobs:
            name = " ".join([job.rule.name, *job.wildcards])
            yield failures.Failure(name, [*map(Path, job.log), *batch])


def get_lock_files(job):
    """The files that name the process that makes the job's outputs."""
    return [Path(log).with_suffix(".owner") for log in job.log]


def print_failures():
    """Print which jobs failed, why, and where to look."""
    jobs = list(get_failed_jobs())
    if jobs:
        remaining = len(workflow.scheduler.remaining_jobs)
        print(f"\n{len(jobs)} failed; {remaining} that need them did not run:", file=sys.stderr)
        print(failures.describe_failures(jobs), file=sys.stderr)
        # On a full disk no log could be written.
        if shutil.disk_usage(PATHS.logs).free < 1e6:
            print(f"the disk of {PATHS.output.resolve()} is full", file=sys.stderr)


# Snakemake logs the planned jobs before `onstart`.
log_completely()
# The Snakemake that runs scripts in a job step of Slurm; outside of it, another one waits for `srun`.
if workflow.remote_exec and "SLURM_STEP_ID" in os.environ:
    signals.forward_to_scripts()


onstart:
    # With `--quiet`, Snakemake would not log that a job has finished.
    workflow.scheduler.print_progress = True
    check_start()
    restart.acquire_run_lock(PATHS.logs)


onsuccess:
    restart.remove_recorded_locks(PATHS.logs)


onerror:
    print_failures()
    restart.remove_recorded_locks(PATHS.logs)
