"""Runs whose processes are killed at random times and restarted give the same results.

Processes and times are drawn with `--seed`; the same seed repeats them as far as the machine's
timing allows.
"""

import csv
import hashlib
import os
import time

import psutil
import pytest

from tests.support.runs import wait_until

pytestmark = pytest.mark.chaos

TARGET = "submission.zip"
# In the order of the data flow; each is also the name of its script.
STAGES = [
    "check_inputs", "datasplit", "train", "predict_validation", "validate", "predict", "segment",
    "package",
]  # fmt: skip
# Results of the undisturbed run, which made all targets, that this target does not need.
NOT_IN_TARGET = {
    "figures", "report.html", "scores.json", "scores.csv", "leaderboard.csv", "selection.csv",
    "dag.mmd", "dag.svg",
}  # fmt: skip


@pytest.fixture
def undisturbed(finished_run):
    """A finished run without kills."""
    return finished_run()


def hash_results(run):
    """Return hashes, by path, of all results but logs, benchmarks and training state."""
    found = {}
    for path in [run.folder / TARGET, *(run.folder / "results").rglob("*")]:
        name = path.relative_to(run.folder)
        varies = {"logs", "benchmarks", "training"}.intersection(name.parts)
        if path.is_file() and not varies and not NOT_IN_TARGET.intersection(name.parts[1:2]):
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def incomplete_files(run, expected):
    """Return the existing result files whose content is not the final one."""
    found = []
    for name, final_hash in expected.items():
        try:
            content = (run.folder / name).read_bytes()
        except FileNotFoundError:
            continue
        if hashlib.sha256(content).hexdigest() != final_hash:
            found.append(name)
    return found


def benchmarks(run, stage):
    """Return the benchmark tables of a stage's finished jobs, relative to the run's folder."""
    folder = run.folder / "results/benchmarks"
    tables = [*folder.glob(f"{stage}.tsv"), *folder.glob(f"{stage}/**/*.tsv")]
    return {path.relative_to(run.folder) for path in tables}


def has_finished(run, stage, undisturbed):
    """Return whether all jobs of a stage have ended; the check has no benchmark but a file."""
    if stage == "check_inputs":
        return (run.folder / "results/check_inputs.json").exists()
    return benchmarks(run, stage) >= benchmarks(undisturbed, stage)


def shortest_job_s(run, stage):
    """Return the time (s) of the shortest job of a stage; 2 for the check, without benchmark."""
    times = []
    for path in benchmarks(run, stage):
        with (run.folder / path).open() as file:
            times += [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
    return min(times, default=2.0)


def processes(run):
    """Return the command lines, by process id, of all processes in the run's folder.

    Includes jobs whose Snakemake was killed.
    """
    found = {}
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(run.folder) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:  # The process has ended meanwhile, or is another user's.
            continue
    return found


def running_stages(run):
    """Return the stages whose scripts are running."""
    lines = " ".join(processes(run).values())
    return [stage for stage in STAGES if f".{stage}.py" in lines]


def kill_one(run, rng):
    """Kill one of the run's processes and describe it; return None if there is none left."""
    while found := processes(run):
        pid, line = rng.choice(sorted(found.items()))
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
        return f"{pid} {line[-100:]}"
    return None


def second_run(run, first):
    """Start a second run, which is refused while the first lives; return the active one."""
    second = run.start(TARGET, entry=True)
    wait_until(lambda: first.poll() is not None or second.poll() is not None)
    if first.poll() is None:
        assert second.returncode == 1
        assert (
            f"another run is active in this folder: process {first.pid} on"
            in run.output.read_text()
        )
        return first
    return second


def disturb(run, stages, rng, undisturbed):
    """Kill one process during each of `stages`, and restart the run after each kill.

    Returns
    -------
    list of list of str
        Stages that were running at each kill. A stage that finished unseen has no kill.
    """
    expected, killed_stages, left = hash_results(undisturbed), [], set(stages)
    process, starts = run.start(TARGET, entry=True), 0
    while left:
        # Independent stages run in any order.
        if not (chances := sorted(left.intersection(running_stages(run)))):
            left = {stage for stage in left if not has_finished(run, stage, undisturbed)}
            if process.poll() is not None:
                assert starts < 5, run.output.read_text()[-20_000:]
                process, starts = run.start(TARGET, entry=True), starts + 1
            time.sleep(0.02)
            continue
        stage = rng.choice(chances)
        left.remove(stage)
        after = rng.uniform(0, 0.8 * shortest_job_s(undisturbed, stage))
        time.sleep(after)
        now = running_stages(run)
        if killed := kill_one(run, rng):
            print(f"{stage}, after {after:.1f} s, at {' '.join(now)}: killed {killed}", flush=True)
            killed_stages.append(now)
        time.sleep(0.2)
        assert incomplete_files(run, expected) == []
        process, starts = second_run(run, process), 0
    # Wait for the current run; the same command then makes all missing results.
    wait_until(lambda: process.poll() is not None, seconds=900)
    run.snakemake(TARGET, entry=True)
    return killed_stages


def test_killed_runs_give_the_same_results(undisturbed, finished_run, kills, rng):
    killed_stages = []
    while len(killed_stages) < kills:
        run = finished_run()
        run.remove_results()
        left = min(kills - len(killed_stages), len(STAGES))
        killed_stages += disturb(run, rng.sample(STAGES, left), rng, undisturbed)
        # All bytes are the same, which also shows that results are reproducible.
        assert hash_results(run) == hash_results(undisturbed)
        wait_until(lambda run=run: not processes(run), seconds=60)
        assert [str(path) for path in run.folder.rglob("*.partial")] == []
        # The results are known to be made with these settings.
        assert run.planned(TARGET) == {}
    counts = {stage: sum(stage in now for now in killed_stages) for stage in STAGES}
    print(counts, flush=True)
    assert kills < 2 * len(STAGES) or all(counts.values())
