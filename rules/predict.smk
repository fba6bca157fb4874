# By training and crop, into how many jobs its prediction is cut.
JOBS = {
    (name, crop): prediction_jobs(PLAN.trainings[name], rows)
    for (name, crop), rows in PREDICTED.items()
}


rule predict_part:
    """Predict all labels in one part of a test crop that is cut into several jobs."""
    input:
        checkpoint=checkpoint_of,
        checked=lambda wildcards: checked(f"{wildcards.training}/crop{wildcards.crop}"),
    output:
        temp(directory(OUTPUT / "{training}/predictions/{dataset}/crop{crop}.part{part}of{parts}")),
    log:
        OUTPUT / "logs/predict/{training}/{dataset}/crop{crop}.part{part}of{parts}.log",
    benchmark:
        OUTPUT / "benchmarks/predict/{training}/{dataset}/crop{crop}.part{part}of{parts}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: asked("predict", "cpus_per_task", grows=False)
    resources:
        gpu=1,
        mem_mb=asked("predict", "mem_mb"),
        runtime=asked("predict", "runtime"),
    params:
        cfg=predict_params,
        options=INFERENCE_OPTIONS,
        expected=NETWORK,
    script:
        "../workflow/scripts/predict.py"


rule predict:
    """Predict all labels of a test crop in one pass of the network over it."""
    input:
        parts=parts_of,
        checkpoint=checkpoint_of,
        checked=lambda wildcards: checked(f"{wildcards.training}/crop{wildcards.crop}"),
    output:
        directory(OUTPUT / "{training}/predictions/{dataset}/crop{crop}"),
    log:
        OUTPUT / "logs/predict/{training}/{dataset}/crop{crop}.log",
    benchmark:
        OUTPUT / "benchmarks/predict/{training}/{dataset}/crop{crop}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: asked("predict", "cpus_per_task", grows=False)
    resources:
        gpu=lambda wildcards: 0 if parts_of(wildcards) else 1,
        mem_mb=asked("predict", "mem_mb"),
        runtime=asked("predict", "runtime"),
    params:
        cfg=predict_params,
        options=INFERENCE_OPTIONS,
        expected=NETWORK,
    script:
        "../workflow/scripts/predict.py"


for _crop in DATASET:
    # `snakemake crop234`: the crop's predictions by every training that serves it.

    rule:
        name:
            f"crop{_crop}"
        input:
            [predictions_of(name, _crop) for name in USED if (name, _crop) in PREDICTED],
