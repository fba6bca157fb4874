"""Figures of what each stage made, for the report."""

FIGURES = OUTPUT / "figures"
DRAWN = version("figures")
# Trainings whose checkpoint is made in this run, and so has curves.
TRAINED = [name for name in USED if PLAN.trainings[name].inference.checkpoint in ("best", "last")]


rule plot_run:
    """Write a page about the run: its configuration, its trainings, and with what it is made."""
    output:
        report(
            FIGURES / "run.html",
            caption="../workflow/report/run.rst",
            category="0 The run",
            labels={"page": "configuration"},
        ),
    log:
        OUTPUT / "logs/plot_run.log",
    benchmark:
        OUTPUT / "benchmarks/plot_run.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN
        | {
            "config": PLAN.config.model_dump(mode="json"),
            # Without what changes no result.
            "trainings": {
                name: PLAN.trainings[name].model_dump(
                    mode="json", exclude={*stages.TRAIN_OPTIONS, "resources"}
                )
                for name in USED
            },
        },
        trainings=untracked(
            lambda wildcards: {name: PLAN.trainings[name].model_dump(mode="json") for name in USED}
        ),
        root=str(ROOT),
    script:
        "../workflow/scripts/plot_run.py"


rule plot_data:
    """Draw a slice of each labelled crop with its labels."""
    input:
        [OUTPUT / name / "datasplit.csv" for name in SPLIT],
    output:
        report(
            FIGURES / "data.jpg",
            caption="../workflow/report/data.rst",
            category="1 Training data",
            labels={"figure": "crops and their labels"},
        ),
    log:
        OUTPUT / "logs/plot_data.log",
    benchmark:
        OUTPUT / "benchmarks/plot_data.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        cfg=DRAWN
        | {
            "voxel_size": [
                min(PLAN.trainings[name].voxel_size[axis] for name in SPLIT) for axis in range(3)
            ]
        },
    script:
        "../workflow/scripts/plot_data.py"


rule plot_datasplit:
    """Draw how many crops, and how much labelled volume, each class trains and validates on."""
    input:
        OUTPUT / "{training}/datasplit_summary.csv",
    output:
        report(
            FIGURES / "datasplit/{training}.png",
            caption="../workflow/report/datasplit.rst",
            category="1 Training data",
            labels={"figure": "{training}"},
        ),
    log:
        OUTPUT / "logs/plot_datasplit/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/plot_datasplit/{training}.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN,
    script:
        "../workflow/scripts/plot_datasplit.py"


rule plot_training:
    """Draw the curves of a training: losses, Dice, learning rate."""
    input:
        OUTPUT / "{training}/model.ckpt",
    output:
        report(
            FIGURES / "training/{training}.png",
            caption="../workflow/report/training.rst",
            category="2 Training",
            labels={"figure": "{training}"},
        ),
    log:
        OUTPUT / "logs/plot_training/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/plot_training/{training}.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN,
        metrics=str(OUTPUT / "{training}/training/metrics.csv"),
    script:
        "../workflow/scripts/plot_training.py"


rule plot_trainings:
    """Draw the curves of all trainings in one figure."""
    input:
        [OUTPUT / name / "model.ckpt" for name in TRAINED],
    output:
        report(
            FIGURES / "trainings.png",
            caption="../workflow/report/trainings.rst",
            category="2 Training",
            labels={"figure": "all"},
        ),
    log:
        OUTPUT / "logs/plot_trainings.log",
    benchmark:
        OUTPUT / "benchmarks/plot_trainings.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN,
        metrics={name: str(OUTPUT / name / "training/metrics.csv") for name in TRAINED},
    script:
        "../workflow/scripts/plot_trainings.py"


rule plot_validation:
    """Draw the scores of a training on its validation crops, over the threshold and at its best."""
    input:
        scores=OUTPUT / "{source}/validation/scores.json",
        settings=OUTPUT / "{source}/validation/postprocess.json",
    output:
        report(
            FIGURES / "validation/{source}.png",
            caption="../workflow/report/validation.rst",
            category="3 Validation",
            labels={"source": "{source}"},
        ),
    log:
        OUTPUT / "logs/plot_validation/{source}.log",
    benchmark:
        OUTPUT / "benchmarks/plot_validation/{source}.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN,
    script:
        "../workflow/scripts/plot_validation.py"


rule plot_selection:
    """Draw which training was chosen for which label."""
    input:
        OUTPUT / "selection.csv",
    output:
        report(
            FIGURES / "selection.png",
            caption="../workflow/report/selection.rst",
            category="4 Selection",
            labels={"figure": "trainings and labels"},
        ),
    log:
        OUTPUT / "logs/plot_selection.log",
    benchmark:
        OUTPUT / "benchmarks/plot_selection.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN,
    script:
        "../workflow/scripts/plot_selection.py"


rule plot_crop:
    """Draw slices through a test crop with its labels over the raw."""
    input:
        lambda wildcards: [
            segmentation_of(row) for row in PLAN.segmented() if row.crop == int(wildcards.crop)
        ],
    output:
        report(
            FIGURES / "crops/{dataset}/crop{crop}.jpg",
            caption="../workflow/report/crop.rst",
            category="5 Test crops",
            # One label: with two crops, of two datasets, the page of two labels is empty.
            labels={"crop": "{crop} of {dataset}"},
        ),
    log:
        OUTPUT / "logs/plot_crop/{dataset}/crop{crop}.log",
    benchmark:
        OUTPUT / "benchmarks/plot_crop/{dataset}/crop{crop}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        cfg=lambda wildcards: DRAWN
        | {
            "data_root": PLAN.config.data_root,
            "ground_truth": PLAN.config.ground_truth,
            "rows": [
                row_settings(row) for row in PLAN.segmented() if row.crop == int(wildcards.crop)
            ],
        },
    script:
        "../workflow/scripts/plot_crop.py"


rule plot_scores:
    """Draw the official scores of the submission, per class and per crop."""
    input:
        OUTPUT / "scores.csv",
    output:
        report(
            FIGURES / "scores.png",
            caption="../workflow/report/scores.rst",
            category="6 Scores",
            labels={"figure": "classes and crops"},
        ),
    log:
        OUTPUT / "logs/plot_scores.log",
    benchmark:
        OUTPUT / "benchmarks/plot_scores.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN,
    script:
        "../workflow/scripts/plot_scores.py"


rule plot_cases:
    """Draw the labels of test crops that came out best and worst: raw, truth and prediction."""
    input:
        scores=OUTPUT / "scores.csv",
        segmentations=[segmentation_of(row) for row in PLAN.segmented()],
    output:
        report(
            FIGURES / "cases.jpg",
            caption="../workflow/report/cases.rst",
            category="6 Scores",
            labels={"figure": "best and worst"},
        ),
    log:
        OUTPUT / "logs/plot_cases.log",
    benchmark:
        OUTPUT / "benchmarks/plot_cases.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        cfg=DRAWN
        | {
            "data_root": PLAN.config.data_root,
            "ground_truth": PLAN.config.ground_truth,
            "rows": [row_settings(row) for row in PLAN.segmented()],
        },
        segmentations=lambda wildcards: str(OUTPUT / "segmentations"),
    script:
        "../workflow/scripts/plot_cases.py"


rule plot_leaderboard:
    """Draw the scores of all trainings side by side."""
    input:
        OUTPUT / "leaderboard.csv",
    output:
        report(
            FIGURES / "leaderboard.png",
            caption="../workflow/report/leaderboard.rst",
            category="6 Scores",
            labels={"figure": "leaderboard"},
        ),
    log:
        OUTPUT / "logs/plot_leaderboard.log",
    benchmark:
        OUTPUT / "benchmarks/plot_leaderboard.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN,
    script:
        "../workflow/scripts/plot_leaderboard.py"


rule plot_resources:
    """Draw the time, memory and GPU that the jobs of each rule took."""
    input:
        "submission.zip",
    output:
        report(
            FIGURES / "resources.png",
            caption="../workflow/report/resources.rst",
            category="7 Resources",
            labels={"figure": "time, memory, GPU"},
        ),
    log:
        OUTPUT / "logs/plot_resources.log",
    benchmark:
        OUTPUT / "benchmarks/plot_resources.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=DRAWN,
        benchmarks=str(OUTPUT / "benchmarks"),
        logs=str(LOGS),
    script:
        "../workflow/scripts/plot_resources.py"
