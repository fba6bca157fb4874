def get_split_params(wildcards):
    """The settings that a data split depends on."""
    settings = get_training_params("datasplit", stages.DATASPLIT_KEYS)(wildcards)
    settings["data_root"] = PLAN.config.data_root
    settings["test_datasets"] = PLAN.test_datasets
    # More crops in the data folder make another split.
    return settings | ({"fetched": sorted(PLAN.fetched)} if PLAN.config.fetch else {})


def get_own_datasplit(wildcards):
    """The CSV that the training's file names, if any."""
    return PLAN.trainings[wildcards.training].datasplit or []


rule datasplit:
    """Choose which crops train and which validate."""
    input:
        checked=lambda wildcards: after_check(wildcards.training),
        own=get_own_datasplit,
    output:
        split=PATHS.datasplit(),
        summary=PATHS.datasplit_summary(),
    log:
        PATHS.log("datasplit/{training}"),
    benchmark:
        PATHS.benchmark("datasplit/{training}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(2000),
        runtime=per_attempt(30),
    params:
        cfg=get_split_params,
    script:
        "../workflow/scripts/datasplit.py"
