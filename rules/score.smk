from cellmap_pipeline.plan.paths import SUBMISSION


rule score:
    """Compute the official scores of the submission where the ground truth is known."""
    input:
        SUBMISSION,
    output:
        json=PATHS.scores,
        csv=PATHS.scores_table,
    log:
        PATHS.log("score"),
    benchmark:
        PATHS.benchmark("score")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 8
    resources:
        mem_mb=per_attempt(16000),
        runtime=per_attempt(240),
    params:
        cfg=result_version("score")
        | {
            "ground_truth": PLAN.config.ground_truth,
            "rows": get_submission_rows(),
            "rules": PLAN.config.scoring.rules,
        },
    script:
        "../workflow/scripts/score.py"


rule leaderboard:
    """List the scores of all trainings in the output folder, and of the submission."""
    input:
        list(VALIDATION_SCORES.values()),
        [PATHS.scores] if PLAN.config.ground_truth else [],
    output:
        PATHS.leaderboard,
    log:
        PATHS.log("leaderboard"),
    benchmark:
        PATHS.benchmark("leaderboard")
    localrule: True
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=result_version("score") | {"rules": PLAN.config.scoring.rules},
        folder=lambda wildcards: str(PATHS.output),
    script:
        "../workflow/scripts/leaderboard.py"
