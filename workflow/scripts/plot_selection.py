"""Draw which training was chosen for each label, and the scores that decided it.

Input: selection.csv. Output: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.figures.scores import plot_selection

    plot_selection(Path(snakemake.input[0]), Path(snakemake.output[0]))
