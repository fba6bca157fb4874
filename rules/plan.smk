rule plan:
    """Say what the run can reach and about how long it takes; run nothing else."""
    log:
        OUTPUT / "logs/plan.log",
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    params:
        config=config,
        source=str(CONFIGFILES[0] if CONFIGFILES else "config"),
        folders=[str(folder) for folder in TRAINING_FOLDERS],
    script:
        "../workflow/scripts/plan.py"


rule calibrate:
    """Measure how fast the network of each training is, for `plan` to estimate by."""
    input:
        [OUTPUT / name / "calibration.json" for name in USED],
    localrule: True


rule calibrate_training:
    """Time the untrained network of a training on the machine that this job gets."""
    output:
        OUTPUT / "{training}/calibration.json",
    log:
        OUTPUT / "logs/calibrate/{training}.log",
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=30,
    params:
        cfg=lambda wildcards: stages.training_settings(
            PLAN.trainings[wildcards.training], [*stages.TRAIN_KEYS, "inference"]
        ),
    script:
        "../workflow/scripts/calibrate.py"
