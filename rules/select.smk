VALIDATION_SCORES = {source: PATHS.validation_scores(source) for source in PLAN.validated_sources()}


rule select:
    """Choose which source provides which label, by validation score."""
    input:
        scores=list(VALIDATION_SCORES.values()),
    output:
        PATHS.selection,
    log:
        PATHS.log("select"),
    benchmark:
        PATHS.benchmark("select")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=result_version("select")
        | {
            "select": PLAN.config.submission.select,
            "rules": PLAN.config.scoring.rules,
            "names": list(VALIDATION_SCORES),
            "lineage": [stages.training_lineage(PLAN.trainings[name]) for name in ACTIVE],
            "rows": [
                row_settings(row) | {"sources": PLAN.sources(row)} for row in PLAN.covered_rows()
            ],
        },
    script:
        "../workflow/scripts/select.py"
