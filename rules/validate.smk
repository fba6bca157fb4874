def inference_params(stage):
    """A params function: what the result of a prediction depends on besides the checkpoint."""

    def params(wildcards):
        training = PLAN.trainings[wildcards.training]
        lineage = {"lineage": planning.training_lineage(training)}
        return version(stage) | lineage | planning.inference_settings(training)

    return params


INFERENCE_OPTIONS = untracked(
    lambda wildcards: {"batch": PLAN.trainings[wildcards.training].inference.batch}
)


# Only looked at: what the checkpoint was made by is tracked.
NETWORK = untracked(
    lambda wildcards: planning.training_settings(
        PLAN.trainings[wildcards.training], planning.NETWORK_KEYS
    )
)


def checkpoint_of(wildcards):
    """The checkpoint to predict with: the training's, or the file that its configuration names."""
    choice = PLAN.trainings[wildcards.training].inference.checkpoint
    if choice in ("best", "last"):
        return OUTPUT / wildcards.training / "model.ckpt"
    return choice


rule predict_validation:
    """Predict the validation crops of a training as test crops are predicted."""
    input:
        checkpoint=checkpoint_of,
        split=OUTPUT / "{training}/datasplit.csv",
    output:
        directory(OUTPUT / "{training}/validation/predictions"),
    log:
        OUTPUT / "logs/predict_validation/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/predict_validation/{training}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: asked("predict", "cpus_per_task", grows=False)
    resources:
        gpu=1,
        mem_mb=asked("predict", "mem_mb"),
        runtime=asked("predict", "runtime"),
    params:
        cfg=lambda wildcards: inference_params("predict")(wildcards)
        | {"parts": PLAN.parts.get(wildcards.training, {})},
        options=INFERENCE_OPTIONS,
        expected=NETWORK,
    script:
        "../workflow/scripts/predict_validation.py"


def validation_trainings(wildcards):
    """The trainings on whose validation crops a source is scored."""
    return planning.validation_trainings(PLAN, wildcards.source)


def validate_params(wildcards):
    """What the scores of a source depend on."""
    trainings = {name: PLAN.trainings[name] for name in validation_trainings(wildcards)}
    own = trainings.get(wildcards.source)
    return version("validate") | {
        "lineage": [planning.training_lineage(training) for training in trainings.values()],
        "inference": [planning.inference_settings(training) for training in trainings.values()],
        "labels": planning.validation_settings(PLAN, wildcards.source),
        "voxel_size": list(own.voxel_size) if own else None,
        "everywhere": wildcards.source == planning.AVERAGE,
    }


def validation_asks(key, grows=True):
    """A resources function: what the scoring of a source asks for; retries for more."""

    def resources(wildcards, attempt):
        if wildcards.source in PLAN.trainings:
            amount = planning.resources(PLAN.trainings[wildcards.source], "validate")[key]
        else:
            amount = planning.RESOURCES["validate"][key]
        return amount * attempt if grows else amount

    return resources


rule validate:
    """Tune the post-processing of each class on validation crops, and score it officially."""
    input:
        splits=lambda wildcards: [
            OUTPUT / name / "datasplit.csv" for name in validation_trainings(wildcards)
        ],
        predictions=lambda wildcards: [
            OUTPUT / name / "validation/predictions"
            for name in validation_trainings(wildcards)
            if wildcards.source not in PLAN.config.predictions
        ],
        checked=lambda wildcards: checked(wildcards.source),
    output:
        scores=OUTPUT / "{source}/validation/scores.json",
        settings=OUTPUT / "{source}/validation/postprocess.json",
    log:
        OUTPUT / "logs/validate/{source}.log",
    benchmark:
        OUTPUT / "benchmarks/validate/{source}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: validation_asks("cpus_per_task", grows=False)
    resources:
        mem_mb=validation_asks("mem_mb"),
        runtime=validation_asks("runtime"),
    params:
        cfg=validate_params,
    script:
        "../workflow/scripts/validate.py"
