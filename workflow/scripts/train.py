"""Train a network.

Input: datasplit.csv, datasplit_summary.csv and, unless `normalize: range`, the statistics of raw;
with `teach`, the pseudo-labels; and the training's settings (params).
Output: model.ckpt, the best checkpoint (without validation, the last one). The folder `training/`
next to it keeps the state from which an interrupted training resumes.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.config.stages import TRAIN_KEYS
    from cellmap_pipeline.config.training import Training
    from cellmap_pipeline.training.train import train

    statistics = snakemake.input.statistics
    pseudo_labels = snakemake.input.pseudo_labels
    cfg = snakemake.params.cfg
    settings = {key: cfg[key] for key in TRAIN_KEYS if key in cfg}
    train(
        Training.model_validate(settings | snakemake.params.options),
        datasplit=Path(snakemake.input.split),
        state=Path(snakemake.params.state) / "training",
        checkpoint=Path(snakemake.output[0]),
        threads=max(1, snakemake.threads // cfg["devices"]),
        summary=Path(snakemake.input.summary),
        raw_statistics=Path(statistics) if statistics else None,
        pseudo_labels=Path(pseudo_labels) if pseudo_labels else None,
    )
