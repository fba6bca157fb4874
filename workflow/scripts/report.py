"""Write Snakemake's report of the run.

Input: the figures and results that it shows. Output: report.html, one file that needs no network.
"""

from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.run.snakemake.calls import run_snakemake

    # Snakemake determines the report's format from the file's suffix.
    with atomic_write(snakemake.output[0], suffix=".partial.html") as tmp:
        # With its inputs as targets, the report covers the whole run except for itself.
        arguments = ["--report", str(tmp), "--", *snakemake.input]
        run_snakemake(**snakemake.params.again, config=snakemake.config, arguments=arguments)
