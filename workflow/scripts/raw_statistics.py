"""Measure the intensities of raw, by which networks' input is normalized.

Input: the raw of a dataset with test crops (params and wildcards); or datasplit.csv, for all raw
that a network trains and validates on.
Output: a JSON file with statistics by volume and level.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.data.layout import raw_path
    from cellmap_pipeline.io.arrays import set_cache_bytes
    from cellmap_pipeline.io.raw_statistics import measure_raw, write_raw_statistics
    from cellmap_pipeline.io.volumes import Volume
    from cellmap_pipeline.patches.contrast import warn_of_inverted_contrast
    from cellmap_pipeline.patches.crops import open_crops

    cfg = snakemake.params.cfg
    # No data are read twice.
    set_cache_bytes(0)
    crops = []
    if split := snakemake.input.get("split"):
        opened = open_crops(Path(split), cfg["classes"], cfg["voxel_size"], needs_validation=False)
        crops = [*opened["train"], *opened["validate"]]
        paths = [crop.raw_path for crop in crops]
    else:
        paths = [raw_path(cfg["data_root"], snakemake.wildcards.dataset)]
    volumes = {
        str(path): measure_raw(Volume.open(path), snakemake.threads)
        for path in dict.fromkeys(paths)
    }
    warn_of_inverted_contrast(crops, volumes)
    write_raw_statistics(snakemake.output[0], volumes)
