"""Make the pseudo-labels of a network: what its teacher is sure of around its training crops.

Input: the teacher's predictions, and datasplit.csv of the network.
Output: a folder per crop with a volume per class: 0, 1, or 255 where unknown.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.patches.crops import open_crops
    from cellmap_pipeline.prediction.pseudo_labels import write_pseudo_labels
    from cellmap_pipeline.prediction.teacher import hidden_extents

    cfg = snakemake.params.cfg
    crops = open_crops(Path(snakemake.input.split), **cfg["taught"], needs_validation=False)
    write_pseudo_labels(
        crops["train"],
        hidden_extents(crops, cfg["test_crops"]),
        cfg["classes"],
        cfg["at_least"],
        Path(snakemake.input.predictions),
        Path(snakemake.output[0]),
    )
