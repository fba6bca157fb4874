"""Runs of Snakemake in folders of their own, and the fixtures that make them."""

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
    "augment": {"rotate90": False},
    "inference": {"overlap": 0.25},
}


@dataclass
class Run:
    """A working directory with a configuration, and Snakemake to run in it.

    `profile` is one of this repository's; `options` go before the arguments of each call.
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
        """What config/config.yaml says."""
        return yaml.safe_load((self.folder / "config/config.yaml").read_text())[key]

    def train(self, name: str, **changes: object) -> None:
        """Write the file of training `name`: the tiny one with these keys changed."""
        path = self.folder / f"config/training/{name}.yaml"
        path.write_text(yaml.safe_dump(TINY | changes))

    def remove_results(self) -> None:
        """Leave nothing but the configuration and the data."""
        for name in ("results", ".snakemake"):
            shutil.rmtree(self.folder / name)
        for path in list(self.folder.iterdir()):
            if path.is_symlink() or path.name == "submission.zip":
                path.unlink()

    def command(self, *arguments: str, entry: bool = False) -> list[str]:
        """Snakemake's command line, or that of `cellmap-pipeline run`."""
        start = ["cellmap_pipeline.cli", "run"] if entry else ["snakemake"]
        snakefile, profile = self.root / "Snakefile", self.root / "profiles" / self.profile
        files = ["--snakefile", str(snakefile), "--profile", str(profile)]
        return [sys.executable, "-m", *start, *files, *self.options, *arguments]

    def start(self, *arguments: str, entry: bool = False) -> subprocess.Popen[str]:
        """Begin a run; what it says goes to `said`, and it is the first of a session of its own."""
        with self.said.open("a") as file:
            return subprocess.Popen(
                self.command(*arguments, entry=entry), cwd=self.folder, text=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "2"}, start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> Path:
        """What runs that were started have said."""
        return self.folder / "said.log"

    def snakemake(
        self, *arguments: str, check: bool = True, entry: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake here; its output is both streams together."""
        done = subprocess.run(
            self.command(*arguments, entry=entry), cwd=self.folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "2"}, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return done

    def job(self, script: str) -> int:
        """The process id of the job that runs workflow/scripts/{script}.py here."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
                continue
            ours = [w for w in words if w.startswith(str(self.folder))]
            if "python" in words[0] and any(w.endswith(f".{script}.py") for w in ours):
                return int(entry.parent.name)
        raise AssertionError(f"no job runs {script}.py")

    def planned(self, *targets: str) -> dict[str, int]:
        """How many jobs of each rule a run would do now."""
        output = self.snakemake("--dry-run", *targets).stdout
        table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", output, re.S)
        lines = table[1].splitlines() if table else []
        jobs = dict(line.split() for line in lines)
        jobs.pop("total", None)
        return {rule: int(count) for rule, count in jobs.items()}


def wait_until(
    happened: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 300
) -> object:
    """What `happened` returns as soon as it is true, as long as `process` runs."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once for all processes of a test run, and read it in each of them.

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
    """The small demo data; no test changes them."""
    return once("small_data", lambda folder: make_demo(folder, size="small", progress=False))


def _configured(folder: Path, root: Path, data: str | Path) -> Run:
    """A run in `folder` with the tiny training on the small demo data at `data`."""
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
    """Make a working directory configured for the tiny training on the small demo data."""
    return lambda: _configured(tmp_path_factory.mktemp("run"), repo_root, small_data)


@pytest.fixture(scope="session")
def finished_run(
    once: Callable[[str, Callable[[Path], None]], Path],
    small_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    repo_root: Path,
) -> Callable[[], Run]:
    """Copy a finished run of the tiny training, with data of its own in `data`.

    The run is made once; all of its paths are relative, so that a copy is finished, too.
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
