"""pyproject.toml, requirements.lock, the conda environments and the Makefile say the same."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cellmap_pipeline

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN = PYPROJECT["project"]["dependencies"]
DEVELOP = PYPROJECT["project"]["optional-dependencies"]["dev"]
BUILD = PYPROJECT["build-system"]["requires"]
LOCK_LINES = (ROOT / "requirements.lock").read_text().splitlines()


def read_pins(lines: list[str]) -> dict[str, str]:
    return dict(line.split("==", maxsplit=1) for line in lines)


def test_lock_holds_public_releases_once_each() -> None:
    """No index addresses, hashes, markers or local builds such as 2.13.0+cpu."""
    release = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*")
    assert [line for line in LOCK_LINES if not release.fullmatch(line)] == []
    assert len(read_pins(LOCK_LINES)) == len(LOCK_LINES)


@pytest.mark.parametrize("dependency", RUN + DEVELOP + BUILD)
def test_lock_is_within_the_bounds_of_pyproject(dependency: str) -> None:
    requirement = Requirement(dependency)
    version = read_pins(LOCK_LINES).get(canonicalize_name(requirement.name))
    assert version is not None, "not in requirements.lock: run `make lock`"
    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("dependency", RUN)
def test_dependency_has_a_lower_bound(dependency: str) -> None:
    assert any(bound.operator in (">=", "~=") for bound in Requirement(dependency).specifier)


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.name)
def test_conda_environment_pins_the_direct_dependencies_as_the_lock_does(path: Path) -> None:
    environment = yaml.safe_load(path.read_text())
    (pip_packages,) = (
        entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)
    )
    names = {canonicalize_name(Requirement(dependency).name) for dependency in RUN}
    expected = {name: pin for name, pin in read_pins(LOCK_LINES).items() if name in names}
    assert read_pins(pip_packages) == expected, "run `make lock` (a new package needs its line)"


def test_conda_environment_exists() -> None:
    assert list((ROOT / "envs").glob("*.yaml"))


def run_make(*arguments: str) -> str:
    # Not the flags of a `make test` that this test may run in.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    defined = re.findall(r"^([a-z-]+):(?!=)", makefile, flags=re.MULTILINE)
    listed = re.findall(r"^ +make ([a-z-]+) +\S", run_make("help"), flags=re.MULTILINE)
    assert listed == defined
    assert sorted(listed) == sorted(phony.split())


def test_make_alone_prints_the_help() -> None:
    assert run_make() == run_make("help") != ""


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == cellmap_pipeline.__version__ == PYPROJECT["project"]["version"]
