"""Draw the official scores of the submission.

Input: scores.csv. Output: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.figures.scores import plot_scores

    plot_scores(Path(snakemake.input[0]), Path(snakemake.output[0]))
