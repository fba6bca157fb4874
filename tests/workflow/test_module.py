"""The workflow as a module of another workflow."""

import os
import re
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
        command,
        cwd=run.folder,
        text=True,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def use_rules(run, snakefile, **environment):
    """Plan a workflow that uses this one in a finished run, and run some of its jobs again."""
    (run.folder / "Snakefile").write_text(OTHER.format(snakefile=snakefile))
    targets = ("submission.zip", "results/scores.json", "summary")
    planned = snakemake(run, "--dry-run", "--forceall", *targets, **environment)
    for rule in ("cellmap_train", "cellmap_segment", "cellmap_score", "summary"):
        assert rule in planned
    done = snakemake(run, "--forcerun", "cellmap_datasplit", "--", "summary", **environment)
    jobs = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", done, re.M)
    # From a repository, the path of the split's script differs, which counts as changed code.
    assert [job for job in jobs if job != "cellmap_split"] == ["cellmap_datasplit", "summary"]
    assert "train_um3" in (run.folder / "summary.txt").read_text()


def test_other_workflow_uses_the_rules(finished_run):
    run = finished_run()
    use_rules(run, f'"{run.root}/workflow/Snakefile"')


@pytest.mark.slow
def test_other_workflow_uses_the_rules_from_a_repository(finished_run, repo_root, tmp_path):
    # Like a repository set up by snakedeploy, but without the library, which is installed.
    repository = tmp_path / "github/someone/workflow"
    repository.mkdir(parents=True)
    for name in ("Snakefile", "workflow", "rules", "envs"):
        copy = shutil.copytree if (repo_root / name).is_dir() else shutil.copy
        copy(repo_root / name, repository / name)
    someone = ["-c", "user.name=Someone", "-c", "user.email=someone@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "All"]):
        subprocess.run(["git", *someone, *command], cwd=repository, check=True)
    # Redirect GitHub's URLs to the local repository.
    git_settings = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/github/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "GITHUB_TOKEN": "",
    }
    use_rules(finished_run(), GITHUB, **git_settings)


def test_snakemake_lint_has_one_known_complaint(repo_root):
    """A function stands above the rule that uses it, which Snakemake would not mix."""
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    complaints = set(re.findall(r"^ +\* (.*)$", done.stdout + done.stderr, flags=re.M))
    assert complaints == {"Mixed rules and functions in same snakefile.:"}, (
        done.stdout + done.stderr
    )


def test_workflow_catalog_standard_is_met(repo_root):
    """The catalog's page on adding workflows defines this as "standardized usage"."""
    readme = (repo_root / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme
    assert (repo_root / "config/README.md").is_file()
    assert (repo_root / "workflow/Snakefile").is_file()
    assert not (repo_root / "workflow/rules").exists() and list((repo_root / "rules").glob("*.smk"))
    usage = yaml.safe_load((repo_root / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] is True
    # An image has no conda, so both together do not work.
    deployment = {"conda": True, "apptainer": True, "apptainer+conda": False}
    assert usage["software-stack-deployment"] == deployment
    assert list((repo_root / "envs").glob("*.yaml")) and (repo_root / "Containerfile").is_file()
