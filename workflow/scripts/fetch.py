"""Bring what the run needs of a crop.

In: where the crop lies and who uses it, the data folder and the padding (all by params).
Out: fetched/crop{N}.json, what was brought; and the crop itself, in the data folder.
"""

from pathlib import Path

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.data.fetching import fetch_crop

    cfg = snakemake.params.cfg
    done = fetch_crop(
        int(snakemake.wildcards.crop), cfg["request"], Path(cfg["data_root"]), cfg["padding"]
    )
    write_json(done, snakemake.output[0])
