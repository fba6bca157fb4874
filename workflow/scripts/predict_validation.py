"""Predict the validation crops of a training.

Input: model.ckpt, datasplit.csv and, unless `normalize: range`, the statistics of raw.
Output: a folder of predictions per crop. Until it is complete, `predictions.partial` keeps the
finished crops, from which an interrupted job resumes.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import torch

    from cellmap_pipeline.config.stages import inference_of_params
    from cellmap_pipeline.io.files import replace_folder
    from cellmap_pipeline.io.raw_statistics import read_raw_statistics
    from cellmap_pipeline.prediction.validation import predict_validation
    from cellmap_pipeline.run.resume import prepare_partial
    from cellmap_pipeline.training.checkpoints import load_networks

    torch.set_num_threads(snakemake.threads)
    cfg = snakemake.params.cfg
    inference = inference_of_params(cfg, snakemake.params.options)
    checkpoint, expected = Path(snakemake.input.checkpoint), snakemake.params.expected
    predictions = Path(snakemake.output[0])
    datasplit = Path(snakemake.input.split)
    depends_on = {"datasplit": datasplit.read_text(), "parts": cfg["parts"]}
    file = snakemake.input.statistics
    if file:
        depends_on["raw_statistics"] = Path(file).read_text()
    crops_done = prepare_partial(predictions, depends_on)
    predict_validation(
        load_networks(checkpoint, inference, expected),
        datasplit,
        inference,
        cfg["parts"],
        crops_done,
        read_raw_statistics(Path(file)) if file else None,
    )
    replace_folder(crops_done, predictions)
