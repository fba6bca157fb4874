def split_settings(training):
    """What a training's datasplit depends on."""
    settings = planning.training_settings(PLAN.trainings[training], planning.DATASPLIT_KEYS)
    settings["data_root"] = PLAN.config.data_root
    # More crops in the data folder are another split.
    return settings | ({"fetched": sorted(PLAN.fetched)} if PLAN.config.fetch else {})


def rows_of(training, crop):
    """The rows of the manifest that a training predicts in a crop."""
    return [planning.row_settings(row) for row in PLAN.predicted(training)[crop]]


# Trainings whose validation crops are needed.
SPLIT = USED or list(PLAN.trainings)
# What waits for the check, with settings that it depends on itself. It waits for a mark that is
# named after these: a mark that is not there makes the check run. A check that ran for its own
# settings would hide from Snakemake that those of what waits for it changed, too.
CHECKED = {name: [split_settings(name), PLAN.trainings[name].datasplit] for name in SPLIT}
for _name in USED:
    for _crop in PLAN.predicted(_name):
        CHECKED[f"{_name}/crop{_crop}"] = [
            rows_of(_name, _crop),
            PLAN.config.data_root,
            PLAN.trainings[_name].voxel_size,
            PLAN.trainings[_name].inference.checkpoint,
        ]
for _name in PLAN.config.predictions:
    CHECKED[_name] = planning.validation_settings(PLAN, _name)
MARKS = {
    name: OUTPUT / f"checked/{name}.{fingerprint_of(settings)}"
    for name, settings in CHECKED.items()
}
LOOKED = OUTPUT / "checked/done"


def checked(name):
    """To wait for the check of a source or of TRAINING/cropN, and not to run again for it."""
    return ancient(MARKS[name])


rule check_inputs:
    """Look at all data now, also at what was looked at before, and stop."""
    input:
        LOOKED,
        list(MARKS.values()),


# A checkpoint: what runs is decided again after it, for when it runs for a reason of its own, since
# a crop is fetched again or since it was killed.
checkpoint inspect_inputs:
    """Look at the data before anything expensive: what must be there, is, and can be read."""
    input:
        manifest=ancient(PLAN.manifest),
        fetched=FETCHED,
    output:
        found=OUTPUT / "check_inputs.json",
        looked=temp(touch(LOOKED)),
    log:
        OUTPUT / "logs/check_inputs.log",
    benchmark:
        OUTPUT / "benchmarks/check_inputs.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        cfg=untracked(
            lambda wildcards: {
                "data_root": PLAN.config.data_root,
                "ground_truth": PLAN.config.ground_truth,
                "trainings": {
                    name: planning.training_settings(
                        PLAN.trainings[name], [*planning.DATASPLIT_KEYS, "datasplit"]
                    )
                    for name in SPLIT
                },
                # Made elsewhere, and predicted with.
                "checkpoints": {
                    name: [
                        PLAN.trainings[name].inference.checkpoint,
                        planning.training_settings(PLAN.trainings[name], planning.NETWORK_KEYS),
                    ]
                    for name in USED
                    if PLAN.trainings[name].inference.checkpoint not in ("best", "last")
                },
                "elsewhere": {
                    name: planning.elsewhere_paths(PLAN, name) for name in PLAN.config.predictions
                },
                "predicted": {
                    name: [
                        planning.row_settings(row)
                        for rows in PLAN.predicted(name).values()
                        for row in rows
                    ]
                    for name in USED
                },
            }
        ),
    script:
        "../workflow/scripts/check_inputs.py"


rule checked:
    """Mark what was looked at."""
    input:
        ancient(LOOKED),
    output:
        [touch(update(mark)) for mark in MARKS.values()],
    localrule: True
    threads: 1
    resources:
        mem_mb=100,
        runtime=1,
    shell:
        "true"
