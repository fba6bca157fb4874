"""Measure how long a training's network takes for a window on the machine of this job.

In: by params the training's settings. Out: calibration.json, which `plan` estimates times by.
"""

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0]):
    import torch

    from cellmap_pipeline.config.training import Training
    from cellmap_pipeline.preflight.calibration import calibrate

    torch.set_num_threads(snakemake.threads)
    write_json(calibrate(Training.model_validate(snakemake.params.cfg)), snakemake.output[0])
