rule plan:
    """Say what the run can reach and about how long its trainings take; run nothing else."""
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    params:
        config=config,
        source=str(CONFIGFILES[0] if CONFIGFILES else "config"),
        folders=[str(folder) for folder in TRAINING_FOLDERS],
    script:
        "../workflow/scripts/plan.py"
