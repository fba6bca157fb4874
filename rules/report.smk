"""Figures, the rule graph, and Snakemake's report of them all."""

import shutil

FIGURES = OUTPUT / "figures"
# Raised when the same results are drawn in another way.
DRAWN = {"result_version": 1}
SCORED = PLAN.config.ground_truth is not None
DOT = shutil.which("dot") is not None
# Trainings whose checkpoint is made in this run, and so has curves.
TRAINED = [name for name in USED if PLAN.trainings[name].inference.checkpoint in ("best", "last")]
DRAWN_CROPS = list(dict.fromkeys((row.dataset, row.crop) for row in PLAN.segmented()))
# What a second Snakemake needs to see the same workflow (beside the job's own `config`).
AGAIN = untracked(
    lambda wildcards: {
        "snakefile": str(workflow.main_snakefile),
        "configfiles": [str(path) for path in workflow.overwrite_configfiles],
    }
)


report: "../workflow/report/workflow.rst"


rule plot_datasplit:
    """Draw how many crops, and how much labelled volume, each class trains and validates on."""
    input:
        OUTPUT / "{training}/datasplit_summary.csv",
    output:
        report(
            FIGURES / "datasplit/{training}.png",
            caption="../workflow/report/datasplit.rst",
            category="1 Training data",
            labels={"training": "{training}"},
        ),
    log:
        OUTPUT / "logs/plot_datasplit/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/plot_datasplit/{training}.tsv"
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
            labels={"training": "{training}"},
        ),
    log:
        OUTPUT / "logs/plot_training/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/plot_training/{training}.tsv"
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


rule plot_validation:
    """Draw the scores of a training on its validation crops, over the threshold and at its best."""
    input:
        OUTPUT / "{training}/validation/scores.json",
    output:
        report(
            FIGURES / "validation/{training}.png",
            caption="../workflow/report/validation.rst",
            category="3 Validation",
            labels={"training": "{training}"},
        ),
    log:
        OUTPUT / "logs/plot_validation/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/plot_validation/{training}.tsv"
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
            FIGURES / "crops/{dataset}/crop{crop}.png",
            caption="../workflow/report/crop.rst",
            category="5 Test crops",
            labels={"dataset": "{dataset}", "crop": "{crop}"},
        ),
    log:
        OUTPUT / "logs/plot_crop/{dataset}/crop{crop}.log",
    benchmark:
        OUTPUT / "benchmarks/plot_crop/{dataset}/crop{crop}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        cfg=lambda wildcards: DRAWN
        | {
            "data_root": PLAN.config.data_root,
            "ground_truth": PLAN.config.ground_truth,
            "rows": [
                planning.row_settings(row)
                for row in PLAN.segmented()
                if row.crop == int(wildcards.crop)
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


rule dag:
    """Draw the rule graph: mermaid, and SVG where graphviz is there."""
    output:
        **({"svg": OUTPUT / "dag.svg"} if DOT else {}),
        mmd=OUTPUT / "dag.mmd",
    log:
        OUTPUT / "logs/dag.log",
    benchmark:
        OUTPUT / "benchmarks/dag.tsv"
    # Another machine may have no graphviz where this one has it.
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        # All that the graph depends on.
        cfg=DRAWN | {"train": bool(TRAINED), "score": SCORED},
        again=AGAIN,
    script:
        "../workflow/scripts/rulegraph.py"


rule report:
    """Write report.html: all figures, with how they were made."""
    input:
        expand(FIGURES / "datasplit/{training}.png", training=USED),
        expand(FIGURES / "training/{training}.png", training=TRAINED),
        expand(FIGURES / "validation/{training}.png", training=USED),
        FIGURES / "selection.png",
        [FIGURES / f"crops/{dataset}/crop{crop}.png" for dataset, crop in DRAWN_CROPS],
        [FIGURES / "scores.png"] if SCORED else [],
        "submission.zip",
    output:
        OUTPUT / "report.html",
    log:
        OUTPUT / "logs/report.log",
    benchmark:
        OUTPUT / "benchmarks/report.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        cfg=DRAWN,
        again=AGAIN,
    script:
        "../workflow/scripts/report.py"


# What a user looks for has its short name in the working directory.
AT_HAND = (
    ["report.html", "selection.csv", "dag.mmd"]
    + (["dag.svg"] if DOT else [])
    + (["scores.json", "scores.csv"] if SCORED else [])
)

if OUTPUT.resolve() == Path.cwd():
    # It has it already.
    AT_HAND = [OUTPUT / name for name in AT_HAND]
else:

    rule at_hand:
        """Link a result into the working directory."""
        input:
            OUTPUT / "{name}",
        output:
            "{name}",
        log:
            OUTPUT / "logs/at_hand/{name}.log",
        wildcard_constraints:
            name="|".join(name.replace(".", "[.]") for name in AT_HAND),
        localrule: True
        threads: 1
        resources:
            mem_mb=100,
            runtime=1,
        shell:
            "ln -s -- {input:q} {output:q} 2> {log:q}"
