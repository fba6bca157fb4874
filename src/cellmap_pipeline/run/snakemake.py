"""Snakemake called again by a job of its own run: to draw the rule graph, to write the report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def run_snakemake(
    snakefile: str,
    configfiles: Sequence[str],
    config: Mapping[str, Any],
    arguments: Sequence[str],
) -> str:
    """What Snakemake prints for the same workflow, configuration and working directory.

    For calls that run no job and change no result. They take no lock: the run that waits for them
    holds it.

    Parameters
    ----------
    snakefile
        Of the run.
    configfiles
        Of the run; whatever they say, `config` is what counts.
    config
        The run's configuration with all that overrides it.
    arguments
        For Snakemake's command line.

    Raises
    ------
    subprocess.CalledProcessError
        Snakemake failed; what it had to say went to the standard error.
    """
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "config.json"
        whole.write_text(json.dumps(config))
        command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile]
        command += ["--configfile", *configfiles, str(whole), "--replace-workflow-config"]
        # The run's own profile says how to run jobs; none run here.
        command += ["--profile", "none", "--workflow-profile", "none", "--nolock", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr, file=sys.stderr)
    done.check_returncode()
    return done.stdout
