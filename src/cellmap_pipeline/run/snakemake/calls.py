"""Calls of Snakemake by a job of its own run, for the rule graph and the report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cellmap_pipeline.errors import InputError


def run_snakemake(
    snakefile: str,
    configfiles: Sequence[str],
    config: Mapping[str, Any],
    arguments: Sequence[str],
) -> str:
    """Call Snakemake for the same workflow, configuration and folder, and return its output.

    The call must neither run jobs nor change results. It takes no lock: the run that waits for it
    holds the folder's.

    Parameters
    ----------
    snakefile
        Snakefile of the run.
    configfiles
        Configuration files of the run. `config` overrides them.
    config
        The run's complete configuration.
    arguments
        Further command-line arguments of Snakemake.

    Raises
    ------
    InputError
        Snakemake failed. Its messages are printed to the standard error.
    """
    with TemporaryDirectory() as folder:
        complete = Path(folder) / "config.json"
        # YAML reads unquoted dates, such as the name of a set of rules, as dates.
        complete.write_text(json.dumps(config, default=str))
        command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile]
        command += ["--configfile", *configfiles, str(complete), "--replace-workflow-config"]
        # The run's profile only configures how jobs are run.
        command += ["--profile", "none", "--workflow-profile", "none", "--nolock", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr, file=sys.stderr)
    if done.returncode:
        raise InputError(
            f"snakemake {' '.join(arguments)} failed; its messages are above. If the configuration "
            "was changed during the run, correct it and start again"
        )
    return done.stdout
