"""Every command in the docs works.

In a folder with a finished small run, commands of Snakemake are planned, commands of
``cellmap-pipeline`` are run, and benchmarks and targets of make are looked up. Any other command
fails the test.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.foreign_volumes import write_hdf5, write_sections
from tests.support.forked import run_snakemake

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Placeholders of the docs, and their values in the small run.
PLACEHOLDERS = {
    "/path/to/cellmap-pipeline": str(ROOT),
    " profiles/": f" {ROOT}/profiles/",
    "results/NAME": "results/tiny",
    "export NAME": "export tiny",
    "DATASET": "demo_cell-1",
    "{training}": "tiny",
    "{name}": "tiny",
    "{dataset}": "demo_cell-1",
    "FOLDER": "results/segmentations",
}
# Options with which Snakemake knows its number of cores, or needs none.
CORES = re.compile(r" (--profile|--cores|-c ?\d+|--dry-run|-n|--rulegraph|--dag|--lint|--unlock)\b")
# Commands of the shell, or for other machines.
NOT_TESTED = (
    "cd ",
    "git ",
    "source ",
    ". ",
    "export ",
    "ssh ",
    "pre-commit ",
    "sbatch ",
    "rm ",
    "pip ",
    "podman ",
    "apptainer ",
    "napari ",
)


def commands(page: Path) -> list[str]:
    """Return the commands in a page's blocks of shell code and in its text, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.S | re.M)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    # In running text, only commands of these programs are meant to be typed.
    inline = re.findall(r"`((?:snakemake|cellmap-pipeline|python|make) [^`]*)`", text)
    found = [re.sub(r"\s#.*", "", line).strip() for line in [*lines, *inline]]
    return [part.strip() for line in found if line for part in line.split("&&")]


# Each command, with the first page that has it.
FIRST_PAGES = {c: page.relative_to(ROOT).as_posix() for page in PAGES[::-1] for c in commands(page)}
COMMANDS = sorted(FIRST_PAGES.items())


@pytest.fixture(scope="module")
def run(finished_run):
    """A finished run with the files that the docs name."""
    made = finished_run()
    for name, key in (("test_crop_manifest.csv", "test_crops"), ("truth.zarr", "ground_truth")):
        (made.folder / name).symlink_to(made.setting(key))
    write_sections(made.folder / "sections", np.full((40, 90, 90), 100, np.uint8))
    write_hdf5(made.folder / "mito.h5", np.ones((20, 40, 40), np.uint8))
    return made


def split_command(command: str) -> list[str]:
    """Return the words of a command, with placeholders replaced by names of the small run."""
    for placeholder, ours in PLACEHOLDERS.items():
        command = command.replace(placeholder, ours)
    command = command.replace("…", "").replace("[", "").replace("]", "")
    # Crop numbers.
    return shlex.split(re.sub(r"crop(234|557)\b", "crop5", re.sub(r"\b557\b", "5", command)))


def has_target(target: str) -> bool:
    return bool(re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.M))


def test_docs_have_commands():
    assert len(COMMANDS) > 40
    assert ("make demo", "README.md") in COMMANDS


@pytest.mark.parametrize(("command", "page"), COMMANDS)
def test_commands_specify_the_number_of_cores(page, command):
    if command.startswith(("snakemake ", "cellmap-pipeline run ")):
        assert CORES.search(command), f"{page}: `{command}` stops at once: cores are not specified"


@pytest.mark.parametrize(("command", "page"), COMMANDS)
def test_documented_command_works(run, page, command):
    words = split_command(command)
    if command.startswith(NOT_TESTED):
        return
    if words[0] == "make":
        assert all(has_target(word) for word in words[1:] if "=" not in word)
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / "src" / words[2].replace(".", "/")).with_suffix(".py").is_file()
    elif words[0] == "python":
        # Importing a benchmark for its help text takes up to ten seconds.
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in words if word.startswith("--"))
    elif words[0] == "snakemake" and "fetch" in words:
        # Planned in test_fetch_run, which has data to fetch.
        assert "checkpoint fetch:" in (ROOT / "rules/fetch.smk").read_text()
    elif words[0] == "snakemake":
        planned(run, words[1:])
    elif words[0] == "cellmap-pipeline":
        run_command(run, words[1:])
    elif words[0] == ".ci/run":
        assert (ROOT / ".ci/run").is_file()
    else:
        pytest.fail(f"{page}: the test does not know how to run `{command}`")


def planned(run, arguments):
    """Assert that a Snakemake command can be planned."""
    own = [] if "--snakefile" in arguments else ["--snakefile", f"{ROOT}/Snakefile"]
    options = [*own, *arguments, "--dry-run", "--quiet"]
    done = run_snakemake(options, run.folder, run.waited_output)
    assert done.returncode == 0, done.stdout


def run_command(run, arguments):
    """Run a command of ``cellmap-pipeline``; of servers, only look up the options."""
    name, *rest = arguments
    if name == "run":
        return planned(run, rest)
    ours = [sys.executable, "-m", "cellmap_pipeline.cli", name]
    if name == "view" or all(word.startswith("--") for word in rest):
        done = subprocess.run([*ours, "--help"], capture_output=True, text=True, check=True)
        assert all(word in done.stdout for word in rest if word.startswith("--"))
        return None
    done = subprocess.run([*ours, *rest], cwd=run.folder, capture_output=True, text=True)
    # Exit code 2: problems that cost score, which the tiny training's labels may have.
    assert done.returncode in (0, 2), done.stdout + done.stderr
    assert "usage:" not in done.stderr
    return None
