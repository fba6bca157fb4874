"""Assign all labeled crops of the data folder to sides or to folds.

Input: the data folder (params), and the file itself where it exists: its crops stay where they are.
Output: split.csv or folds.csv, the part of each crop.
"""

import logging
from pathlib import Path

from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0]):
    from cellmap_pipeline.data.datasplit import find_labeled_crops
    from cellmap_pipeline.data.split import SplitSettings, read_earlier, split_crops, write_split

    cfg = snakemake.params.cfg
    keys = ("validation_fraction", "folds", "by", "seed")
    settings = SplitSettings(
        **{key: cfg.get(key) for key in keys}, test_datasets=snakemake.params.test_datasets
    )
    path = Path(snakemake.output[0])
    problems: list[str] = []
    crops = find_labeled_crops(Path(cfg["data_root"]), problems)
    for line in problems:
        logging.getLogger(__name__).warning("left out of the split: %s", line)
    parts = split_crops(crops, settings, read_earlier(path, settings))
    with atomic_write(path) as tmp:
        write_split(tmp, parts, settings)
