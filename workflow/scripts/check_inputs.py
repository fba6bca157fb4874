"""Check the data before anything expensive runs.

Input: the run's configuration and whether this machine trains (params).
Output: check_inputs.json, the crops and labels found for each training, and empty marker files that
record what was checked.
"""

from pathlib import Path

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.io.arrays import set_cache_bytes
    from cellmap_pipeline.plan.make import make_plan
    from cellmap_pipeline.preflight.check_inputs import check_inputs

    params = snakemake.params
    # No data are read twice.
    set_cache_bytes(0)
    plan = make_plan(params.config, params.source, [Path(folder) for folder in params.folders])
    found = check_inputs(plan, snakemake.threads, params.trains_here)
    write_json(params.found, found)
