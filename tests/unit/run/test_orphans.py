"""What a pool's workers do when the process that started them is killed."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.runs import wait_until

SCRIPT = """
import time

from cellmap_pipeline.segmentation.blocks import cut
from cellmap_pipeline.run.pools import workers
from cellmap_pipeline.run.pools import run_bounded


def work(task):
    print("at work", flush=True)
    time.sleep(0.1)


def begin():
    pass


if __name__ == "__main__":
    if {blocks}:
        with workers(2) as pool:
            list(pool.run(work, cut((10_000, 1, 1), 1), "blocks"))
    else:
        tasks = [1] * 10_000
        list(run_bounded(work, tasks, tasks, 2, None, begin, (), "tasks"))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("blocks", [True, False])
def test_they_end_with_it(tmp_path, blocks, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(blocks=blocks))
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen([sys.executable, script], stdout=said, stderr=said)
    wait_until(lambda: "at work" in (tmp_path / "said").read_text(), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(process.pid, number)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    for child in alive:
        child.kill()
    assert alive == []
