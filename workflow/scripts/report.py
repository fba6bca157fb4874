"""Write Snakemake's report of the run.

In: the figures and results that it is about. Out: report.html, one file that needs no network.
"""

import os
from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.run.snakemake import run_snakemake

    report = Path(snakemake.output[0])
    partial = report.with_suffix(".partial.html")
    # As the report's targets its inputs stand for the whole run, but for the report itself.
    arguments = ["--report", str(partial), "--", *snakemake.input]
    run_snakemake(**snakemake.params.again, config=snakemake.config, arguments=arguments)
    os.replace(partial, report)
