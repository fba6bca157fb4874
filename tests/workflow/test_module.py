"""The workflow as a module of another one."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

OTHER = """
configfile: "config/config.yaml"

module cellmap:
    snakefile: {snakefile}
    config: config

use rule * from cellmap as cellmap_*

rule summary:
    input: "results/tiny/datasplit_summary.csv"
    output: "summary.txt"
    shell: "cat {{input}} > {{output}}"
"""


GITHUB = 'github("someone/workflow", path="workflow/Snakefile", branch="main")'


def snakemake(run, *arguments, **environment):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(
        command, cwd=run.folder, capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def use_it(run, snakefile, **environment):
    """Plan, and run the first jobs, of a workflow that uses this one."""
    (run.folder / "Snakefile").write_text(OTHER.format(snakefile=snakefile))
    targets = ("submission.zip", "results/scores.json", "summary")
    planned = snakemake(run, "--dry-run", *targets, **environment)
    for rule in ("cellmap_train", "cellmap_segment", "cellmap_score", "summary"):
        assert rule in planned
    snakemake(run, "summary", **environment)
    assert "train_um3" in (run.folder / "summary.txt").read_text()


def test_rules_are_used_by_another_workflow(new_run):
    run = new_run()
    use_it(run, f'"{run.root}/workflow/Snakefile"')


@pytest.mark.slow
def test_rules_are_used_from_a_repository(new_run, repo_root, tmp_path):
    # As snakedeploy sets it up; without the library, which is installed.
    repository = tmp_path / "github/someone/workflow"
    repository.mkdir(parents=True)
    for name in ("Snakefile", "workflow", "rules", "envs"):
        copy = shutil.copytree if (repo_root / name).is_dir() else shutil.copy
        copy(repo_root / name, repository / name)
    someone = ["-c", "user.name=Someone", "-c", "user.email=someone@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "All"]):
        subprocess.run(["git", *someone, *command], cwd=repository, check=True)
    # Where git looks instead.
    here = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/github/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "GITHUB_TOKEN": "",
    }
    use_it(new_run(), GITHUB, **here)


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
