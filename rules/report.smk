"""The rule graph, and Snakemake's report of all figures."""

import shutil

from cellmap_pipeline.plan.paths import SUBMISSION

SCORED = PLAN.config.ground_truth is not None
# Without validation and ground truth there is nothing to compare.
COMPARED = SCORED or bool(VALIDATION_SCORES)
DOT = shutil.which("dot") is not None
SEGMENTED_CROPS = list(dict.fromkeys((row.dataset, row.crop) for row in ROWS_TO_SEGMENT))
# With the job's own `config`, what a second Snakemake needs to see the same workflow.
SAME_WORKFLOW = untracked(
    lambda wildcards: {
        "snakefile": str(workflow.main_snakefile),
        "configfiles": [str(path) for path in workflow.overwrite_configfiles],
    }
)


OPENING = PATHS.figure("opening.rst")
CROP_FIGURES = [
    PATHS.figure(f"crops/{dataset}/crop{crop}.jpg") for dataset, crop in SEGMENTED_CROPS
]


DESCRIPTION = str(workflow.source_path("../workflow/report/workflow.rst"))


def get_opening_rows():
    """All rows of the manifest: how a submitted label is made, and whether a source provides it."""
    return [
        row_settings(row)
        | {
            "made": LABEL_LINEAGE.get(row),
            "provided": row in LABEL_LINEAGE and bool(PLAN.sources(row)),
        }
        for row in PLAN.manifest_rows
    ]


# A report of an unfinished run opens with the description alone.
report: OPENING.resolve() if OPENING.is_file() else "../workflow/report/workflow.rst"


rule dag:
    """Draw the rule graph: as mermaid, and as SVG where graphviz is installed."""
    output:
        **({"svg": PATHS.output / "dag.svg"} if DOT else {}),
        mmd=PATHS.output / "dag.mmd",
    log:
        PATHS.log("dag"),
    benchmark:
        PATHS.benchmark("dag")
    # A cluster's nodes may lack graphviz where this machine has it.
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        # Everything that the graph depends on.
        cfg=FIGURE_VERSION | {"train": bool(TRAINED), "score": SCORED, "compare": COMPARED},
        again=SAME_WORKFLOW,
    script:
        "../workflow/scripts/rulegraph.py"


rule plot_opening:
    """Write the report's opening page: the submission, its scores, what is missing, the time."""
    input:
        zip=SUBMISSION,
        check=PATHS.submission_check,
        selection=PATHS.selection,
        scores=[PATHS.scores] if SCORED else [],
        previews=[str(path.with_suffix("")) + "_preview.jpg" for path in CROP_FIGURES],
    output:
        OPENING,
    log:
        PATHS.log("plot_opening"),
    benchmark:
        PATHS.benchmark("plot_opening")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=FIGURE_VERSION | {"rows": get_opening_rows(), "rules": SCORING_RULES.name},
        figures=list(map(str, CROP_FIGURES)),
        # Where the workflow lies changes nothing.
        description=untracked(lambda wildcards: DESCRIPTION),
        benchmarks=str(PATHS.benchmarks),
        logs=str(PATHS.logs),
    script:
        "../workflow/scripts/plot_opening.py"


rule report:
    """Write report.html: all figures, and how they were made."""
    input:
        OPENING,
        PATHS.figure("run.html"),
        PATHS.figure("data.jpg"),
        expand(PATHS.figure("datasplit/{network}.png"), network=SPLIT),
        [PATHS.figure("trainings.png")] if TRAINED else [],
        expand(PATHS.figure("training/{network}.png"), network=TRAINED),
        expand(PATHS.figure("validation/{source}.png"), source=PLAN.validated_sources()),
        PATHS.figure("selection.png"),
        CROP_FIGURES,
        [PATHS.figure("scores.png"), PATHS.figure("cases.jpg")] if SCORED else [],
        [PATHS.figure("leaderboard.png")] if COMPARED else [],
        PATHS.figure("resources.png"),
        SUBMISSION,
    output:
        PATHS.output / "report.html",
    log:
        PATHS.log("report"),
    benchmark:
        PATHS.benchmark("report")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(4000),
        runtime=per_attempt(30),
    params:
        cfg=FIGURE_VERSION,
        again=SAME_WORKFLOW,
    script:
        "../workflow/scripts/report.py"


# Results that users look for are linked into the working directory.
LINKED = (
    ["report.html", "selection.csv"]
    + (["leaderboard.csv"] if COMPARED else [])
    + ["dag.mmd"]
    + (["dag.svg"] if DOT else [])
    + (["scores.json", "scores.csv"] if SCORED else [])
)

if PATHS.output.resolve() == Path.cwd():
    # They exist already.
    LINKED = [PATHS.output / name for name in LINKED]
else:

    rule at_hand:
        """Link a result into the working directory."""
        input:
            PATHS.output / "{name}",
        output:
            "{name}",
        log:
            PATHS.log("at_hand/{name}"),
        wildcard_constraints:
            name="|".join(name.replace(".", "[.]") for name in LINKED),
        localrule: True
        conda:
            "../envs/cellmap-pipeline.yaml"
        threads: 1
        resources:
            mem_mb=100,
            runtime=1,
        shell:
            "ln -s -- {input:q} {output:q} 2> {log:q}"
