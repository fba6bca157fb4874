"""Kill any process of a run at any time, start it again, and lose nothing.

What is killed and when is drawn with a seed; `--seed` draws the same again, as far as the machine
does the same.
"""

import hashlib
import os
import random
import time

import psutil
import pytest

pytestmark = pytest.mark.chaos

TARGET = "submission.zip"
# By script, what its jobs make, in the order in which data flow.
STAGES = {
    "check_inputs": ["results/check_inputs.json"],
    "datasplit": ["results/tiny/datasplit.csv"],
    "train": ["results/tiny/model.ckpt"],
    "predict_validation": ["results/tiny/validation/predictions"],
    "validate": ["results/tiny/validation/scores.json"],
    "predict": [f"results/tiny/predictions/demo_cell-{i}/crop{i + 4}" for i in (1, 2)],
    "segment": [
        f"results/segmentations/demo_cell-{crop - 4}/crop{crop}/{label}"
        for crop, labels in {5: ("nuc", "mito", "pm"), 6: ("mito", "pm")}.items()
        for label in labels
    ],
    "package": ["submission.zip"],
}
# Kills in one run from its begin to its end; more take several runs.
MOST = 12
# Seconds after the begin of a stage's job within which a process is killed.
WITHIN = 8.0


@pytest.fixture
def undisturbed(new_run):
    """What a run makes that nobody disturbs."""
    run = new_run()
    run.snakemake(TARGET, entry=True)
    return made(run)


def made(run):
    """By path, a hash of each file that does not tell how the run went."""
    files = [path for path in (run.folder / "results").rglob("*") if path.is_file()]
    found = {}
    for path in [run.folder / TARGET, *files]:
        name = path.relative_to(run.folder)
        if not {"logs", "benchmarks", "training"}.intersection(name.parts):
            found[str(name)] = digest(path)
    return found


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def half_written(run, expected):
    """Files that are there and not what they will be."""
    found = []
    for name, whole in expected.items():
        try:
            if digest(run.folder / name) != whole:
                found.append(name)
        except FileNotFoundError:
            continue
    return found


def processes(run):
    """All processes in the run's folder, also those that a dead Snakemake left; the oldest first."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(run.folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process.create_time(), process.pid, process.cmdline()))
        except psutil.Error:  # It has ended meanwhile, or is somebody else's.
            continue
    return sorted(found)


def works_on(run, stage):
    return any(f".{stage}.py" in word for *_, words in processes(run) for word in words)


def is_made(run, stage):
    return all((run.folder / path).exists() for path in STAGES[stage])


def kill_one(run, rng):
    """Kill one of the run's processes; what it was."""
    while True:
        _, pid, words = rng.choice(processes(run))
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
        return f"{pid} {' '.join(words)[-100:]}"


def disturb(run, stages, rng, expected):
    """Start the run as often as it takes, and kill one of its processes in each of the stages.

    Returns
    -------
    The number of kills: fewer where the run came to its end.
    """
    process = None
    for done, stage in enumerate(stages):
        while not works_on(run, stage):
            if process is None or process.poll() is not None:
                if is_made(run, TARGET_STAGE):
                    return done
                process = run.start(TARGET, entry=True)
            if is_made(run, stage):
                break
            time.sleep(0.05)
        after = rng.uniform(0, WITHIN)
        time.sleep(after)
        if process.poll() is not None:
            process = run.start(TARGET, entry=True)
            time.sleep(after)
        killed = kill_one(run, rng)
        print(f"{stage}, after {after:.1f} s: killed {killed}", flush=True)
        time.sleep(0.2)
        assert half_written(run, expected) == []
        if process.poll() is None:
            refused = run.snakemake(TARGET, entry=True, check=False)
            assert process.poll() is not None or "a run lives in this folder" in refused.stdout
    # Whatever the last one left, the same command goes on from there.
    if process.wait(300):
        run.snakemake(TARGET, entry=True)
    return len(stages)
