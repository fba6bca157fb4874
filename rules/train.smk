rule train:
    """Train a network; a job that was stopped goes on from `training/` beside its output."""
    input:
        split=OUTPUT / "{training}/datasplit.csv",
        summary=OUTPUT / "{training}/datasplit_summary.csv",
        initial=initial_weights,
    output:
        OUTPUT / "{training}/model.ckpt",
    log:
        OUTPUT / "logs/train/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/train/{training}.tsv"
    # Not again by the Snakemake that Slurm's job calls: each retry is a job of its own.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: asked("train", "cpus_per_task", grows=False)
    resources:
        gpu=lambda wildcards: PLAN.trainings[wildcards.training].devices,
        mem_mb=asked("train", "mem_mb"),
        runtime=asked("train", "runtime", grows=False),
    params:
        cfg=training_params("train", stages.TRAIN_KEYS),
        options=untracked(
            lambda wildcards: stages.training_settings(
                PLAN.trainings[wildcards.training], stages.TRAIN_OPTIONS
            )
        ),
        state=subpath(output[0], parent=True),
    script:
        "../workflow/scripts/train.py"
