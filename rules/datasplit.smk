def get_split_params(*keys):
    """The settings that the split of all labeled crops depends on."""
    split = PLAN.config.split.model_dump(mode="json")
    settings = {key: split[key] for key in keys}
    settings["data_root"] = PLAN.config.data_root
    # More crops in the data folder are assigned, too.
    return (
        result_version("split") | settings | ({"fetched": FETCHED_TO_TRAIN} if PLAN.fetched else {})
    )


# A manifest with other datasets moves no crop.
TEST_DATASETS = untracked(lambda wildcards: PLAN.test_datasets)


def get_datasplit_params(wildcards):
    """The settings that a network's crops depend on."""
    name = training_of(wildcards.network)
    settings = get_training_params("datasplit", stages.DATASPLIT_KEYS)(wildcards)
    settings |= {"data_root": PLAN.config.data_root, "split": PLAN.split_settings(name)}
    settings["fold"] = fold_of(wildcards.network)
    return settings | ({"fetched": get_fetched_crops(name)} if PLAN.fetched else {})


def get_fetched_crops(training):
    """The fetched crops that a training may train on."""
    return [
        crop
        for crop in FETCHED_TO_TRAIN
        if PLAN.trainings[training].takes_crop(PLAN.fetched[crop].dataset, crop)
    ]


def get_split(wildcards):
    """The run's split that a network takes its crops from, if any."""
    if not PLAN.split_settings(training_of(wildcards.network)):
        return []
    return PATHS.split if fold_of(wildcards.network) is None else PATHS.folds


def get_own_datasplit(wildcards):
    """The CSV that the training's file names, if any."""
    return get_training(wildcards.network).datasplit or []


rule split:
    """Choose which of all labeled crops are held out, or assign them to folds, for all trainings."""
    input:
        checked=after_check("split"),
    output:
        update(PATHS.split),
    log:
        PATHS.log("split"),
    benchmark:
        PATHS.benchmark("split")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(2000),
        runtime=per_attempt(60),
    params:
        cfg=get_split_params("validation_fraction", "by", "seed"),
        test_datasets=TEST_DATASETS,
    script:
        "../workflow/scripts/split.py"


use rule split as folds with:
    input:
        checked=after_check("folds"),
    output:
        update(PATHS.folds),
    log:
        PATHS.log("folds"),
    benchmark:
        PATHS.benchmark("folds")
    params:
        cfg=get_split_params("folds", "by", "seed"),
        test_datasets=TEST_DATASETS,


rule datasplit:
    """List the crops that train a network, and those that validate it."""
    input:
        checked=lambda wildcards: after_check(wildcards.network),
        split=get_split,
        own=get_own_datasplit,
    output:
        split=PATHS.datasplit(),
        summary=PATHS.datasplit_summary(),
    log:
        PATHS.log("datasplit/{network}"),
    benchmark:
        PATHS.benchmark("datasplit/{network}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(2000),
        runtime=per_attempt(30),
    params:
        cfg=get_datasplit_params,
    script:
        "../workflow/scripts/datasplit.py"
