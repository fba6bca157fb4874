"""A page about the run: its configuration, its trainings and the versions of its software."""

from __future__ import annotations

import html
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cellmap_pipeline import __version__

REPORTED_PACKAGES = (
    "snakemake", "torch", "pytorch-lightning", "monai", "cellmap-data", "zarr",
)  # fmt: skip
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The run</title><style>
body {{ font-family: sans-serif; margin: 2em; max-width: 60em; }}
pre {{ background: #f4f4f4; padding: 1em; overflow-x: auto; }}
td, th {{ text-align: left; padding: 0.2em 1.5em 0.2em 0; }}
</style></head><body>
{body}
</body></html>
"""


def write_run_page(
    config: Mapping[str, Any],
    trainings: Mapping[str, Mapping[str, Any]],
    commit: str | None,
    path: Path,
) -> None:
    """Write the page about the run.

    Parameters
    ----------
    config
        The run's configuration.
    trainings
        All settings of each active training, by name.
    commit
        Commit of the workflow's code; None if the code is not in a git repository.
    path
        HTML to write.
    """
    # In a container and in conda's environment, this library is imported without being installed.
    versions = {"cellmap-pipeline": __version__}
    versions |= {name: version(name) for name in REPORTED_PACKAGES}
    versions["Python"] = platform.python_version()
    if commit:
        versions["workflow"] = f"commit {commit}"
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
        for name, text in versions.items()
    )
    parts = ["<h1>The run</h1>", _settings_html(config), "<h1>Trainings</h1>"]
    parts += [f"<h2>{html.escape(name)}</h2>{_settings_html(t)}" for name, t in trainings.items()]
    parts += [f"<h1>Made with</h1><table>{rows}</table>"]
    path.write_text(PAGE.format(body="\n".join(parts)), encoding="utf-8")


def _settings_html(values: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=100)
    return f"<pre>{html.escape(text)}</pre>"
