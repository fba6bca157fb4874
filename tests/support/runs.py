"""Runs of Snakemake in temporary folders, and the fixtures that make them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cellmap_pipeline.demo.make import make_demo
from tests.support.forked import run_snakemake

# Small enough that a whole run takes a minute or two.
TINY = {
    "classes": ["nuc", "mito", "pm"],
    "voxel_size": 8,
    "model": {"architecture": "monai_basic_unet3d", "features": [4, 4, 8, 8, 8, 4]},
    "patch_size": 32,
    "batch_size": 1,
    "epochs": 1,
    "iterations_per_epoch": 8,
    "validation_iterations": 2,
    "accumulate_grad_batches": 1,
    "learning_rate": 1e-2,
    "num_workers": 1,
    "targets": {"mito": [{"affinities": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 4]]}]},
    "augment": {"rotate90": False},
    "inference": {"overlap": 0.25},
}


@dataclass
class Run:
    """A working directory with a configuration, and Snakemake to run in it.

    `profile` names one of this repository's profiles; `options` precede the arguments of each call.
    """

    folder: Path
    root: Path
    profile: str = "local"
    options: tuple[str, ...] = ("--cores", "2")

    def configure(self, **changes: object) -> None:
        """Write config/config.yaml with these keys changed."""
        path = self.folder / "config/config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def setting(self, key: str) -> Any:
        """Return the value of a key in config/config.yaml."""
        return yaml.safe_load((self.folder / "config/config.yaml").read_text())[key]

    def train(self, name: str, **changes: object) -> None:
        """Write the file of training `name`: the tiny training with these keys changed."""
        path = self.folder / f"config/training/{name}.yaml"
        settings: dict[str, Any] = TINY | changes
        targets = settings["targets"].items()
        settings["targets"] = {name: t for name, t in targets if name in settings["classes"]}
        path.write_text(yaml.safe_dump(settings))

    def remove_results(self) -> None:
        """Remove everything but the configuration and the data."""
        for name in ("results", ".snakemake"):
            shutil.rmtree(self.folder / name)
        for path in list(self.folder.iterdir()):
            if path.is_symlink() or path.name == "submission.zip":
                path.unlink()

    def command(self, *arguments: str, entry: bool = False) -> list[str]:
        """Return the command line of Snakemake, or of `cellmap-pipeline run` if `entry`."""
        start = ["cellmap_pipeline.cli", "run"] if entry else ["snakemake"]
        return [sys.executable, "-m", *start, *self._options(*arguments)]

    def _options(self, *arguments: str) -> list[str]:
        snakefile, profile = self.root / "Snakefile", self.root / "profiles" / self.profile
        files = ["--snakefile", str(snakefile), "--profile", str(profile)]
        return [*files, *self.options, *arguments]

    def start(self, *arguments: str, entry: bool = False) -> subprocess.Popen[str]:
        """Start a run in a new session; its output is appended to the file `output`."""
        with self.output.open("a") as file:
            return subprocess.Popen(
                self.command(*arguments, entry=entry), cwd=self.folder, text=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "2"}, start_new_session=True,
            )  # fmt: skip

    @property
    def output(self) -> Path:
        """File with the output of started runs."""
        return self.folder / "output.log"

    @property
    def waited_output(self) -> Path:
        """File with the output of the last run that was waited for."""
        return self.folder / "waited.log"

    def snakemake(
        self, *arguments: str, check: bool = True, entry: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end; `stdout` has both output streams."""
        if not entry:
            done = run_snakemake(self._options(*arguments), self.folder, self.waited_output)
        else:
            done = subprocess.run(
                self.command(*arguments, entry=entry), cwd=self.folder, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "2"}, check=False,
            )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return done

    def job(self, script: str) -> int:
        """Return the process id of this folder's job that runs workflow/scripts/{script}.py."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError):  # The process has ended meanwhile.
                continue
            ours = [w for w in words if w.startswith(str(self.folder))]
            if "python" in words[0] and any(w.endswith(f".{script}.py") for w in ours):
                return int(entry.parent.name)
        raise AssertionError(f"no job runs {script}.py")

    def planned(self, *targets: str) -> dict[str, int]:
        """Return the number of jobs of each rule that a run would execute now."""
        output = self.snakemake("--dry-run", *targets).stdout
        table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", output, re.S)
        assert table or "Nothing to be done" in output, output
        jobs = dict(line.split() for line in table[1].splitlines()) if table else {}
        jobs.pop("total", None)
        return {rule: int(count) for rule, count in jobs.items()}


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 300
) -> object:
    """Return the value of `condition` as soon as it is true; fail if `process` ends before."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Function that makes a folder once for all processes of a test run.

    `SHARED_TEST_FOLDER` names a folder that several test runs share; `.ci/run` sets it.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    base = Path(os.environ.get("SHARED_TEST_FOLDER", base))

    def get(name: str, make: Callable[[Path], None]) -> Path:
        folder, partial = base / name, base / f"{name}.partial"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
        return folder

    return get


@pytest.fixture(scope="session")
def small_data(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The small demo data, which no test changes."""
    return once("small_data", lambda folder: make_demo(folder, size="small", progress=False))


def _configured(folder: Path, root: Path, data: str | Path) -> Run:
    """Configure a run in `folder` of the tiny training on the small demo data at `data`."""
    (folder / "config/training").mkdir(parents=True)
    run = Run(folder, root)
    config = {
        "data_root": f"{data}",
        "test_crops": f"{data}/test_crop_manifest.csv",
        "ground_truth": f"{data}/ground_truth.zarr",
        "trainings": ["tiny"],
    }
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    run.train("tiny")
    return run


@pytest.fixture(scope="session")
def new_run(
    small_data: Path, tmp_path_factory: pytest.TempPathFactory, repo_root: Path
) -> Callable[[], Run]:
    """Function that makes a working directory for the tiny training on the small demo data."""
    return lambda: _configured(tmp_path_factory.mktemp("run"), repo_root, small_data)


@pytest.fixture(scope="session")
def finished_run(
    once: Callable[[str, Callable[[Path], None]], Path],
    small_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    repo_root: Path,
) -> Callable[[], Run]:
    """Function that copies a finished run of the tiny training, with its own data in `data`.

    The run is made once; all of its paths are relative, so a copy is a finished run too.
    """

    def make(folder: Path) -> None:
        shutil.copytree(small_data, folder / "data")
        _configured(folder, repo_root, "data").snakemake("all")

    def copy() -> Run:
        finished = once("finished_run", make)
        folder = tmp_path_factory.mktemp("finished") / "run"
        shutil.copytree(finished, folder, symlinks=True)
        return Run(folder, repo_root)

    return copy
