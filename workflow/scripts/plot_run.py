"""Write a page about the run.

In: by params its configuration. Out: run.html.
"""

from cellmap_pipeline.io.files import whole
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import subprocess

    from cellmap_pipeline.report.run_page import write_summary

    command = ["git", "-C", snakemake.params.root, "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    commit = done.stdout.strip() or None
    params = snakemake.params
    with whole(snakemake.output[0]) as beside:
        write_summary(params.cfg["config"], params.trainings, commit, beside)
