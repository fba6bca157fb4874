rule package:
    """Put submission.zip together and read it back against the manifest."""
    input:
        [segmentation_of(row) for row in PLAN.segmented()],
    output:
        zip="submission.zip",
        check=OUTPUT / "submission_check.json",
    log:
        OUTPUT / "logs/package.log",
    benchmark:
        OUTPUT / "benchmarks/package.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 4
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        cfg=version("package")
        | {"rows": [row_settings(row) | {"made": LINEAGE.get(row)} for row in PLAN.crop_labels]},
        segmentations=lambda wildcards: str(OUTPUT / "segmentations"),
    script:
        "../workflow/scripts/package.py"


rule check:
    """What reading submission.zip back found; a submission that would be rejected is not made."""
    input:
        OUTPUT / "submission_check.json",
