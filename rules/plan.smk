rule plan:
    """Print what the run can reach and about how long it takes; run nothing else."""
    log:
        PATHS.log("plan"),
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    params:
        config=config,
        source=CONFIG_NAME,
        folders=[str(folder) for folder in TRAINING_FOLDERS],
    script:
        "../workflow/scripts/plan.py"


rule calibrate:
    """Measure the speed of each training's network, for the estimates of `plan`."""
    input:
        [PATHS.calibration(name) for name in ACTIVE],
    localrule: True


rule calibrate_training:
    """Time the untrained network of a training on the machine that runs this job."""
    output:
        PATHS.calibration(),
    log:
        PATHS.log("calibrate/{training}"),
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 8
    resources:
        gpu=1,
        gpu_model=requested_gpus("predict", "gpu_model"),
        lsf_extra=requested_gpus("predict", "lsf_extra"),
        mem_mb=per_attempt(16000),
        runtime=per_attempt(30),
    params:
        cfg=lambda wildcards: stages.training_settings(
            PLAN.trainings[wildcards.training], [*stages.TRAIN_KEYS, "inference"]
        ),
    script:
        "../workflow/scripts/calibrate.py"
