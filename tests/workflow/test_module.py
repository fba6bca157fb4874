"""The workflow as a module of another one."""

import subprocess
import sys

OTHER = """
configfile: "config/config.yaml"

module cellmap:
    snakefile: "{root}/workflow/Snakefile"
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


def test_rules_are_used_by_another_workflow(new_run):
    run = new_run()
    (run.folder / "Snakefile").write_text(OTHER.format(root=run.root))
    planned = snakemake(run, "--dry-run", "submission.zip", "results/scores.json", "summary")
    for rule in ("cellmap_train", "cellmap_segment", "cellmap_score", "summary"):
        assert rule in planned
    snakemake(run, "summary")
    assert "train_um3" in (run.folder / "summary.txt").read_text()


def test_nothing_to_complain_of(repo_root):
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
