"""Segment the final label of a crop from probabilities.

Input: predictions, validation scores and tuned settings of each source that provides the label.
Output: the label on the manifest's grid: semantic uint8 0/1, instances in the smallest unsigned
type.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.segmentation.final_labels import write_empty
    from cellmap_pipeline.validation.selection import read_scores, select_and_segment

    cfg = snakemake.params.cfg
    row = crop_label(cfg["row"])

    def by_origin(paths):
        return read_scores(dict(zip(cfg["origins"], map(Path, paths), strict=True)))

    if cfg["sources"]:
        predictions = {
            name: [Path(path) for path in paths] for name, paths in cfg["sources"].items()
        }
        select_and_segment(
            row,
            predictions=predictions,
            select=cfg["select"],
            scores=by_origin(snakemake.input.scores),
            tuned=by_origin(snakemake.input.settings),
            configured=cfg["postprocess"],
            output=Path(snakemake.output[0]),
            threads=snakemake.threads,
        )
    else:
        write_empty(row, Path(snakemake.output[0]))
