"""Draw the rule graph of the run.

Input: the Snakefile and the configuration of the run. Output: dag.mmd as Snakemake writes it
(mermaid), and dag.svg if graphviz is available.
"""

import subprocess

from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.run.snakemake.calls import run_snakemake

    def rule_graph(form):
        return run_snakemake(
            **snakemake.params.again, config=snakemake.config, arguments=["--rulegraph", form]
        )

    with atomic_write(snakemake.output.mmd) as mmd:
        mmd.write_text(rule_graph("mermaid-js"))
    if hasattr(snakemake.output, "svg"):
        with atomic_write(snakemake.output.svg) as svg:
            command = ["dot", "-Tsvg", "-o", svg]
            subprocess.run(command, input=rule_graph("dot"), text=True, check=True)
