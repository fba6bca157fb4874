"""Draw the scores of a training on its validation crops.

Input: scores.json and postprocess.json of the validation. Output: a PNG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.report.figures.scores import plot_validation

    plot_validation(
        Path(snakemake.input.scores), Path(snakemake.input.settings), Path(snakemake.output[0])
    )
