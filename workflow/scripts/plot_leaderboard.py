"""Draw the scores of all trainings next to each other.

Input: leaderboard.csv. Output: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0]):
    from cellmap_pipeline.report.figures.scores import plot_leaderboard

    plot_leaderboard(Path(snakemake.input[0]), Path(snakemake.output[0]))
