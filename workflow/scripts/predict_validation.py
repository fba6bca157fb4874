"""Predict the validation crops of a training.

In: model.ckpt and datasplit.csv.
Out: a folder of predictions per crop. Beside it, `predictions.partial` keeps the crops that are
done, from where a stopped job goes on.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import torch

    from cellmap_pipeline.config.stages import INFERENCE_KEYS
    from cellmap_pipeline.config.training import Inference
    from cellmap_pipeline.io.files import put_in_place
    from cellmap_pipeline.prediction.validation import predict_validation
    from cellmap_pipeline.run.resume import claim
    from cellmap_pipeline.training.checkpoints import load_networks

    torch.set_num_threads(snakemake.threads)
    cfg = snakemake.params.cfg
    settings = {key: cfg[key] for key in INFERENCE_KEYS}
    inference = Inference.model_validate(settings | snakemake.params.options)
    checkpoint, expected = Path(snakemake.input.checkpoint), snakemake.params.expected
    predictions = Path(snakemake.output[0])
    crops_done = predictions.with_name(predictions.name + ".partial")
    if predictions.is_dir() and not crops_done.exists():
        # By the job of a dead run, which this one waited for.
        predictions.rename(crops_done)
    datasplit = Path(snakemake.input.split)
    claim(crops_done, {"datasplit": datasplit.read_text(), "parts": cfg["parts"]}, keep=False)
    predict_validation(
        load_networks(checkpoint, inference, expected),
        datasplit,
        inference,
        cfg["parts"],
        crops_done,
    )
    put_in_place(crops_done, predictions)
