"""Every command in the docs is one that works.

Snakemake's are planned, ours are run, those of benchmarks and of make are looked up; all in a
folder with a finished small run. A command that none of this fits fails.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# What stands in the docs for a user's own names, and what it is in the small run.
NAMES = {
    "/path/to/cellmap-pipeline": str(ROOT),
    " profiles/": f" {ROOT}/profiles/",
    "results/NAME": "results/tiny",
    "DATASET": "demo_cell-1",
    "{training}": "tiny",
    "{name}": "tiny",
    "{dataset}": "demo_cell-1",
    "FOLDER": "results/segmentations",
}
# What tells Snakemake how many cores it may take, or what it does without any.
CORES = re.compile(r" (--profile|--cores|-c ?\d+|--dry-run|-n|--rulegraph|--dag|--lint|--unlock)\b")
# Of the shell, or for a machine that the test is not on.
ELSEWHERE = (
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
    "napari ",
)


def commands(page: Path) -> list[str]:
    """The command lines in a page's blocks of shell code, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.S | re.M)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    # In running text: only what is surely meant to be typed.
    inline = re.findall(r"`((?:snakemake|cellmap-pipeline|python|make) [^`]*)`", text)
    found = [re.sub(r"\s#.*", "", line).strip() for line in [*lines, *inline]]
    return [part.strip() for line in found if line for part in line.split("&&")]


ALL = sorted({(page.relative_to(ROOT).as_posix(), c) for page in PAGES for c in commands(page)})


@pytest.fixture(scope="module")
def run(finished_run):
    """A finished run, with the files that the docs name."""
    made = finished_run()
    for name, key in (("test_crop_manifest.csv", "test_crops"), ("truth.zarr", "ground_truth")):
        (made.folder / name).symlink_to(made.setting(key))
    return made


def named(command: str) -> list[str]:
    """The words of a command with the names of the small run."""
    for theirs, ours in NAMES.items():
        command = command.replace(theirs, ours)
    command = command.replace("…", "").replace("[", "").replace("]", "")
    # Numbers of crops.
    return shlex.split(re.sub(r"crop(234|557)\b", "crop5", re.sub(r"\b557\b", "5", command)))


def makes(target: str) -> bool:
    return bool(re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.M))


def options_of(script: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_docs_have_commands():
    assert len(ALL) > 40
    assert ("README.md", "make demo") in ALL


@pytest.mark.parametrize(("page", "command"), ALL)
def test_a_run_is_told_how_many_cores_it_may_take(page, command):
    if command.startswith(("snakemake ", "cellmap-pipeline run ")):
        assert CORES.search(command), f"{page}: `{command}` stops at once: cores are not specified"


@pytest.mark.parametrize(("page", "command"), ALL)
def test_a_command_of_the_docs(run, page, command):
    words = named(command)
    if command.startswith(ELSEWHERE):
        return
    if words[0] == "make":
        assert all(makes(word) for word in words[1:] if "=" not in word)
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / "src" / words[2].replace(".", "/")).with_suffix(".py").is_file()
    elif words[0] == "python":
        known = options_of(words[1])
        assert all(word in known for word in words if word.startswith("--"))
    elif words[0] == "snakemake" and "fetch" in words:
        # Planned in test_fetch_run, where there is something to fetch.
        assert "checkpoint fetch:" in (ROOT / "rules/fetch.smk").read_text()
    elif words[0] == "snakemake":
        planned(run, words[1:])
    elif words[0] == "cellmap-pipeline":
        run_ours(run, words[1:])
    elif words[0] == ".ci/run":
        assert (ROOT / ".ci/run").is_file()
    else:
        pytest.fail(f"{page}: nothing says how to try `{command}`")


def planned(run, arguments):
    """Plan what a Snakemake command would do."""
    own = [] if "--snakefile" in arguments else ["--snakefile", f"{ROOT}/Snakefile"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *own, *arguments, "--dry-run", "--quiet"],
        cwd=run.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def run_ours(run, arguments):
    """Run a command of ours, or see that it knows its options where it would not end."""
    name, *rest = arguments
    if name == "run":
        return planned(run, rest)
    ours = [sys.executable, "-m", "cellmap_pipeline.cli", name]
    if name == "view" or all(word.startswith("--") for word in rest):
        done = subprocess.run([*ours, "--help"], capture_output=True, text=True, check=True)
        assert all(word in done.stdout for word in rest if word.startswith("--"))
        return None
    done = subprocess.run([*ours, *rest], cwd=run.folder, capture_output=True, text=True)
    # 2: it costs score, as the tiny training's labels may.
    assert done.returncode in (0, 2), done.stdout + done.stderr
    assert "usage:" not in done.stderr
    return None
