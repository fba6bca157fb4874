"""Draw slices through a test crop, with its labels over the raw.

Input: the crop's labels, its raw, and its ground truth if known (params).
Output: a JPEG, and a small one of one plane.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from dataclasses import replace

    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.data.layout import raw_path
    from cellmap_pipeline.io.volumes import Volume
    from cellmap_pipeline.report.figures.crops import plot_crop
    from cellmap_pipeline.report.figures.preview import draw_preview

    cfg = snakemake.params.cfg
    truth = cfg["ground_truth"]
    raw = Volume.open(raw_path(cfg["data_root"], snakemake.wildcards.dataset))
    # Without a list of absent levels, the finest local level is drawn.
    raw = replace(raw, absent=[])
    rows = [crop_label(row) for row in cfg["rows"]]
    predicted = Path(snakemake.input[0]).parent
    plot_crop(
        raw,
        rows,
        predicted,
        Path(truth) / f"crop{snakemake.wildcards.crop}" if truth else None,
        Path(snakemake.output.figure),
    )
    draw_preview(raw, rows, predicted, Path(snakemake.output.preview))
