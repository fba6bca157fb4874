FETCHED = [OUTPUT / f"fetched/crop{crop}.json" for crop in PLAN.fetched]
ALL_FETCHED = [OUTPUT / "checked/fetched"] if FETCHED else []


rule fetch_crop:
    """Bring a crop's labels and the raw around it, where `fetch` says from where."""
    output:
        OUTPUT / "fetched/crop{crop}.json",
    log:
        OUTPUT / "logs/fetch/crop{crop}.log",
    benchmark:
        OUTPUT / "benchmarks/fetch/crop{crop}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(720),
    params:
        cfg=lambda wildcards: version("fetch")
        | {
            "request": PLAN.fetched[int(wildcards.crop)],
            "data_root": PLAN.config.data_root,
            "padding": PLAN.config.fetch.padding,
        },
    script:
        "../workflow/scripts/fetch.py"


# A checkpoint: what runs is decided again after it. Of jobs that wait for a job of the run through
# `ancient` alone, Snakemake does not see that their own settings changed, too.
checkpoint fetch:
    """Bring all that the run needs, and stop."""
    input:
        FETCHED,
    output:
        touch(OUTPUT / "checked/fetched"),
    localrule: True
    threads: 1
    resources:
        mem_mb=100,
        runtime=1,
