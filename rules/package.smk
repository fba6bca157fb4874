from cellmap_pipeline.plan.paths import SUBMISSION


rule package:
    """Write submission.zip and check it against the manifest."""
    input:
        get_segmentations(),
    output:
        zip=SUBMISSION,
        check=PATHS.submission_check,
    log:
        PATHS.log("package"),
    benchmark:
        PATHS.benchmark("package")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 4
    resources:
        mem_mb=per_attempt(8000),
        runtime=per_attempt(120),
    params:
        cfg=result_version("package")
        | {"rows": get_submission_rows(), "rules": PLAN.config.scoring.rules},
        segmentations=lambda wildcards: str(PATHS.segmentations),
    script:
        "../workflow/scripts/package.py"


rule check:
    """Check submission.zip; a submission that would be rejected is not made."""
    input:
        PATHS.submission_check,
