"""The Containerfile takes its base by a digest, and installs what requirements.lock pins."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = dict(
    line.split("==", maxsplit=1) for line in (ROOT / "requirements.lock").read_text().splitlines()
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Small packages, of Python alone and with compiled parts; the last one stands for the extra.
SOME, EXTRA = ["pyyaml", "tqdm", "mrcfile", "numpy"], "onnx"


def instructions() -> list[tuple[str, list[str]]]:
    """Return the instructions of the Containerfile, each with its words."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], shlex.split(line)[1:]) for line in lines if line.strip()]


def uv_command(folder: Path, *options: str) -> list[str]:
    """Return the command that installs the packages, with the files of `folder`, not as root."""
    (words,) = (words for name, words in instructions() if name == "RUN" and words[0] == "uv")
    uv = shutil.which("uv") or ROOT / ".uv/bin/uv"
    if not Path(uv).exists():
        pytest.skip("uv is neither on PATH nor in .uv")
    ours = [word.replace("/build/", f"{folder}/") for word in words[1:]]
    where = ["--python", sys.executable, "--target", f"{folder}/packages"]
    ours[ours.index("--system") : ours.index("--system") + 1] = [*where, *options]
    ours.remove("--no-cache")
    return [str(uv), *ours]


def installed(*requirements: str) -> dict[str, str]:
    return {name: LOCK[name] for name in map(canonicalize_name, requirements)}


def test_the_base_is_named_by_its_digest_and_what_is_copied_exists():
    (base,) = (words for name, words in instructions() if name == "FROM")
    assert re.fullmatch(r"docker[.]io/library/python:3[.]11-\S+@sha256:[0-9a-f]{64}", *base)
    copied = [words for name, words in instructions() if name == "COPY"]
    assert copied == [["pyproject.toml", "requirements.lock", "/build/"]]
    assert all((ROOT / name).is_file() for name in copied[0][:-1])


def test_nothing_but_debian_and_the_package_index_is_used():
    commands = [words[0] for name, words in instructions() if name == "RUN"]
    assert commands == ["apt-get", "pip", "uv"]
    text = (ROOT / "Containerfile").read_text()
    assert "://" not in text and "index-url" not in text
    # The image would hide the library of the workflow, whose folder comes last in its search path.
    assert not re.search(r"pip install.* (\.|cellmap-pipeline)( |$)", text, re.M)


@pytest.mark.slow
def test_all_dependencies_are_installed_at_the_versions_of_the_lock(tmp_path):
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        uv_command(tmp_path, "--dry-run"), capture_output=True, text=True, check=True
    )
    planned = dict(re.findall(r"^ \+ (\S+)==(\S+)$", done.stderr, re.M))
    assert planned.items() <= LOCK.items()
    needed = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["export"]
    assert installed(*(Requirement(each).name for each in needed)).items() <= planned.items()
    assert {"nvidia-cudnn-cu13", "triton"} <= planned.keys()
    assert not {"cellmap-pipeline", "pytest", "ruff"} & planned.keys()


@pytest.mark.slow
def test_the_installation_works_for_some_packages(tmp_path):
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        f"[project]\nname = 'some'\nversion = '0'\ndependencies = {SOME}\n"
        f"optional-dependencies.export = ['{EXTRA}']\n"
    )
    subprocess.run(uv_command(tmp_path), capture_output=True, check=True)
    report = (
        "import json, sys; from importlib.metadata import version; import yaml, tqdm, numpy, onnx;"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}), numpy.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "packages")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", report, *SOME, EXTRA],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    versions, _, path = done.stdout.strip().rpartition(" ")
    assert path.startswith(str(tmp_path))
    assert all(f'"{name}": "{pin}"' in versions for name, pin in installed(*SOME, EXTRA).items())
    assert list((tmp_path / "packages/numpy").glob("__pycache__/*.pyc"))
