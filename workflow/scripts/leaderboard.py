"""Put the scores of all trainings of these results side by side.

In: validation scores of the run's trainings, scores.json where there is one, and what else lies in
the output folder. Out: leaderboard.csv.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0]):
    from cellmap_pipeline.scoring.leaderboard import leaderboard, write_leaderboard

    table = leaderboard(Path(snakemake.params.folder))
    write_leaderboard(table, Path(snakemake.output[0]))
    print(table.to_string(index=False))
