rule datasplit:
    """Which crops train and which validate."""
    input:
        checked=ancient(OUTPUT / "check_inputs.json"),
        own=own_datasplit,
    output:
        split=OUTPUT / "{training}/datasplit.csv",
        summary=OUTPUT / "{training}/datasplit_summary.csv",
    log:
        OUTPUT / "logs/datasplit/{training}.log",
    benchmark:
        OUTPUT / "benchmarks/datasplit/{training}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        cfg=lambda wildcards: training_params("datasplit", planning.DATASPLIT_KEYS)(wildcards)
        | {"data_root": PLAN.config.data_root}
        # More crops in the data folder are another split.
        | ({"fetched": sorted(PLAN.fetched)} if PLAN.config.fetch else {}),
    script:
        "../workflow/scripts/datasplit.py"
