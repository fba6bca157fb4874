"""Tune the post-processing of a training, or of predictions made elsewhere, and score it.

In: datasplits, and predictions of their validation crops.
Out: scores.json, and postprocess.json, the settings found.
"""

from pathlib import Path

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.validation.validate import validate

    cfg = snakemake.params.cfg
    scores, settings = validate(
        cfg["labels"],
        dict(zip(cfg["trainings"], map(Path, snakemake.input.splits), strict=True)),
        cfg["voxel_size"],
        cfg["everywhere"],
        workers=snakemake.threads,
    )
    write_json(settings, snakemake.output.settings)
    write_json(scores, snakemake.output.scores)
