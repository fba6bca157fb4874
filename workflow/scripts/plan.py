"""Print the reachable score and the estimated duration of the run.

Input: the run's configuration (params).
Output: the printed text, which is also the log.
"""

from pathlib import Path

from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.preflight.estimates.outlook import outlook_text
from cellmap_pipeline.run.terminal import replace_unprintable

replace_unprintable()
params = snakemake.params
plan = make_plan(params.config, params.source, [Path(folder) for folder in params.folders])
text = outlook_text(plan)
print(text)
Path(snakemake.log[0]).write_text(text + "\n", encoding="utf-8")
