"""Make the pseudo-labels of a network: what its teacher is sure of around its training crops.

Input: the teacher's predictions, and datasplit.csv of the network.
Output: a folder per crop with a volume per class: 0, 1, or 255 where unknown.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.geometry import Grid
    from cellmap_pipeline.patches.crops import open_crops
    from cellmap_pipeline.prediction.pseudo_labels import write_pseudo_labels

    cfg = snakemake.params.cfg
    write_pseudo_labels(
        open_crops(Path(snakemake.input.split), **cfg["taught"], needs_validation=False),
        {name: [Grid(*grid) for grid in grids] for name, grids in cfg["test_crops"].items()},
        cfg["classes"],
        cfg["at_least"],
        Path(snakemake.input.predictions),
        Path(snakemake.output[0]),
    )
