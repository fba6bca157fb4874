"""The workflow as a module of another one."""

import shutil
import subprocess
import sys

import pytest
import yaml

OTHER = """
configfile: "config/config.yaml"

module cellmap:
    snakefile: "{snakefile}"
    config: config

use rule * from cellmap as cellmap_*

rule summary:
    input: "results/tiny/datasplit_summary.csv", "results/check_inputs.json"
    output: "summary.txt"
    shell: "cat {{input}} > {{output}}"
"""


def snakemake(run, *arguments):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=run.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def repository(repo_root, tmp_path):
    """The workflow in a git repository, as it is now; without the library, which is installed."""
    for name in ("Snakefile", "workflow", "rules", "envs"):
        copy = shutil.copytree if (repo_root / name).is_dir() else shutil.copy
        copy(repo_root / name, tmp_path / name)
    someone = ["-c", "user.name=Someone", "-c", "user.email=someone@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "All"]):
        subprocess.run(["git", *someone, *command], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("where", ["folder", "repository"])
def test_rules_are_used_by_another_workflow(new_run, repository, where):
    run = new_run()
    snakefile = f"{run.root}/workflow/Snakefile"
    if where == "repository":
        # As `github(…)`, which snakedeploy writes, but on this machine.
        snakefile = f"git+file://{repository}/workflow/Snakefile@main"
    (run.folder / "Snakefile").write_text(OTHER.format(snakefile=snakefile))
    planned = snakemake(run, "--dry-run", "submission.zip", "results/scores.json", "summary")
    for rule in ("cellmap_train", "cellmap_segment", "cellmap_score", "summary"):
        assert rule in planned
    snakemake(run, "summary")
    assert "train_um3" in (run.folder / "summary.txt").read_text()


def test_nothing_to_complain_of(repo_root):
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_meets_the_standard_of_the_workflow_catalogue(repo_root):
    """Its "standardized usage", as the catalogue's page on adding workflows says."""
    readme = (repo_root / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme
    assert (repo_root / "config/README.md").is_file()
    assert (repo_root / "workflow/Snakefile").is_file()
    assert not (repo_root / "workflow/rules").exists() and list((repo_root / "rules").glob("*.smk"))
    usage = yaml.safe_load((repo_root / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] is True and usage["software-stack-deployment"]["conda"] is True
