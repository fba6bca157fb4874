"""Print what the run can reach and about how long it takes.

In: by params the run's configuration.
Out: nothing but what it prints, and the same as its log.
"""

from pathlib import Path

from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.preflight.outlook import write_outlook

params = snakemake.params
plan = make_plan(params.config, params.source, [Path(folder) for folder in params.folders])
outlook = write_outlook(plan)
print(outlook)
Path(snakemake.log[0]).write_text(outlook + "\n", encoding="utf-8")
