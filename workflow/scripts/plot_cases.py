"""Draw the labels of test crops with the best and worst scores.

Input: scores.csv, the segmentations, and raw, ground truth and the manifest's rows (params).
Output: cases.jpg.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0]):
    from dataclasses import replace

    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.data.layout import raw_path
    from cellmap_pipeline.io.volumes import Volume
    from cellmap_pipeline.report.figures.cases import best_and_worst, plot_cases

    cfg = snakemake.params.cfg
    rows = [crop_label(row) for row in cfg["rows"]]
    cases = best_and_worst(Path(snakemake.input.scores), rows)
    # Without a list of absent levels, the finest local level is drawn.
    raws = {
        name: replace(Volume.open(raw_path(cfg["data_root"], name)), absent=[])
        for name in {case.row.dataset for case in cases}
    }
    segmentations, truth = Path(snakemake.params.segmentations), Path(cfg["ground_truth"])
    plot_cases(cases, raws, segmentations, truth, Path(snakemake.output[0]))
