# A checkpoint: what runs is decided again after it. Of jobs that wait for a job of the run through
# `ancient` alone, Snakemake does not see that their own settings changed, too.
checkpoint check_inputs:
    """Look at the data before anything expensive: what must be there, is, and can be read."""
    input:
        manifest=ancient(PLAN.manifest),
        fetched=FETCHED,
    output:
        OUTPUT / "check_inputs.json",
    log:
        OUTPUT / "logs/check_inputs.log",
    benchmark:
        OUTPUT / "benchmarks/check_inputs.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 8
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        # What it goes by; `cfg` is the part of it that makes it run again.
        config=untracked(lambda wildcards: config),
        source=untracked(lambda wildcards: str(CONFIGFILES[0] if CONFIGFILES else "config")),
        folders=untracked(lambda wildcards: [str(folder) for folder in TRAINING_FOLDERS]),
        trains_here=untracked(lambda wildcards: not workflow.remote_exec),
        cfg=version("check_inputs")
        | {
            "data_root": PLAN.config.data_root,
            "ground_truth": PLAN.config.ground_truth,
            "trainings": {
                name: planning.training_settings(
                    PLAN.trainings[name], [*planning.DATASPLIT_KEYS, "datasplit"]
                )
                for name in USED
            },
            # Made elsewhere, and predicted with.
            "checkpoints": {
                name: [
                    PLAN.trainings[name].inference.checkpoint,
                    planning.training_settings(PLAN.trainings[name], planning.NETWORK_KEYS),
                ]
                for name in USED
                if PLAN.trainings[name].inference.checkpoint not in ("best", "last")
            },
            "elsewhere": {
                name: planning.elsewhere_paths(PLAN, name) for name in PLAN.config.predictions
            },
            "predicted": {
                name: [
                    planning.row_settings(row)
                    for rows in PLAN.predicted(name).values()
                    for row in rows
                ]
                for name in USED
            },
        },
    script:
        "../workflow/scripts/check_inputs.py"
