"""Make the final label of a crop from probabilities.

In: predictions, validation scores and tuned settings of each training that has the label.
Out: the label on the manifest's grid: semantic uint8 0/1, instances the smallest unsigned type.
"""

from pathlib import Path

from cellmap_pipeline.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.final_labels import segment_crop
    from cellmap_pipeline.plan import crop_label
    from cellmap_pipeline.selection import chosen_sources, read_scores

    cfg = snakemake.params.cfg
    row = crop_label(cfg["row"])

    def by_training(paths):
        return dict(zip(cfg["trainings"], map(Path, paths), strict=True))

    folders = {name: path / row.label for name, path in
               by_training(snakemake.input.predictions).items()}  # fmt: skip
    folders |= {name: Path(path) for name, path in cfg["elsewhere"].items()}
    scores = read_scores(by_training(snakemake.input.scores))
    chosen = chosen_sources(row.label, folders, cfg["select"], scores)
    tuned = read_scores(by_training(snakemake.input.settings))
    settings = tuned.get(chosen[0], {}).get(row.label, {})
    own = cfg["postprocess"].get(chosen[0], {})
    sources = [[folders[name]] for name in chosen]
    segment_crop(row, sources, settings, own, Path(snakemake.output[0]), snakemake.threads)
