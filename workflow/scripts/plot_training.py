"""Draw the curves of a training.

Input: metrics.csv (params), which the training writes to its `training/` folder. Output: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.figures.training import plot_training

    plot_training(Path(snakemake.params.metrics), Path(snakemake.output[0]))
