"""Draw the curves of a training.

In: metrics.csv, which the training keeps in `training/` beside its model.ckpt. Out: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.training import plot_training

    plot_training(Path(snakemake.params.metrics), Path(snakemake.output[0]))
