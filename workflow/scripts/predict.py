"""Predict all labels of a test crop, or of a part of it, in one pass; or join its parts.

Input: model.ckpt of each network, unless `normalize: range` the statistics of raw, and the
manifest's rows of the crop (params); to join parts, their predictions.
Output: a folder with a group per label, its probability on the label's own grid as uint8.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import torch

    from cellmap_pipeline.config.stages import inference_of_params
    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.data.layout import raw_path
    from cellmap_pipeline.io.raw_statistics import read_raw_statistics
    from cellmap_pipeline.io.volumes import Volume
    from cellmap_pipeline.prediction.output import join_parts
    from cellmap_pipeline.prediction.predict import predict_crop
    from cellmap_pipeline.training.checkpoints import load_networks

    torch.set_num_threads(snakemake.threads)
    cfg = snakemake.params.cfg
    inference = inference_of_params(cfg, snakemake.params.options)
    paths = snakemake.input.checkpoint  # of each network, or a single one
    checkpoints = [paths] if isinstance(paths, str) else paths
    part = int(getattr(snakemake.wildcards, "part", 1))
    n_parts = int(getattr(snakemake.wildcards, "parts", 1))
    output = Path(snakemake.output[0])
    if parts := snakemake.input.get("parts"):
        join_parts(list(map(Path, parts)), output)
    else:
        networks = [
            network
            for path in checkpoints
            for network in load_networks(Path(path), inference, snakemake.params.expected)
        ]
        raw = Volume.open(raw_path(cfg["data_root"], snakemake.wildcards.dataset))
        file = snakemake.input.statistics
        predict_crop(
            networks,
            raw,
            [crop_label(row) for row in cfg["rows"]],
            output,
            inference,
            part=(part - 1, n_parts),
            statistics=read_raw_statistics(Path(file)).get(str(raw.path)) if file else None,
        )
