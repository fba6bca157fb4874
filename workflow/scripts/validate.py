"""Predict a training's validation crops, tune its post-processing on them, score it.

In: model.ckpt and datasplit.csv.
Out: scores.json, postprocess.json, and the predictions of the validation crops.
"""

from pathlib import Path

from cellmap_pipeline.jobs import job, write_json

with job(snakemake.log[0]):
    import torch

    from cellmap_pipeline.checkpoints import load_networks
    from cellmap_pipeline.config import Inference
    from cellmap_pipeline.plan import INFERENCE_KEYS
    from cellmap_pipeline.validation import validate

    torch.set_num_threads(snakemake.threads)
    settings = {key: snakemake.params.cfg[key] for key in INFERENCE_KEYS}
    inference = Inference.model_validate(settings | snakemake.params.options)
    checkpoint, expected = Path(snakemake.input.checkpoint), snakemake.params.expected
    scores, postprocess = validate(
        load_networks(checkpoint, inference, expected),
        Path(snakemake.input.split),
        inference,
        Path(snakemake.output.predictions),
        workers=snakemake.threads,
    )
    write_json(scores, snakemake.output.scores)
    write_json(postprocess, snakemake.output.settings)
