"""Draw slices through a test crop, with its labels over the raw.

Input: the crop's labels, its raw, and its ground truth if known (params). Output: a JPEG.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from dataclasses import replace

    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.data.layout import raw_path
    from cellmap_pipeline.io.volumes import Volume
    from cellmap_pipeline.report.crops import plot_crop

    cfg = snakemake.params.cfg
    truth = cfg["ground_truth"]
    raw = Volume.open(raw_path(cfg["data_root"], snakemake.wildcards.dataset))
    plot_crop(
        # Without a list of absent levels, the finest local level is drawn.
        replace(raw, absent=[]),
        [crop_label(row) for row in cfg["rows"]],
        Path(snakemake.input[0]).parent,
        Path(truth) / f"crop{snakemake.wildcards.crop}" if truth else None,
        Path(snakemake.output[0]),
    )
