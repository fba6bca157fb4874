"""Draw the time, memory and GPU use of the jobs of each rule.

Input: the folders of benchmarks and logs (params). Output: resources.png.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.figures.resources import plot_resources

    params = snakemake.params
    plot_resources(Path(params.benchmarks), Path(params.logs), Path(snakemake.output[0]))
