def split_params(wildcards):
    """What a datasplit depends on."""
    own = training_params("datasplit", planning.DATASPLIT_KEYS)(wildcards)
    own["data_root"] = PLAN.config.data_root
    # More crops in the data folder are another split.
    return own | ({"fetched": sorted(PLAN.fetched)} if PLAN.config.fetch else {})


def own_datasplit(wildcards):
    """The CSV that the training's file names, if it names one."""
    return PLAN.trainings[wildcards.training].datasplit or []


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
