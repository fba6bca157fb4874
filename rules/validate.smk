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


rule validate:
    """Predict the validation crops, tune the post-processing of each class on them, score it."""
    input:
        checkpoint=checkpoint_of,
        split=OUTPUT / "{training}/datasplit.csv",
    output:
        scores=OUTPUT / "{training}/validation/scores.json",
        settings=OUTPUT / "{training}/validation/postprocess.json",
        predictions=directory(OUTPUT / "{training}/validation/predictions"),
    log:
        OUTPUT / "logs/validate/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/validate/{training}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: asked("validate", "cpus_per_task", grows=False)
    resources:
        gpu=1,
        mem_mb=asked("validate", "mem_mb"),
        runtime=asked("validate", "runtime"),
    params:
        cfg=inference_params("validate"),
        options=INFERENCE_OPTIONS,
        expected=NETWORK,
    script:
        "../workflow/scripts/validate.py"
