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
            "rows": [row_settings(row) | {"made": LINEAGE.get(row)} for row in PLAN.crop_labels],
        },
    script:
        "../workflow/scripts/score.py"


rule leaderboard:
    """The scores of all trainings in the output folder side by side, and of the submission."""
    input:
        [OUTPUT / name / "validation/scores.json" for name in USED],
        [OUTPUT / "scores.json"] if PLAN.config.ground_truth else [],
    output:
        OUTPUT / "leaderboard.csv",
    log:
        OUTPUT / "logs/leaderboard.log",
    benchmark:
        OUTPUT / "benchmarks/leaderboard.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=version("score"),
        folder=lambda wildcards: str(OUTPUT),
    script:
        "../workflow/scripts/leaderboard.py"
