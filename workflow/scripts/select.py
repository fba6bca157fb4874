"""Choose the training whose prediction is submitted, per label and voxel size.

Input: validation scores of all trainings.
Output: selection.csv.
"""

import sys
from pathlib import Path

from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.validation.selection import (
        read_scores,
        select_map,
        selection_table,
        write_selection,
    )

    cfg = snakemake.params.cfg
    paths = dict(zip(cfg["names"], map(Path, snakemake.input.scores), strict=True))
    rows = [(crop_label(row), row["sources"]) for row in cfg["rows"]]
    table = selection_table(rows, cfg["select"], read_scores(paths))
    with atomic_write(snakemake.output[0]) as tmp:
        write_selection(table, tmp)
    print(select_map(table), file=sys.stderr)
