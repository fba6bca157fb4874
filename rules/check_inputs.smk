import sys

from cellmap_pipeline.plan.validation import validation_settings
from cellmap_pipeline.run.resume import fingerprint_of


def get_checked_settings(network):
    """The settings of a network's training that `check_inputs` compares with its crops."""
    training = get_training(network)
    keys = [*stages.DATASPLIT_KEYS, "datasplit"]
    # Where they are set, the check compares them with the crops, too.
    keys += [
        key for key in ("oversample", "initial_weights", "hierarchy") if getattr(training, key)
    ]
    settings = stages.training_settings(training, keys)
    if training.teach:
        settings["teach"] = [training.teach.teacher, list(training.taught_margin)]
    return settings


def get_measured_datasets():
    """The datasets whose raw normalizes predictions, each with the voxel sizes that it needs."""
    sizes = {}
    for name, crop in ROWS_TO_PREDICT:
        if PLAN.trainings[name].normalize != "range":
            sizes.setdefault(DATASETS[crop], set()).add(PLAN.trainings[name].voxel_size)
    # Data that are not fetched have all levels, so other sizes change nothing.
    return {dataset: sorted(of) if PLAN.fetched else [] for dataset, of in sizes.items()}


# By job that waits for the check (a network, the split, external predictions, TRAINING/cropN, or
# raw_statistics/DATASET), the settings that both depend on.
CHECKED = {
    network: [
        get_checked_settings(network),
        PLAN.split_settings(training_of(network)),
        FETCHED_TO_TRAIN,
    ]
    for network in SPLIT
}
for _network in SPLIT:
    if _settings := PLAN.split_settings(training_of(_network)):
        CHECKED["folds" if "folds" in _settings else "split"] = [_settings, FETCHED_TO_TRAIN]
CHECKED |= {name: validation_settings(PLAN, name) for name in PLAN.config.predictions}
CHECKED |= {
    f"{name}/crop{crop}": [
        [row_settings(row) for row in rows],
        PLAN.trainings[name].voxel_size,
        PLAN.trainings[name].inference.checkpoint,
    ]
    for (name, crop), rows in ROWS_TO_PREDICT.items()
}
CHECKED |= {f"raw_statistics/{name}": sizes for name, sizes in get_measured_datasets().items()}


def get_marker(name):
    """The empty file that `name` waits for, named after the settings that both depend on."""
    settings = {"data_root": PLAN.config.data_root, "settings": CHECKED[name]}
    return PATHS.check_marker(name, fingerprint_of(settings))


def get_missing_markers():
    """Markers of checks that are still to be done.

    Only these are outputs, so inputs that were checked are not checked again, and Snakemake notices
    the changed settings of jobs that wait for a marker. Without outputs, and without a benchmark, the
    rule still runs when it is the target. A drawn graph shows the check also when nothing is left to
    check.
    """
    draws_graph = {"--dag", "--rulegraph", "--filegraph"}.intersection(sys.argv)
    return [marker for marker in map(get_marker, CHECKED) if draws_graph or not marker.exists()]


def after_check(name):
    """Order-only inputs: wait for the check and for fetched data; their changes rerun nothing."""
    return ancient([get_marker(name)] if name in CHECKED else []) + ancient(ALL_FETCHED)


rule check_inputs:
    """Check, before anything expensive runs, that all data exist and can be read."""
    input:
        manifest=ancient(PLAN.manifest),
        fetched=FETCHED,
    output:
        [touch(marker) for marker in get_missing_markers()],
    log:
        PATHS.log("check_inputs"),
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 8
    resources:
        mem_mb=per_attempt(4000),
        runtime=per_attempt(60),
    params:
        config=untracked(lambda wildcards: config),
        source=untracked(lambda wildcards: CONFIG_NAME),
        folders=untracked(lambda wildcards: [str(folder) for folder in TRAINING_FOLDERS]),
        trains_here=untracked(lambda wildcards: not workflow.remote_exec),
        found=str(PATHS.checked_inputs),
    script:
        "../workflow/scripts/check_inputs.py"
