"""The rule graph, and Snakemake's report of all figures."""

import shutil

SCORED = PLAN.config.ground_truth is not None
DOT = shutil.which("dot") is not None
DRAWN_CROPS = list(dict.fromkeys((row.dataset, row.crop) for row in PLAN.segmented()))
# What a second Snakemake needs to see the same workflow (beside the job's own `config`).
AGAIN = untracked(
    lambda wildcards: {
        "snakefile": str(workflow.main_snakefile),
        "configfiles": [str(path) for path in workflow.overwrite_configfiles],
    }
)


report: "../workflow/report/workflow.rst"


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
        FIGURES / "run.html",
        FIGURES / "data.jpg",
        expand(FIGURES / "datasplit/{training}.png", training=USED),
        [FIGURES / "trainings.png"] if TRAINED else [],
        expand(FIGURES / "training/{training}.png", training=TRAINED),
        expand(FIGURES / "validation/{source}.png", source=PLAN.validated()),
        FIGURES / "selection.png",
        [FIGURES / f"crops/{dataset}/crop{crop}.jpg" for dataset, crop in DRAWN_CROPS],
        [FIGURES / "scores.png", FIGURES / "cases.jpg"] if SCORED else [],
        FIGURES / "leaderboard.png",
        FIGURES / "resources.png",
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
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        cfg=DRAWN,
        again=AGAIN,
    script:
        "../workflow/scripts/report.py"


# What a user looks for has its short name in the working directory.
AT_HAND = (
    ["report.html", "selection.csv", "leaderboard.csv", "dag.mmd"]
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
