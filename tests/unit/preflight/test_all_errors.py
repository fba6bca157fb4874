"""All errors in the inputs are reported at once, and the documentation quotes them correctly."""

import os
import re

from tests.support.spoiled import PARSING, check_run, make_folder, pattern
from tests.unit.config import test_bad_config
from tests.unit.data import test_bad_tables
from tests.unit.data.importing import test_bad_sources
from tests.unit.io import test_bad_volumes, test_bad_yaml, test_files
from tests.unit.models import test_bad_model
from tests.unit.plan import test_bad_plan
from tests.unit.preflight import test_bad_data, test_resources, test_warnings
from tests.unit.run import test_jobs, test_pools, test_scratch
from tests.unit.submission import test_bad_zip
from tests.unit.training import test_bad_weights, test_interruption

TABLES = (
    test_bad_yaml,
    test_bad_volumes,
    test_bad_tables,
    test_bad_model,
    test_bad_config,
    test_bad_plan,
    test_bad_weights,
    test_bad_data,
)
ROWS = {name: row for module in TABLES for name, row in module.ROWS.items()}


def test_valid_folder_passes(folder):
    assert check_run(folder) == ("", "")


def test_all_problems_are_reported_at_once(folder):
    for name in ("no manifest", "tabs"):
        ROWS[name].spoil(folder)
    folder.configure_training(epochs=-1)
    assert check_run(folder)[0] == PARSING
    folder = make_folder(folder.path / "again")
    os.chdir(folder.path)
    wrong = [
        "NaN in raw",
        "negative ids",
        "initial weights with code",
    ]
    for name in wrong:
        ROWS[name].spoil(folder)
    _, report = check_run(folder)
    assert all(re.search(pattern(ROWS[name].message), report) for name in wrong), report
    assert len(report.splitlines()) == len(wrong)


def test_docs_quote_tested_messages(repo_root):
    """Each message that docs/troubleshooting.md explains is expected by a test."""
    tested = {row.message for row in ROWS.values()}
    tested |= {message for message, _ in test_warnings.WARNINGS.values()}
    tested |= {message for message, _ in test_bad_zip.SUBMISSIONS.values()}
    tested |= test_bad_sources.SOURCES.keys()
    tested |= {test_resources.DISK_FULL, test_resources.TOO_FEW_GPUS, test_resources.UNUSABLE_GPU}
    tested |= {test_files.UNAVAILABLE, test_interruption.NONE_READABLE}
    tested |= {test_jobs.DISK_FULL, test_jobs.NO_QUOTA}
    tested |= {test_scratch.NO_FOLDER, test_pools.ONE_PROCESS}
    assert len(tested) >= 40
    text = (repo_root / "docs/troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `` (.+?) `` \|", text, re.MULTILINE)
    assert len(quoted) >= 40
    for quote in quoted:
        assert any(re.search(pattern(quote), message) for message in tested), quote
