"""Make the final label of a crop from probabilities.

In: predictions, validation scores and tuned settings of each source that gives the label.
Out: the label on the manifest's grid: semantic uint8 0/1, instances the smallest unsigned type.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.segmentation.final_labels import write_empty
    from cellmap_pipeline.validation.selection import read_scores, segment_chosen

    cfg = snakemake.params.cfg
    row = crop_label(cfg["row"])

    def by_origin(paths):
        return read_scores(dict(zip(cfg["origins"], map(Path, paths), strict=True)))

    if cfg["sources"]:
        segment_chosen(
            row,
            {name: [Path(path) for path in paths] for name, paths in cfg["sources"].items()},
            cfg["select"],
            by_origin(snakemake.input.scores),
            by_origin(snakemake.input.settings),
            cfg["postprocess"],
            Path(snakemake.output[0]),
            snakemake.threads,
        )
    else:
        write_empty(row, Path(snakemake.output[0]))
