"""The CellMap Segmentation Challenge as a DAG of files, from raw volumes to submission.zip."""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/config.smk"


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/plan.smk"
include: "rules/fetch.smk"
include: "rules/check_inputs.smk"
include: "rules/datasplit.smk"
include: "rules/train.smk"
include: "rules/validate.smk"
include: "rules/predict.smk"
include: "rules/select.smk"
include: "rules/segment.smk"
include: "rules/package.smk"
include: "rules/score.smk"
include: "rules/figures.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        "submission.zip",
        AT_HAND,
        # Of what is between, only what a target names is made again when it is gone.
        [OUTPUT / name / "model.ckpt" for name in TRAINED],
        list(SCORES.values()),
        [segmentation_of(row) for row in PLAN.segmented()],


onstart:
    check_start()
    running.begin(LOGS)


onsuccess:
    running.forget_noted(LOGS)


onerror:
    print_failures()
    running.forget_noted(LOGS)
