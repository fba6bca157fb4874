from cellmap_pipeline.plan.lineage import choice_for, prediction_paths
from cellmap_pipeline.plan.resources import segmentation_mb, segmentation_threads
from cellmap_pipeline.plan.sources import AVERAGE, origin

ROWS_BY_CROP_AND_LABEL = {(row.crop, row.label): row for row in ROWS_TO_SEGMENT}


def get_row(wildcards):
    """The row of the manifest that a label is made for."""
    return ROWS_BY_CROP_AND_LABEL[int(wildcards.crop), wildcards.label]


def get_origins(wildcards):
    """Trainings and external predictions that can provide a label, and `average` of them."""
    row = get_row(wildcards)
    averaged = choice_for(PLAN, row) == AVERAGE
    names = [origin(source) for source in PLAN.sources(row)]
    return list(dict.fromkeys(names + [AVERAGE] * averaged))


def get_tuned_origins(wildcards):
    """The origins of a label with scores and tuned settings, their own or those of another one."""
    return [name for name in get_origins(wildcards) if name in SCORES]


def get_segment_predictions(wildcards):
    """The predictions of the trainings that can provide a label."""
    return [
        get_predictions(name, int(wildcards.crop))
        for name in get_origins(wildcards)
        if name in PLAN.trainings
    ]


def get_segment_params(wildcards):
    """The settings that a label depends on."""
    row = get_row(wildcards)
    sources = prediction_paths(PLAN, row)
    return result_version("segment") | {
        "lineage": LABEL_LINEAGE[row],
        "row": row_settings(row),
        "select": choice_for(PLAN, row),
        "origins": get_tuned_origins(wildcards),
        "sources": sources,
        "postprocess": {
            source: PLAN.trainings[origin(source)].postprocess.get(row.label, {})
            for source in sources
            if origin(source) in PLAN.trainings
        },
    }


rule segment:
    """Make the final label of a crop from the probabilities of the chosen source."""
    input:
        predictions=get_segment_predictions,
        scores=lambda wildcards: [SCORES[name] for name in get_tuned_origins(wildcards)],
        settings=lambda wildcards: [
            PATHS.tuned_settings(PLAN.settings_origin(name))
            for name in get_tuned_origins(wildcards)
        ],
    output:
        directory(PATHS.segmentation()),
    log:
        PATHS.log("segment/{dataset}/crop{crop}/{label}"),
    benchmark:
        PATHS.benchmark("segment/{dataset}/crop{crop}/{label}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: lambda wildcards: segmentation_threads(get_row(wildcards))
    resources:
        mem_mb=lambda wildcards, threads, attempt: attempt
        * segmentation_mb(get_row(wildcards), threads),
        runtime=per_attempt(120),
        # With this resource a profile can limit how many labels one job makes at a time.
        labels=1,
    params:
        cfg=get_segment_params,
    script:
        "../workflow/scripts/segment.py"
