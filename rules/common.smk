"""The plan of the run, and functions for the params and resources of several stages."""

import sys
from itertools import pairwise
from pathlib import Path

from cellmap_pipeline.config import stages
from cellmap_pipeline.crop_label import row_settings
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.folds import fold_of, training_of
from cellmap_pipeline.plan.lineage import label_lineage, network_lineage
from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.plan.resources import gpu_resources, requested_resources
from cellmap_pipeline.plan.targets import check_target
from cellmap_pipeline.run import restart

CONFIGFILES = [Path(path) for path in (*workflow.overwrite_configfiles, *workflow.configfiles)]
CONFIG_NAME = str(CONFIGFILES[0] if CONFIGFILES else "config")
TRAINING_FOLDERS = list(
    dict.fromkeys(
        [Path("config/training")]
        + [path.parent / "training" for path in CONFIGFILES]
        + [ROOT / "config/training"]
    )
)

try:
    PLAN = make_plan(config, CONFIG_NAME, TRAINING_FOLDERS)
    # Snakemake knows its targets only later. Those of a workflow that uses this one as a module are
    # its own.
    if not workflow.modifier.skip_configfile:
        for _before, _word in pairwise(sys.argv):
            if _before not in ("-d", "--directory", "-O", "--omit-from"):
                check_target(PLAN, _word)
except InputError as error:
    stop(error)


def get_training(network):
    """The settings of a training, also by the name of one of its networks."""
    return PLAN.trainings[training_of(network)]


# Used with `--sdm apptainer` only. Images hold no library: jobs import this workflow's.
container: PLAN.config.container


PATHS = PLAN.paths
restart.keep_run_lock(PATHS.logs)
DATASETS = PLAN.dataset_by_crop()
# Trainings that contribute nothing to the submission are skipped.
ACTIVE = PLAN.active_trainings()
# The networks of all trainings: one for each, or one per fold.
NETWORKS = {name: PLAN.networks_of(name) for name in PLAN.trainings}
# Networks whose data are split.
SPLIT = [network for name in ACTIVE or NETWORKS for network in NETWORKS[name]]
# Networks whose checkpoint this run makes.
TRAINED = [
    network
    for network in SPLIT
    if ACTIVE and get_training(network).inference.checkpoint in ("best", "last")
]
# By training and test crop, the rows of the manifest that the training predicts.
ROWS_TO_PREDICT = {
    (name, crop): rows for name in ACTIVE for crop, rows in PLAN.rows_by_crop(name).items()
}
ROWS_TO_SEGMENT = PLAN.rows_to_segment()
# By row, a hash of all settings that its final label depends on.
LABEL_LINEAGE = {row: label_lineage(PLAN, row) for row in ROWS_TO_SEGMENT}


wildcard_constraints:
    training="|".join(PLAN.trainings),
    network="|".join(network for networks in NETWORKS.values() for network in networks),
    source="|".join(PLAN.validated_sources()),
    dataset="[^/]+",
    crop=r"\d+",
    part=r"\d+",
    parts=r"\d+",
    label="[^/]+",


def result_version(stage):
    """The number that is raised when the results of a stage change; each rule tracks it."""
    return {"result_version": stages.RESULT_VERSION[stage]}


def get_training_params(stage, keys):
    """A params function: the part of a training's file that a stage of a network depends on."""

    def params(wildcards):
        training = get_training(wildcards.network)
        return result_version(stage) | stages.training_settings(training, keys)

    return params


def get_lineage(network):
    """A hash of all settings that the checkpoints of a network's training depend on."""
    return network_lineage(PLAN, training_of(network))


def get_inference_params(network):
    """The settings that a network's prediction depends on, besides the checkpoint."""
    settings = stages.inference_settings(get_training(network))
    return result_version("predict") | {"lineage": get_lineage(network)} | settings


def get_network(wildcards):
    """The network that a job trains or predicts with, or the training of several."""
    return getattr(wildcards, "network", None) or wildcards.training


def get_segmentations():
    """The final labels of all rows."""
    return [PATHS.segmentation(row.dataset, row.crop, row.label) for row in ROWS_TO_SEGMENT]


def get_submission_rows():
    """All submitted rows, each with a hash of the settings that its label depends on."""
    return [row_settings(row) | {"made": LABEL_LINEAGE.get(row)} for row in PLAN.crop_labels]


def untracked(get):
    """A params function whose value reruns nothing: Snakemake tracks none that takes threads."""

    def params(wildcards, threads):
        return get(wildcards)

    return params


def per_attempt(amount):
    """A resources function: each retry of a job requests more."""
    return lambda wildcards, attempt: amount * attempt


def requested(stage, key, retries_request_more=True):
    """A resources function: what a training's jobs of a stage request."""

    def resources(wildcards, attempt):
        network = get_network(wildcards)
        networks = len(NETWORKS.get(network, [network])) if stage == "predict" else 1
        amount = requested_resources(get_training(network), stage, networks)[key]
        return amount * attempt if retries_request_more else amount

    return resources


def requested_gpus(stage, key):
    """A resources function: the GPUs, and the nodes, of a training's jobs of a stage."""
    return lambda wildcards: gpu_resources(get_training(get_network(wildcards)), stage).get(key)
