"""Signals reach the scripts of a process, through shells, and nothing that the scripts started."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.support.runs import wait_until

# Stands in for Snakemake, which starts scripts by bash. A shell with more to do waits for its
# script, else the script takes its place.
JOB = """
import signal
import subprocess
import sys

from cellmap_pipeline.run.signals import forward_to_scripts

forward_to_scripts()
signal.signal(signal.SIGTERM, lambda *_: open("snakemake.SIGTERM", "w").close())
commands = ["python script.py replacing", "python script.py waited_for; exit $?"]
jobs = [subprocess.Popen(["bash", "-c", f"set -euo pipefail; {each}"]) for each in commands]
sys.exit([job.wait() for job in jobs] != [75, 75])
"""
# Stands in for a training, which ends by itself once it has stopped its own child process.
SCRIPT = """
import signal
import subprocess
import sys
import time

name = sys.argv[1]
signals = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: signals.append(signal.Signals(number)))
own = subprocess.Popen(["sleep", "60"])
open(f"{name}.ready", "w").close()
while not signals:
    time.sleep(0.01)
time.sleep(0.2)
assert own.poll() is None
own.kill()
own.wait()
open(f"{name}.{signals[0].name}", "w").close()
sys.exit(75)
"""


@pytest.fixture
def job(tmp_path):
    """A process whose two scripts are running."""
    (tmp_path / "script.py").write_text(SCRIPT)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-c", JOB], cwd=tmp_path, env=os.environ | {"PATH": path},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.ready"))) == 2, process)
        yield process
    finally:
        with suppress(ProcessLookupError):  # All have ended.
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_reaches_scripts(job, tmp_path, number):
    job.send_signal(number)
    _, printed = job.communicate(timeout=30)
    assert job.returncode == 0
    assert printed.count(f"{number.name} is forwarded to process ") == 2
    for name in ("replacing", "waited_for"):
        assert (tmp_path / f"{name}.{number.name}").exists()
    # The handler that was installed later has run, too.
    assert (tmp_path / "snakemake.SIGTERM").exists() == (number == signal.SIGTERM)
