"""Draw the scores of all trainings side by side.

In: leaderboard.csv. Out: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0]):
    from cellmap_pipeline.report.scores import plot_leaderboard

    plot_leaderboard(Path(snakemake.input[0]), Path(snakemake.output[0]))
