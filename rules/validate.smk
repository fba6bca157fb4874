INFERENCE_OPTIONS = untracked(
    lambda wildcards: {"batch": PLAN.trainings[wildcards.training].inference.batch}
)


# Only looked at: what the checkpoint was made by is tracked.
NETWORK = untracked(
    lambda wildcards: stages.training_settings(
        PLAN.trainings[wildcards.training], stages.NETWORK_KEYS
    )
)


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
