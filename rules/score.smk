rule score:
    """The official scores of the submission, where the test crops' truth is there."""
    input:
        "submission.zip",
    output:
        json=OUTPUT / "scores.json",
        csv=OUTPUT / "scores.csv",
    log:
        OUTPUT / "logs/score.log",
    benchmark:
        OUTPUT / "benchmarks/score.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 8
    resources:
        mem_mb=growing(16000),
        runtime=growing(240),
    params:
        cfg=version("score")
        | {
            "ground_truth": PLAN.config.ground_truth,
            "rows": [
                planning.row_settings(row) | {"made": LINEAGE.get(row)} for row in PLAN.crop_labels
            ],
        },
    script:
        "../workflow/scripts/score.py"
