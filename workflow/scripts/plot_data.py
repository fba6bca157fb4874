"""Draw a slice of each labeled crop with its labels.

Input: data splits. Output: data.jpg.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.figures.data import plot_data

    splits = [Path(path) for path in snakemake.input]
    plot_data(splits, snakemake.params.cfg["voxel_size"], Path(snakemake.output[0]))
