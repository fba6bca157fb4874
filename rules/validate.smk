from cellmap_pipeline.plan import validation as plan_validation
from cellmap_pipeline.plan.resources import DEFAULT_RESOURCES
from cellmap_pipeline.plan.sources import AVERAGE


def get_validation_trainings(wildcards):
    """The trainings on whose validation crops a source is scored."""
    return plan_validation.validation_trainings(PLAN, wildcards.source)


def get_predicting_trainings(wildcards):
    """The trainings whose predictions make up a source; an external source has none."""
    return plan_validation.predicting_trainings(PLAN, wildcards.source)


def get_validation_networks(wildcards):
    """The networks of these trainings, one after the other."""
    return [network for name in get_validation_trainings(wildcards) for network in NETWORKS[name]]


def get_validation_predictions(wildcards):
    """Predictions of validation crops; external ones are no results of this run."""
    names = get_predicting_trainings(wildcards)
    return [PATHS.validation_predictions(network) for name in names for network in NETWORKS[name]]


def get_validate_params(wildcards):
    """The settings that the scores of a source depend on."""
    trainings = {name: PLAN.trainings[name] for name in get_validation_trainings(wildcards)}
    predicting = get_predicting_trainings(wildcards)
    own = trainings.get(wildcards.source)
    return result_version("validate") | {
        "lineage": [get_lineage(name) for name in predicting],
        "inference": [stages.inference_settings(PLAN.trainings[name]) for name in predicting],
        "labels": plan_validation.validation_settings(PLAN, wildcards.source),
        "trainings": list(trainings),
        "networks": [len(NETWORKS[name]) for name in trainings],
        "voxel_size": list(own.voxel_size) if own else None,
        "everywhere": wildcards.source == AVERAGE,
        "rules": PLAN.config.scoring.rules,
    }


def requested_for_validation(key, retries_request_more=True):
    """A resources function: what the scoring of a source requests."""

    def resources(wildcards, attempt):
        if wildcards.source in PLAN.trainings:
            amount = requested_resources(PLAN.trainings[wildcards.source], "validate")[key]
        else:
            amount = DEFAULT_RESOURCES["validate"][key]
        return amount * attempt if retries_request_more else amount

    return resources


rule validate:
    """Tune the post-processing of each class on validation crops, and score it officially."""
    input:
        splits=lambda wildcards: list(map(PATHS.datasplit, get_validation_networks(wildcards))),
        predictions=get_validation_predictions,
        checked=lambda wildcards: after_check(wildcards.source),
    output:
        scores=PATHS.validation_scores(),
        settings=PATHS.tuned_settings(),
    log:
        PATHS.log("validate/{source}"),
    benchmark:
        PATHS.benchmark("validate/{source}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: requested_for_validation("cpus_per_task", retries_request_more=False)
    resources:
        mem_mb=requested_for_validation("mem_mb"),
        runtime=requested_for_validation("runtime"),
    params:
        cfg=get_validate_params,
    script:
        "../workflow/scripts/validate.py"
