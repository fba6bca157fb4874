"""Predict the raw around the training crops of a network by the network that teaches it.

Input: model.ckpt of the teacher, datasplit.csv of the network and, unless the teacher has
`normalize: range`, the statistics of its raw.
Output: a folder of predictions per crop. Until it is complete, `teacher_predictions.partial` keeps
the finished crops, from which an interrupted job resumes.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import torch

    from cellmap_pipeline.config.stages import inference_of_params
    from cellmap_pipeline.io.files import replace_folder
    from cellmap_pipeline.io.raw_statistics import read_raw_statistics
    from cellmap_pipeline.patches.crops import open_crops
    from cellmap_pipeline.prediction.teacher import hidden_extents, predict_surroundings
    from cellmap_pipeline.run.resume import prepare_partial
    from cellmap_pipeline.training.checkpoints import load_networks

    torch.set_num_threads(snakemake.threads)
    cfg = snakemake.params.cfg
    inference = inference_of_params(cfg, snakemake.params.options)
    checkpoint, expected = Path(snakemake.input.checkpoint), snakemake.params.expected
    predictions = Path(snakemake.output[0])
    datasplit = Path(snakemake.input.split)
    file = snakemake.input.statistics
    depends_on = {"datasplit": datasplit.read_text(), "cfg": cfg}
    if file:
        depends_on["raw_statistics"] = Path(file).read_text()
    crops_done = prepare_partial(predictions, depends_on)
    crops = open_crops(datasplit, **cfg["taught"], needs_validation=False)
    predict_surroundings(
        load_networks(checkpoint, inference, expected),
        crops["train"],
        cfg["classes"],
        cfg["margin"],
        hidden_extents(crops, cfg["test_crops"]),
        inference,
        crops_done,
        read_raw_statistics(Path(file)) if file else None,
    )
    replace_folder(crops_done, predictions)
