"""Figures of the results of each stage, for the report."""

from cellmap_pipeline.plan.paths import SUBMISSION
from cellmap_pipeline.scoring.rules.registry import rules_named

FIGURE_VERSION = result_version("figures")
SCORING_RULES = rules_named(PLAN.config.scoring.rules)


rule plot_run:
    """Write a page about the run: its configuration, its trainings and the software versions."""
    output:
        report(
            PATHS.figure("run.html"),
            caption="../workflow/report/run.rst",
            category="0 The run",
            labels={"page": "configuration"},
        ),
    log:
        PATHS.log("plot_run"),
    benchmark:
        PATHS.benchmark("plot_run")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION
        | {
            "config": PLAN.config.model_dump(mode="json"),
            # Settings that change no result are left out.
            "trainings": {
                name: PLAN.trainings[name].model_dump(
                    mode="json", exclude={*stages.TRAIN_OPTIONS, "resources"}
                )
                for name in ACTIVE
            },
        },
        trainings=untracked(
            lambda wildcards: {
                name: PLAN.trainings[name].model_dump(mode="json") for name in ACTIVE
            }
        ),
        root=str(ROOT),
    script:
        "../workflow/scripts/plot_run.py"


rule plot_data:
    """Draw a slice of each labelled crop with its labels."""
    input:
        list(map(PATHS.datasplit, SPLIT)),
    output:
        report(
            PATHS.figure("data.jpg"),
            caption="../workflow/report/data.rst",
            category="1 Training data",
            labels={"figure": "crops and their labels"},
        ),
    log:
        PATHS.log("plot_data"),
    benchmark:
        PATHS.benchmark("plot_data")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(4000),
        runtime=per_attempt(60),
    params:
        cfg=FIGURE_VERSION
        | {
            "voxel_size": [
                min(get_training(name).voxel_size[axis] for name in SPLIT) for axis in range(3)
            ]
        },
    script:
        "../workflow/scripts/plot_data.py"


rule plot_datasplit:
    """Draw the number of crops and the labeled volume that each class trains and validates on."""
    input:
        PATHS.datasplit_summary(),
    output:
        report(
            PATHS.figure("datasplit/{network}.png"),
            caption="../workflow/report/datasplit.rst",
            category="1 Training data",
            labels={"figure": "{network}"},
        ),
    log:
        PATHS.log("plot_datasplit/{network}"),
    benchmark:
        PATHS.benchmark("plot_datasplit/{network}")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION,
    script:
        "../workflow/scripts/plot_datasplit.py"


rule plot_training:
    """Draw the curves of a training: losses, Dice, learning rate."""
    input:
        PATHS.checkpoint(),
    output:
        report(
            PATHS.figure("training/{network}.png"),
            caption="../workflow/report/training.rst",
            category="2 Training",
            labels={"figure": "{network}"},
        ),
    log:
        PATHS.log("plot_training/{network}"),
    benchmark:
        PATHS.benchmark("plot_training/{network}")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION,
        metrics=str(PATHS.metrics()),
    script:
        "../workflow/scripts/plot_training.py"


rule plot_trainings:
    """Draw the curves of all trainings in one figure."""
    input:
        [PATHS.checkpoint(name) for name in TRAINED],
    output:
        report(
            PATHS.figure("trainings.png"),
            caption="../workflow/report/trainings.rst",
            category="2 Training",
            labels={"figure": "all"},
        ),
    log:
        PATHS.log("plot_trainings"),
    benchmark:
        PATHS.benchmark("plot_trainings")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION,
        metrics={name: str(PATHS.metrics(name)) for name in TRAINED},
    script:
        "../workflow/scripts/plot_trainings.py"


rule plot_validation:
    """Draw the scores of a source on validation crops, by threshold and with tuned settings."""
    input:
        scores=PATHS.validation_scores(),
        settings=PATHS.tuned_settings(),
    output:
        report(
            PATHS.figure("validation/{source}.png"),
            caption="../workflow/report/validation.rst",
            category="3 Validation",
            labels={"source": "{source}"},
        ),
    log:
        PATHS.log("plot_validation/{source}"),
    benchmark:
        PATHS.benchmark("plot_validation/{source}")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION | {"rules": SCORING_RULES.name},
    script:
        "../workflow/scripts/plot_validation.py"


rule plot_selection:
    """Draw which source was chosen for which label."""
    input:
        PATHS.selection,
    output:
        report(
            PATHS.figure("selection.png"),
            caption="../workflow/report/selection.rst",
            category="4 Selection",
            labels={"figure": "trainings and labels"},
        ),
    log:
        PATHS.log("plot_selection"),
    benchmark:
        PATHS.benchmark("plot_selection")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION,
    script:
        "../workflow/scripts/plot_selection.py"


def get_rows_of_crop(wildcards):
    """The rows of a test crop that are segmented."""
    return [row for row in ROWS_TO_SEGMENT if row.crop == int(wildcards.crop)]


def get_segmentations_of_crop(wildcards):
    """The final labels of a test crop."""
    rows = get_rows_of_crop(wildcards)
    return [PATHS.segmentation(row.dataset, row.crop, row.label) for row in rows]


rule plot_crop:
    """Draw slices through a test crop with its labels over the raw."""
    input:
        get_segmentations_of_crop,
    output:
        preview=PATHS.figure("crops/{dataset}/crop{crop}_preview.jpg"),
        figure=report(
            PATHS.figure("crops/{dataset}/crop{crop}.jpg"),
            caption="../workflow/report/crop.rst",
            category="5 Test crops",
            # With two labels, the report's page of two crops of two datasets is empty.
            labels={"crop": "{crop} of {dataset}"},
        ),
    log:
        PATHS.log("plot_crop/{dataset}/crop{crop}"),
    benchmark:
        PATHS.benchmark("plot_crop/{dataset}/crop{crop}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(8000),
        runtime=per_attempt(60),
    params:
        cfg=lambda wildcards: FIGURE_VERSION
        | {
            "data_root": PLAN.config.data_root,
            "ground_truth": PLAN.config.ground_truth,
            "rows": [row_settings(row) for row in get_rows_of_crop(wildcards)],
        },
    script:
        "../workflow/scripts/plot_crop.py"


rule plot_scores:
    """Draw the official scores of the submission, per class and per crop."""
    input:
        PATHS.scores_table,
    output:
        report(
            PATHS.figure("scores.png"),
            caption="../workflow/report/scores.rst",
            category="6 Scores",
            labels={"figure": "classes and crops"},
        ),
    log:
        PATHS.log("plot_scores"),
    benchmark:
        PATHS.benchmark("plot_scores")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION | {"rules": SCORING_RULES.name},
        explanation=SCORING_RULES.explanation,
    script:
        "../workflow/scripts/plot_scores.py"


rule plot_cases:
    """Draw the best and the worst labels of test crops: raw, ground truth and prediction."""
    input:
        scores=PATHS.scores_table,
        segmentations=get_segmentations(),
    output:
        report(
            PATHS.figure("cases.jpg"),
            caption="../workflow/report/cases.rst",
            category="6 Scores",
            labels={"figure": "best and worst"},
        ),
    log:
        PATHS.log("plot_cases"),
    benchmark:
        PATHS.benchmark("plot_cases")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(8000),
        runtime=per_attempt(60),
    params:
        cfg=FIGURE_VERSION
        | {
            "data_root": PLAN.config.data_root,
            "ground_truth": PLAN.config.ground_truth,
            "rows": [row_settings(row) for row in ROWS_TO_SEGMENT],
        },
        segmentations=lambda wildcards: str(PATHS.segmentations),
    script:
        "../workflow/scripts/plot_cases.py"


rule plot_leaderboard:
    """Draw the scores of all trainings side by side."""
    input:
        PATHS.leaderboard,
    output:
        report(
            PATHS.figure("leaderboard.png"),
            caption="../workflow/report/leaderboard.rst",
            category="6 Scores",
            labels={"figure": "leaderboard"},
        ),
    log:
        PATHS.log("plot_leaderboard"),
    benchmark:
        PATHS.benchmark("plot_leaderboard")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION | {"rules": SCORING_RULES.name},
    script:
        "../workflow/scripts/plot_leaderboard.py"


rule plot_resources:
    """Draw the time, memory and GPU that the jobs of each rule took."""
    input:
        SUBMISSION,
    output:
        report(
            PATHS.figure("resources.png"),
            caption="../workflow/report/resources.rst",
            category="7 Resources",
            labels={"figure": "time, memory, GPU"},
        ),
    log:
        PATHS.log("plot_resources"),
    benchmark:
        PATHS.benchmark("plot_resources")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION,
        benchmarks=str(PATHS.benchmarks),
        logs=str(PATHS.logs),
    script:
        "../workflow/scripts/plot_resources.py"
