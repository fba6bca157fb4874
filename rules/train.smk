def get_initial_weights(wildcards):
    """The checkpoint to start from, if any; it may be another training's model.ckpt."""
    initial = get_training(wildcards.network).initial_weights
    return initial.path if initial else []


rule train:
    """Train a network; an interrupted job resumes from `training/` beside its output."""
    input:
        split=PATHS.datasplit(),
        summary=PATHS.datasplit_summary(),
        initial=get_initial_weights,
        statistics=get_training_raw_statistics,
        pseudo_labels=get_pseudo_labels,
    output:
        PATHS.checkpoint(),
    log:
        PATHS.log("train/{network}"),
    benchmark:
        PATHS.benchmark("train/{network}")
    # The Snakemake inside a Slurm job does not retry: each retry is a job of its own.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: requested("train", "cpus_per_task", retries_request_more=False)
    resources:
        gpu=requested_gpus("train", "gpu"),
        gpu_model=requested_gpus("train", "gpu_model"),
        gres=requested_gpus("train", "gres"),
        nodes=requested_gpus("train", "nodes"),
        lsf_extra=requested_gpus("train", "lsf_extra"),
        mem_mb=requested("train", "mem_mb"),
        runtime=requested("train", "runtime", retries_request_more=False),
    params:
        cfg=get_training_params("train", stages.TRAIN_KEYS),
        options=untracked(
            lambda wildcards: stages.training_settings(
                get_training(wildcards.network), stages.TRAIN_OPTIONS
            )
        ),
        state=subpath(output[0], parent=True),
    script:
        "../workflow/scripts/train.py"
