rule datasplit:
    """Which crops train and which validate."""
    input:
        checked=lambda wildcards: checked(wildcards.training),
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
        cfg=split_params,
    script:
        "../workflow/scripts/datasplit.py"
