"""Compare the scores of all trainings in the output folder.

Input: validation scores of the run's trainings, scores.json if it exists, and scores of other
trainings in the output folder. Output: leaderboard.csv.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0]):
    from cellmap_pipeline.plan.paths import ResultPaths
    from cellmap_pipeline.scoring.leaderboard import leaderboard, write_leaderboard

    found = ResultPaths(Path(snakemake.params.folder)).existing_scores()
    table = leaderboard(*found, snakemake.params.cfg["rules"])
    write_leaderboard(table, Path(snakemake.output[0]))
    print(table.to_string(index=False))
