"""Kill any process of a run at any time, start it again, and lose nothing.

What is killed and when is drawn with a seed; `--seed` draws the same again, as far as the machine
does the same.
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
# In the order in which data flow; each is the name of its script, too.
STAGES = [
    "check_inputs", "datasplit", "train", "predict_validation", "validate", "predict", "segment",
    "package",
]  # fmt: skip
# In the results of the undisturbed run, which is a whole one, what the target does not take.
NOT_OF_TARGET = {
    "figures", "report.html", "scores.json", "scores.csv", "leaderboard.csv", "selection.csv",
    "dag.mmd", "dag.svg",
}  # fmt: skip


@pytest.fixture
def undisturbed(finished_run):
    """A run that nobody disturbs."""
    return finished_run()


def made(run):
    """By path, a hash of each file that does not tell how the run went."""
    found = {}
    for path in [run.folder / TARGET, *(run.folder / "results").rglob("*")]:
        name = path.relative_to(run.folder)
        how_it_went = {"logs", "benchmarks", "training"}.intersection(name.parts)
        if path.is_file() and not how_it_went and not NOT_OF_TARGET.intersection(name.parts[1:2]):
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def half_written(run, expected):
    """Files that are there and not what they will be."""
    found = []
    for name, whole in expected.items():
        try:
            content = (run.folder / name).read_bytes()
        except FileNotFoundError:
            continue
        if hashlib.sha256(content).hexdigest() != whole:
            found.append(name)
    return found


def benchmarks(run, stage):
    """The benchmarks of a stage's jobs that ended, below the run's folder."""
    folder = run.folder / "results/benchmarks"
    tables = [*folder.glob(f"{stage}.tsv"), *folder.glob(f"{stage}/**/*.tsv")]
    return {path.relative_to(run.folder) for path in tables}


def is_over(run, stage, undisturbed):
    """Whether all jobs of a stage have ended; of the check, which has no benchmark, by its file."""
    if stage == "check_inputs":
        return (run.folder / "results/check_inputs.json").exists()
    return benchmarks(run, stage) >= benchmarks(undisturbed, stage)


def seconds(run, stage):
    """How long the shortest job of a stage took; of the check, a guess."""
    times = []
    for path in benchmarks(run, stage):
        with (run.folder / path).open() as file:
            times += [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
    return min(times, default=2.0)


def processes(run):
    """By number, the command lines of all processes in the run's folder, also of those that a dead
    Snakemake left."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(run.folder) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:  # It has ended meanwhile, or is somebody else's.
            continue
    return found


def at_work(run):
    """The stages whose scripts run."""
    lines = " ".join(processes(run).values())
    return [stage for stage in STAGES if f".{stage}.py" in lines]


def kill_one(run, rng):
    """Kill one of the run's processes; what it was, or nothing where none is there any more."""
    while found := processes(run):
        pid, line = rng.choice(sorted(found.items()))
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
        return f"{pid} {line[-100:]}"
    return None


def second_run(run, first):
    """Start a run beside one that may live: it is refused, or is the next; the one that is left."""
    second = run.start(TARGET, entry=True)
    wait_until(lambda: first.poll() is not None or second.poll() is not None)
    if first.poll() is None:
        assert second.returncode == 1
        assert f"a run lives in this folder: process {first.pid} on" in run.said.read_text()
        return first
    return second


def disturb(run, stages, rng, undisturbed):
    """Kill one process while each of `stages` is at work, and start the run again after each.

    Returns
    -------
    For each kill, the stages that were at work; none for a stage that was over unseen.
    """
    expected, hit, left = made(undisturbed), [], set(stages)
    process, starts = run.start(TARGET, entry=True), 0
    while left:
        # Stages without an edge between them run in any order.
        if not (chances := sorted(left.intersection(at_work(run)))):
            left = {stage for stage in left if not is_over(run, stage, undisturbed)}
            if process.poll() is not None:
                assert starts < 5, run.said.read_text()[-20_000:]
                process, starts = run.start(TARGET, entry=True), starts + 1
            time.sleep(0.02)
            continue
        stage = rng.choice(chances)
        left.remove(stage)
        after = rng.uniform(0, 0.8 * seconds(undisturbed, stage))
        time.sleep(after)
        now = at_work(run)
        if killed := kill_one(run, rng):
            print(f"{stage}, after {after:.1f} s, at {' '.join(now)}: killed {killed}", flush=True)
            hit.append(now)
        time.sleep(0.2)
        assert half_written(run, expected) == []
        process, starts = second_run(run, process), 0
    # A run that goes on comes to an end; the same command then makes what is missing.
    wait_until(lambda: process.poll() is not None, seconds=900)
    run.snakemake(TARGET, entry=True)
    return hit


def test_nothing_is_lost(undisturbed, finished_run, kills, rng):
    hit = []
    while len(hit) < kills:
        run = finished_run()
        run.remove_results()
        left = min(kills - len(hit), len(STAGES))
        hit += disturb(run, rng.sample(STAGES, left), rng, undisturbed)
        # The same bytes: so also without kills, the same settings make the same.
        assert made(run) == made(undisturbed)
        wait_until(lambda run=run: not processes(run), seconds=60)
        assert [str(path) for path in run.folder.rglob("*.partial")] == []
        # With which settings all of it was made is known.
        assert run.planned(TARGET) == {}
    counts = {stage: sum(stage in now for now in hit) for stage in STAGES}
    print(counts, flush=True)
    assert kills < 2 * len(STAGES) or all(counts.values())
