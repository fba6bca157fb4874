"""Predict a training's validation crops, tune its post-processing on them, score it.

In: model.ckpt and datasplit.csv.
Out: scores.json, postprocess.json, and the predictions of the validation crops. Beside these,
`predictions.partial` keeps the crops that are done, from where a stopped job goes on.
"""

from pathlib import Path

from cellmap_pipeline.jobs import job, write_json

with job(snakemake.log[0], snakemake.output):
    import torch

    from cellmap_pipeline.checkpoints import load_networks
    from cellmap_pipeline.config import Inference
    from cellmap_pipeline.plan import INFERENCE_KEYS
    from cellmap_pipeline.state import claim, put_in_place
    from cellmap_pipeline.validation import validate

    torch.set_num_threads(snakemake.threads)
    settings = {key: snakemake.params.cfg[key] for key in INFERENCE_KEYS}
    inference = Inference.model_validate(settings | snakemake.params.options)
    checkpoint, expected = Path(snakemake.input.checkpoint), snakemake.params.expected
    predictions = Path(snakemake.output.predictions)
    crops_done = predictions.with_name(predictions.name + ".partial")
    if predictions.is_dir() and not crops_done.exists():
        # By the job of a dead run, which this one waited for.
        predictions.rename(crops_done)
    claim(crops_done, {"datasplit": Path(snakemake.input.split).read_text()}, keep=False)
    scores, postprocess = validate(
        load_networks(checkpoint, inference, expected),
        Path(snakemake.input.split),
        inference,
        crops_done,
        workers=snakemake.threads,
    )
    write_json(scores, snakemake.output.scores)
    write_json(postprocess, snakemake.output.settings)
    put_in_place(crops_done, predictions)
