def get_raw_statistics(wildcards):
    """The statistics of raw that a prediction of a test crop is normalized by, if any."""
    if get_training(wildcards.training).normalize == "range":
        return []
    return PATHS.raw_statistics(wildcards.dataset)


def get_training_raw_statistics(wildcards):
    """The statistics of raw that the patches and the validation of a network are normalized by."""
    if get_training(wildcards.network).normalize == "range":
        return []
    return PATHS.training_raw_statistics(wildcards.network)


rule raw_statistics:
    """Measure the raw of a dataset with test crops, to normalize what predicts them."""
    input:
        checked=lambda wildcards: after_check(f"raw_statistics/{wildcards.dataset}"),
    output:
        PATHS.raw_statistics(),
    log:
        PATHS.log("raw_statistics/{dataset}"),
    benchmark:
        PATHS.benchmark("raw_statistics/{dataset}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 4
    resources:
        mem_mb=per_attempt(4000),
        runtime=per_attempt(60),
    params:
        cfg=result_version("raw_statistics") | {"data_root": PLAN.config.data_root},
    script:
        "../workflow/scripts/raw_statistics.py"


use rule raw_statistics as training_raw_statistics with:
    input:
        split=PATHS.datasplit(),
    output:
        PATHS.training_raw_statistics(),
    log:
        PATHS.log("training_raw_statistics/{network}"),
    benchmark:
        PATHS.benchmark("training_raw_statistics/{network}")
    params:
        cfg=get_training_params("raw_statistics", ["classes", "voxel_size"]),
