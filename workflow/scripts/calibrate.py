"""Measure how long a training's network takes for a window on the job's machine.

Input: the training's settings (params).
Output: calibration.json, from which `plan` estimates times.
"""

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0]):
    import torch

    from cellmap_pipeline.config.training import Training
    from cellmap_pipeline.preflight.estimates.calibration import calibrate

    torch.set_num_threads(snakemake.threads)
    write_json(snakemake.output[0], calibrate(Training.model_validate(snakemake.params.cfg)))
