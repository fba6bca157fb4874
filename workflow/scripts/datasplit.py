"""Decide which crops are used for training and which for validation.

Input: the data folder (params), or the user's own CSV.
Output: datasplit.csv (the challenge's five columns), datasplit_summary.csv (per class and dataset).
"""

from pathlib import Path

from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.config.stages import DATASPLIT_KEYS
    from cellmap_pipeline.data.datasplit import SplitSettings, make_datasplit

    cfg = snakemake.params.cfg
    with (
        atomic_write(snakemake.output.split) as split,
        atomic_write(snakemake.output.summary) as summary,
    ):
        make_datasplit(
            Path(cfg["data_root"]),
            SplitSettings(**{key: cfg[key] for key in (*DATASPLIT_KEYS, "test_datasets")}),
            Path(snakemake.input.own) if snakemake.input.own else None,
            split,
            summary,
        )
