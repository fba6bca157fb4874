"""The workflows of GitHub Actions run commands that exist, by actions at fixed commits."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cellmap_pipeline import __version__

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*"))
NOTES = ".ci/release_notes.py"


def steps(path: Path) -> list[dict]:
    """Return the steps of a workflow's jobs, with the targets of make for `matrix.target`."""
    found = []
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        targets = job.get("strategy", {}).get("matrix", {}).get("target", [""])
        for step in job["steps"]:
            run = step.get("run", "")
            runs = [run.replace("${{ matrix.target }}", target) for target in targets]
            found += [step | {"run": each} for each in dict.fromkeys(runs)]
    return found


def test_there_are_workflows():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_has_few_rights_and_bounds(path):
    # YAML reads the key `on` as a boolean.
    content = yaml.safe_load(path.read_text())
    assert content.keys() == {"name", True, "permissions", "jobs"} | content.keys() & {
        "concurrency"
    }
    assert content["permissions"] == {"contents": "write" if path.stem == "release" else "read"}
    assert all(job["timeout-minutes"] <= 60 for job in content["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_name_their_version(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used and all(
        re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line) for line in used
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_commands_exist(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    commands = [step["run"] for step in steps(path) if step["run"]]
    assert commands
    for command in commands:
        program, argument, *_ = command.split()
        known = {"make": targets, "python3": [NOTES], "gh": ["release"]}
        assert argument in known[program], command


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project whose changes are released as its version."""
    for name in (NOTES, "CHANGELOG.md", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    text = (tmp_path / "CHANGELOG.md").read_text()
    assert text.count("## [Unreleased]\n") == 1
    released = f"## [Unreleased]\n\n## [{__version__}] - 2026-12-01\n"
    text = text.replace("## [Unreleased]\n", released)
    (tmp_path / "CHANGELOG.md").write_text(f"{text}\n## [0.0.1] - 2026-01-01\n\n- The first.\n")
    return tmp_path


def notes(project: Path, tag: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-I", NOTES, tag]
    return subprocess.run(command, cwd=project, capture_output=True, text=True)


def test_release_notes_are_the_section_of_the_version(project):
    done = notes(project, f"v{__version__}")
    assert done.returncode == 0, done.stderr
    own = (ROOT / "CHANGELOG.md").read_text().partition("## [Unreleased]\n")[2]
    assert done.stdout == own.strip() + "\n"
    assert done.stdout.startswith("### ") and "The first." not in done.stdout


def test_a_tag_without_notes_or_of_another_version_is_refused(project):
    wrong = notes(project, "v9.9.9")
    assert (
        wrong.returncode == 1 and f"but pyproject.toml says {__version__}: set both" in wrong.stderr
    )
    (project / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{__version__}]\n\n## [0.0.1]\n- x\n")
    empty = notes(project, f"v{__version__}")
    assert empty.returncode == 1 and "or an empty one" in empty.stderr and empty.stdout == ""
