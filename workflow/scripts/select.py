"""Choose per label and voxel size the training whose prediction is submitted.

In: validation scores of all trainings.
Out: selection.csv.
"""

import sys
from pathlib import Path

from cellmap_pipeline.io.files import whole
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
    with whole(snakemake.output[0]) as beside:
        write_selection(table, beside)
    print(select_map(table), file=sys.stderr)
