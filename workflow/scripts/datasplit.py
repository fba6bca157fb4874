"""Decide which crops are used for training and which for validation.

Input: the data folder (params), and the run's split or the user's own CSV.
Output: datasplit.csv (the challenge's five columns), datasplit_summary.csv (per class and dataset).
"""

from pathlib import Path

from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.config.stages import DATASPLIT_KEYS
    from cellmap_pipeline.data.datasplit import DatasplitSettings, make_datasplit
    from cellmap_pipeline.data.split import read_split

    cfg = snakemake.params.cfg
    inputs = snakemake.input
    with (
        atomic_write(snakemake.output.split) as split,
        atomic_write(snakemake.output.summary) as summary,
    ):
        make_datasplit(
            Path(cfg["data_root"]),
            DatasplitSettings(**{key: cfg[key] for key in DATASPLIT_KEYS}),
            Path(inputs.own) if inputs.own else None,
            read_split(Path(inputs.split)) if inputs.split else {},
            cfg["fold"],
            split,
            summary,
        )
