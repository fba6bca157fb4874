"""Fetch the data of a crop that the run needs.

Input: the crop's location and uses, and the data folder (params).
Output: fetched/crop{N}.json, a summary of what was fetched. The data go to the data folder.
"""

from pathlib import Path

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output, [snakemake.params.cfg["data_root"]]):
    from cellmap_pipeline.data.fetching.fetch import fetch_crop
    from cellmap_pipeline.data.fetching.request import FetchRequest

    cfg = snakemake.params.cfg
    request = FetchRequest.from_dict(cfg["request"])
    summary = fetch_crop(int(snakemake.wildcards.crop), request, Path(cfg["data_root"]))
    write_json(snakemake.output[0], summary)
