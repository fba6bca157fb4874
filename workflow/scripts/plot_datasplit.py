"""Draw how much each class trains and validates on.

In: datasplit_summary.csv. Out: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.training import plot_datasplit

    plot_datasplit(Path(snakemake.input[0]), Path(snakemake.output[0]))
