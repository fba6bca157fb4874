"""Draw the curves of all trainings in one figure.

Input: their metrics.csv (params). Output: trainings.png.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.figures.training import plot_trainings

    metrics = {name: Path(path) for name, path in snakemake.params.metrics.items()}
    plot_trainings(metrics, Path(snakemake.output[0]))
