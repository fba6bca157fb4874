from cellmap_pipeline.plan.resources import prediction_jobs

# By training and crop, the number of jobs that predict the crop.
PREDICTION_JOBS = {
    (name, crop): prediction_jobs(PLAN.trainings[name], rows)
    for (name, crop), rows in ROWS_TO_PREDICT.items()
}

INFERENCE_OPTIONS = untracked(
    lambda wildcards: {"batch": get_training(get_network(wildcards)).inference.batch}
)
# Checkpoints must agree with these settings; what they were made from is tracked elsewhere.
NETWORK = untracked(
    lambda wildcards: stages.training_settings(
        get_training(get_network(wildcards)), stages.NETWORK_KEYS
    )
)


def get_checkpoints(wildcards):
    """The checkpoints that predict: of each network, or the file that the configuration names."""
    name = get_network(wildcards)
    choice = get_training(name).inference.checkpoint
    if choice not in ("best", "last"):
        return choice
    checkpoints = list(map(PATHS.checkpoint, NETWORKS.get(name, [name])))
    return checkpoints if len(checkpoints) > 1 else checkpoints[0]


def get_predict_params(wildcards):
    """The settings that a crop's prediction depends on, with the rows that are predicted."""
    rows = ROWS_TO_PREDICT[wildcards.training, int(wildcards.crop)]
    return get_inference_params(wildcards.training) | {
        "rows": [row_settings(row) for row in rows],
        "data_root": PLAN.config.data_root,
    }


def get_parts(wildcards):
    """The parts that a crop's prediction is joined from; none if one job makes it."""
    jobs = PREDICTION_JOBS[wildcards.training, int(wildcards.crop)]
    return [
        PATHS.prediction_part(part, jobs, wildcards.training, wildcards.dataset, wildcards.crop)
        for part in range(1, jobs + 1)
        if jobs > 1
    ]


def get_predictions(training, crop):
    """The folder of a training's predictions for a crop."""
    return PATHS.predictions(training, DATASETS[crop], crop)


def without_parts(key, otherwise=None):
    """A resources function: the GPU of a job that predicts a crop; to join parts takes none."""
    request = requested_gpus("predict", key)
    return lambda wildcards: otherwise if get_parts(wildcards) else request(wildcards)


rule predict_part:
    """Predict all labels in one part of a test crop that several jobs predict."""
    input:
        checkpoint=get_checkpoints,
        checked=lambda wildcards: after_check(f"{wildcards.training}/crop{wildcards.crop}"),
        statistics=get_raw_statistics,
    output:
        temp(directory(PATHS.prediction_part())),
    log:
        PATHS.log("predict/{training}/{dataset}/crop{crop}.part{part}of{parts}"),
    benchmark:
        PATHS.benchmark("predict/{training}/{dataset}/crop{crop}.part{part}of{parts}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: requested("predict", "cpus_per_task", retries_request_more=False)
    resources:
        gpu=requested_gpus("predict", "gpu"),
        gpu_model=requested_gpus("predict", "gpu_model"),
        lsf_extra=requested_gpus("predict", "lsf_extra"),
        mem_mb=requested("predict", "mem_mb"),
        runtime=requested("predict", "runtime"),
    params:
        cfg=get_predict_params,
        options=INFERENCE_OPTIONS,
        expected=NETWORK,
    script:
        "../workflow/scripts/predict.py"


rule predict:
    """Predict all labels of a test crop in one pass of the network over it."""
    input:
        parts=get_parts,
        checkpoint=get_checkpoints,
        checked=lambda wildcards: after_check(f"{wildcards.training}/crop{wildcards.crop}"),
        statistics=get_raw_statistics,
    output:
        directory(PATHS.predictions()),
    log:
        PATHS.log("predict/{training}/{dataset}/crop{crop}"),
    benchmark:
        PATHS.benchmark("predict/{training}/{dataset}/crop{crop}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: requested("predict", "cpus_per_task", retries_request_more=False)
    resources:
        gpu=without_parts("gpu", 0),
        gpu_model=without_parts("gpu_model"),
        lsf_extra=without_parts("lsf_extra"),
        mem_mb=requested("predict", "mem_mb"),
        runtime=requested("predict", "runtime"),
    params:
        cfg=get_predict_params,
        options=INFERENCE_OPTIONS,
        expected=NETWORK,
    script:
        "../workflow/scripts/predict.py"


for _crop in DATASETS:
    # `snakemake crop234`: the crop's predictions by every training that serves it.

    rule:
        name:
            f"crop{_crop}"
        input:
            [get_predictions(name, _crop) for name in ACTIVE if (name, _crop) in ROWS_TO_PREDICT],


rule predict_validation:
    """Predict the validation crops of a network as test crops are predicted."""
    input:
        checkpoint=get_checkpoints,
        split=PATHS.datasplit(),
        statistics=get_training_raw_statistics,
    output:
        directory(PATHS.validation_predictions()),
    log:
        PATHS.log("predict_validation/{network}"),
    benchmark:
        PATHS.benchmark("predict_validation/{network}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: requested("predict", "cpus_per_task", retries_request_more=False)
    resources:
        gpu=requested_gpus("predict", "gpu"),
        gpu_model=requested_gpus("predict", "gpu_model"),
        lsf_extra=requested_gpus("predict", "lsf_extra"),
        mem_mb=requested("predict", "mem_mb"),
        runtime=requested("predict", "runtime"),
    params:
        cfg=lambda wildcards: get_inference_params(wildcards.network)
        | {"parts": PLAN.parts.get(training_of(wildcards.network), {})},
        options=INFERENCE_OPTIONS,
        expected=NETWORK,
    script:
        "../workflow/scripts/predict_validation.py"
