"""Write a page about the run.

Input: the run's configuration (params). Output: run.html.
"""

from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import subprocess

    from cellmap_pipeline.report.run_page import write_run_page

    command = ["git", "-C", snakemake.params.root, "rev-parse", "HEAD"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    commit = git.stdout.strip() or None
    params = snakemake.params
    with atomic_write(snakemake.output[0]) as tmp:
        write_run_page(params.cfg["config"], params.trainings, commit, tmp)
