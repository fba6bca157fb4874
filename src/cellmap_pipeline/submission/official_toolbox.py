"""The challenge's official toolbox, run on a submission in a process of its own.

The toolbox (cellmap-segmentation-challenge, not on PyPI) is optional. It runs in a separate
process, because it configures logging globally, unpacks the zip next to it or takes a stale folder
from there, and when imported overwrites its manifest with the one downloaded from a URL. So it gets
a private copy of the zip in an empty folder, its own manifest as the URL, and limits on its time
and memory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import toolbox_manifest, write_manifest
from cellmap_pipeline.errors import InputError

TOOLBOX = "cellmap_segmentation_challenge"
MANIFEST_URL = "CSC_TEST_CROP_MANIFEST_URL"
SOURCE_FOLDER = Path(__file__).resolve().parents[2]
ZIP, MANIFEST, RESULT = "submission.zip", "manifest.csv", "result.json"
MAX_HOURS = 24.0


def run_toolbox(
    module: str,
    path: str | Path,
    manifest: Sequence[CropLabel],
    *,
    part: str,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    memory_gb: float | None = None,
) -> Any:
    """Run a module that uses the toolbox on a submission; return what its work returns.

    Parameters
    ----------
    module
        Module of this package that ends with a call of `work_in_process`.
    path
        Path of the zip; it is unpacked in a temporary folder next to it.
    manifest
        Labels of the submission; the module finds them in `MANIFEST`.
    part
        Name of the part of the toolbox that is used, for errors.
    arguments
        Arguments of the module's work.
    environment
        Further environment variables.
    memory_gb
        Memory of each process of the toolbox, in GiB; by default all of the machine's.

    Raises
    ------
    InputError
        The toolbox is not installed, does not run, or does not finish.
    """
    if importlib.util.find_spec(TOOLBOX) is None:
        raise InputError(
            "the official toolbox (cellmap-segmentation-challenge) is not installed, so its "
            f"{part} was not run: install it from "
            "https://github.com/janelia-cellmap/cellmap-segmentation-challenge, or omit "
            "--official"
        )
    path = Path(path).resolve()
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory_bytes = int(memory_gb * 2**30) if memory_gb else machine_bytes
    # The disk of the zip had room for it, and allows a hard link to it.
    parent = path.parent if os.access(path.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".official-", dir=parent) as name:
        folder = Path(name)
        try:
            os.link(path, folder / ZIP)
        except OSError:
            shutil.copyfile(path, folder / ZIP)
        write_manifest(manifest, folder / MANIFEST)
        variables = {
            MANIFEST_URL: str(toolbox_manifest()),
            "PYTHONPATH": os.pathsep.join([str(SOURCE_FOLDER), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", module, str(memory_bytes), *arguments]
        failure = _failure(command, folder, os.environ | variables | dict(environment or {}))
        if not (folder / RESULT).is_file():
            hint = f", or raise --memory-gb from {memory_gb:g}" if memory_gb else ""
            raise InputError(f"the official toolbox {failure}{hint}")
        return json.loads((folder / RESULT).read_text())


def work_in_process(work: Callable[..., Any]) -> None:
    """Do the work of a module started by `run_toolbox`, in limited memory, and store its result.

    Parameters
    ----------
    work
        Called with the folder of the zip and the arguments of `run_toolbox`.
    """
    folder = Path.cwd()
    memory_bytes, *arguments = sys.argv[1:]
    _, highest = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(memory_bytes)
    if highest != resource.RLIM_INFINITY:
        limit = min(limit, highest)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, highest))
    result = work(folder, *arguments)
    (folder / RESULT).write_text(json.dumps(result))


def _failure(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command to its end; return what is wrong with the toolbox if it left no result."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        # A session of its own, so that the processes of the toolbox end with it.
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            exit_code = process.wait(MAX_HOURS * 3600)
        except subprocess.TimeoutExpired:
            return f"did not finish within {MAX_HOURS:g} hours: omit --official"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        last_line = (log.read().strip() or "no message").splitlines()[-1]
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was ended by {name}, as when memory is short ({last_line}): use a larger machine"
    return f"does not run ({last_line}): reinstall it"
