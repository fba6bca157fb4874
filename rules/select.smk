SCORES, TUNED = validation_files("scores.json"), validation_files("postprocess.json")


rule select:
    """Which source gives which label, by validation score."""
    input:
        scores=list(SCORES.values()),
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
            "names": list(SCORES),
            "lineage": [stages.training_lineage(PLAN.trainings[name]) for name in USED],
            "rows": [row_settings(row) | {"sources": PLAN.sources(row)} for row in PLAN.given()],
        },
    script:
        "../workflow/scripts/select.py"
