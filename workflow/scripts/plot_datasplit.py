"""Draw the amount of training and validation data per class.

Input: datasplit_summary.csv. Output: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.figures.training import plot_datasplit

    plot_datasplit(Path(snakemake.input[0]), Path(snakemake.output[0]))
