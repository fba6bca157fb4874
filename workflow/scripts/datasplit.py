"""Decide which crops train and which validate.

In: the data folder (by params), or a CSV of the user's own.
Out: datasplit.csv (the challenge's five columns), datasplit_summary.csv (per class).
"""

from pathlib import Path

from cellmap_pipeline.io.files import whole
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.config.stages import DATASPLIT_KEYS
    from cellmap_pipeline.data.datasplit import SplitSettings, make_datasplit

    cfg = snakemake.params.cfg
    with whole(snakemake.output.split) as split, whole(snakemake.output.summary) as summary:
        make_datasplit(
            Path(cfg["data_root"]),
            SplitSettings(**{key: cfg[key] for key in DATASPLIT_KEYS}),
            Path(snakemake.input.own) if snakemake.input.own else None,
            split,
            summary,
        )
