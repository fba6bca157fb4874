ROW = {(row.crop, row.label): row for row in PLAN.segmented()}


def segment_row(wildcards):
    return ROW[int(wildcards.crop), wildcards.label]


def segment_origins(wildcards):
    """The trainings and the predictions made elsewhere that give a label, and averages of them."""
    row = segment_row(wildcards)
    averaged = planning.choice_for(PLAN, row) == planning.AVERAGE
    names = [planning.origin(source) for source in PLAN.sources(row)]
    return list(dict.fromkeys(names + [planning.AVERAGE] * averaged))


def segment_predictions(wildcards):
    """The predictions of the trainings that give a label."""
    return [
        predictions_of(name, int(wildcards.crop))
        for name in segment_origins(wildcards)
        if name in PLAN.trainings
    ]


def segment_params(wildcards):
    """What a label depends on."""
    row = segment_row(wildcards)
    sources = planning.label_sources(PLAN, row)
    return version("segment") | {
        "lineage": LINEAGE[row],
        "row": planning.row_settings(row),
        "select": planning.choice_for(PLAN, row),
        "origins": segment_origins(wildcards),
        "sources": sources,
        "postprocess": {
            source: PLAN.trainings[planning.origin(source)].postprocess.get(row.label, {})
            for source in sources
            if planning.origin(source) in PLAN.trainings
        },
    }


rule segment:
    """Make the final label of a crop from the probabilities of the chosen source."""
    input:
        predictions=segment_predictions,
        scores=lambda wildcards: [SCORES[name] for name in segment_origins(wildcards)],
        settings=lambda wildcards: [TUNED[name] for name in segment_origins(wildcards)],
    output:
        directory(OUTPUT / "segmentations/{dataset}/crop{crop}/{label}"),
    log:
        OUTPUT / "logs/segment/{dataset}/crop{crop}/{label}.log",
    benchmark:
        OUTPUT / "benchmarks/segment/{dataset}/crop{crop}/{label}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: lambda wildcards: planning.segmentation_threads(segment_row(wildcards))
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        # So that a profile can bound how many are made side by side in one job.
        labels=1,
    params:
        cfg=segment_params,
    script:
        "../workflow/scripts/segment.py"
