def validation_scores(trainings):
    """By training, the path of its validation scores."""
    return {name: OUTPUT / name / "validation/scores.json" for name in trainings}


rule select:
    """Which training gives which label, by validation score."""
    input:
        scores=list(validation_scores(USED).values()),
    output:
        OUTPUT / "selection.csv",
    log:
        OUTPUT / "logs/select.log",
    benchmark:
        OUTPUT / "benchmarks/select.tsv"
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=version("select")
        | {
            "select": PLAN.config.submission.select,
            "trainings": USED,
            "lineage": [planning.training_lineage(PLAN.trainings[name]) for name in USED],
            "rows": [
                planning.row_settings(row) | {"sources": PLAN.sources(row)}
                for row in PLAN.segmented()
            ],
        },
    script:
        "../workflow/scripts/select.py"
