"""Print what the run can reach and about how long it takes.

In: by params the run's configuration.
Out: nothing but what it prints.
"""

from pathlib import Path

from cellmap_pipeline.outlook import write_outlook
from cellmap_pipeline.plan import make_plan

params = snakemake.params
print(write_outlook(make_plan(params.config, params.source, [Path(f) for f in params.folders])))
