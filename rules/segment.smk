ROW = {(row.crop, row.label): row for row in PLAN.segmented()}


def segment_sources(wildcards):
    return PLAN.sources(ROW[int(wildcards.crop), wildcards.label])


def segment_trainings(wildcards):
    return [name for name in segment_sources(wildcards) if name in PLAN.trainings]


def elsewhere(wildcards):
    """By name, the paths of predictions made elsewhere."""
    return {
        name: PLAN.config.predictions[name].format(
            dataset=wildcards.dataset, crop=wildcards.crop, label=wildcards.label
        )
        for name in segment_sources(wildcards)
        if name in PLAN.config.predictions
    }


rule segment:
    """Make the final label of a crop from the probabilities of the chosen training."""
    input:
        predictions=lambda wildcards: [
            predictions_of(name, int(wildcards.crop)) for name in segment_trainings(wildcards)
        ],
        scores=lambda wildcards: [
            OUTPUT / name / "validation/scores.json" for name in segment_trainings(wildcards)
        ],
        settings=lambda wildcards: [
            OUTPUT / name / "validation/postprocess.json" for name in segment_trainings(wildcards)
        ],
    output:
        directory(OUTPUT / "segmentations/{dataset}/crop{crop}/{label}"),
    log:
        OUTPUT / "logs/segment/{dataset}/crop{crop}/{label}.log",
    benchmark:
        OUTPUT / "benchmarks/segment/{dataset}/crop{crop}/{label}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        cfg=lambda wildcards: version("segment")
        | {
            "lineage": LINEAGE[ROW[int(wildcards.crop), wildcards.label]],
            "row": planning.row_settings(ROW[int(wildcards.crop), wildcards.label]),
            "select": SELECT.get(wildcards.label, "best") if isinstance(SELECT, dict) else SELECT,
            "trainings": segment_trainings(wildcards),
            "elsewhere": elsewhere(wildcards),
            "postprocess": {
                name: PLAN.trainings[name].postprocess.get(wildcards.label, {})
                for name in segment_trainings(wildcards)
            },
        },
    script:
        "../workflow/scripts/segment.py"
