FETCHED = [PATHS.fetched(crop) for crop in PLAN.fetched]
# Crops that are only predicted change no split.
FETCHED_TO_TRAIN = sorted(crop for crop, request in PLAN.fetched.items() if request.train)
ALL_FETCHED = [PATHS.all_fetched] if FETCHED else []


rule fetch_crop:
    """Fetch the labels of a crop and the raw around it from where `fetch` says."""
    output:
        PATHS.fetched(),
    log:
        PATHS.log("fetch/crop{crop}"),
    benchmark:
        PATHS.benchmark("fetch/crop{crop}")
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 1
    resources:
        mem_mb=per_attempt(2000),
        runtime=per_attempt(720),
    params:
        cfg=lambda wildcards: result_version("fetch")
        | {
            "request": PLAN.fetched[int(wildcards.crop)].to_dict(),
            "data_root": PLAN.config.data_root,
        },
    script:
        "../workflow/scripts/fetch.py"


# This is a checkpoint, so that Snakemake evaluates the DAG again after it: it does not notice changed
# settings of jobs that wait for another job of the run through `ancient` alone.
checkpoint fetch:
    """Fetch all data that the run needs, and stop."""
    input:
        FETCHED,
    output:
        touch(PATHS.all_fetched),
    localrule: True
    threads: 1
    resources:
        mem_mb=100,
        runtime=1,
