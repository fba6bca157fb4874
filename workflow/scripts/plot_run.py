"""Write a page about the run.

In: by params its configuration. Out: run.html.
"""

from cellmap_pipeline.jobs import job, whole

with job(snakemake.log[0], snakemake.output):
    import subprocess

    from cellmap_pipeline.run_summary import write_summary

    command = ["git", "-C", snakemake.params.root, "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cfg = snakemake.params.cfg
    with whole(snakemake.output[0]) as beside:
        write_summary(cfg["config"], cfg["trainings"], done.stdout.strip() or None, beside)
