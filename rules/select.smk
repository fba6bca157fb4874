VALIDATION_SCORES = {source: PATHS.validation_scores(source) for source in PLAN.validated_sources()}
# By source, also those that take their settings from another one.
SCORES = VALIDATION_SCORES | {
    name: PATHS.validation_scores(PLAN.settings_origin(name))
    for name in ACTIVE
    if PLAN.is_validated(name)
}


rule select:
    """Choose which source provides which label, by validation score."""
    input:
        scores=list(SCORES.values()),
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
            "names": list(SCORES),
            "lineage": list(map(get_lineage, ACTIVE)),
            "rows": [
                row_settings(row) | {"sources": PLAN.sources(row)} for row in PLAN.covered_rows()
            ],
        },
    script:
        "../workflow/scripts/select.py"
