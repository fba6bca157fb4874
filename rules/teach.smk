from cellmap_pipeline.plan.contents import test_crop_extents

# Crops are known once the data are split, so a job labels what is around all crops of a network.


def get_teacher(wildcards):
    """The settings of the training that teaches a network."""
    return get_training(PLAN.teacher_of(wildcards.network))


def get_taught_classes(wildcards):
    """The classes that a network learns from its teacher."""
    known = get_teacher(wildcards).classes
    return [label for label in get_training(wildcards.network).classes if label in known]


def get_teacher_checkpoint(wildcards):
    """The checkpoint of the network that teaches, or the file that its training names."""
    teacher = PLAN.teacher_of(wildcards.network)
    choice = get_training(teacher).inference.checkpoint
    return PATHS.checkpoint(teacher) if choice in ("best", "last") else choice


def get_teacher_raw_statistics(wildcards):
    """The statistics of the taught network's raw, if the teacher is normalized by them."""
    if get_teacher(wildcards).normalize == "range":
        return []
    return PATHS.training_raw_statistics(wildcards.network)


def get_taught_params(wildcards):
    """The settings that say what a network learns from its teacher, and where."""
    extents = {
        dataset: [[*map(list, (grid.voxel_size, grid.translation, grid.shape))] for grid in grids]
        for dataset, grids in test_crop_extents(PLAN).items()
    }
    return {
        "taught": stages.training_settings(
            get_training(wildcards.network), ["classes", "voxel_size"]
        ),
        "classes": get_taught_classes(wildcards),
        "test_crops": extents,
    }


def get_predict_teacher_params(wildcards):
    """The settings that a teacher's predictions depend on, besides the checkpoint."""
    margin = list(get_training(wildcards.network).taught_margin)
    inference = get_inference_params(PLAN.teacher_of(wildcards.network))
    return inference | get_taught_params(wildcards) | {"margin": margin}


def get_pseudo_labels_params(wildcards):
    """The settings that pseudo-labels depend on, besides the predictions."""
    at_least = get_training(wildcards.network).teach.at_least
    version = result_version("pseudo_labels")
    return version | get_taught_params(wildcards) | {"at_least": at_least}


def get_pseudo_labels(wildcards):
    """The pseudo-labels that teach a network, if a teacher does."""
    return PATHS.pseudo_labels(wildcards.network) if PLAN.teacher_of(wildcards.network) else []


def requested_by_teacher(key):
    """A resources function: what the jobs of a prediction by the teacher request."""

    def resources(wildcards, attempt):
        return requested_resources(get_teacher(wildcards), "predict")[key] * attempt

    return resources


def requested_gpus_by_teacher(key):
    """A resources function: the GPU of a job in which the teacher predicts."""
    return lambda wildcards: gpu_resources(get_teacher(wildcards), "predict").get(key)


rule predict_teacher:
    """Predict the raw around the training crops of a network by the network that teaches it."""
    input:
        checkpoint=get_teacher_checkpoint,
        split=PATHS.datasplit(),
        statistics=get_teacher_raw_statistics,
    output:
        directory(PATHS.teacher_predictions()),
    log:
        PATHS.log("predict_teacher/{network}"),
    benchmark:
        PATHS.benchmark("predict_teacher/{network}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: lambda wildcards: requested_by_teacher("cpus_per_task")(wildcards, 1)
    resources:
        gpu=requested_gpus_by_teacher("gpu"),
        gpu_model=requested_gpus_by_teacher("gpu_model"),
        lsf_extra=requested_gpus_by_teacher("lsf_extra"),
        mem_mb=requested_by_teacher("mem_mb"),
        runtime=requested_by_teacher("runtime"),
    params:
        cfg=get_predict_teacher_params,
        options=untracked(lambda wildcards: {"batch": get_teacher(wildcards).inference.batch}),
        expected=untracked(
            lambda wildcards: stages.training_settings(get_teacher(wildcards), stages.NETWORK_KEYS)
        ),
    script:
        "../workflow/scripts/predict_teacher.py"


rule pseudo_labels:
    """Keep what the teacher is sure of, outside of all annotated crops and of the test crops."""
    input:
        predictions=PATHS.teacher_predictions(),
        split=PATHS.datasplit(),
    output:
        directory(PATHS.pseudo_labels()),
    log:
        PATHS.log("pseudo_labels/{network}"),
    benchmark:
        PATHS.benchmark("pseudo_labels/{network}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(4000),
        runtime=per_attempt(60),
    params:
        cfg=get_pseudo_labels_params,
    script:
        "../workflow/scripts/pseudo_labels.py"
