ROW = {(row.crop, row.label): row for row in PLAN.segmented()}


rule segment:
    """Make the final label of a crop from the probabilities of the chosen source."""
    input:
        predictions=segment_predictions,
        scores=lambda wildcards: [SCORES[name] for name in segment_origins(wildcards)],
        settings=lambda wildcards: [TUNED[name] for name in segment_origins(wildcards)],
    output:
        directory(OUTPUT / "segmentations/{dataset}/crop{crop}/{label}"),
    log:
        OUTPUT / "logs/segment/{dataset}/crop{crop}/{label}.log",
    benchmark:
        OUTPUT / "benchmarks/segment/{dataset}/crop{crop}/{label}.tsv"
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: lambda wildcards: segmentation_threads(segment_row(wildcards))
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        # So that a profile can bound how many are made side by side in one job.
        labels=1,
    params:
        cfg=segment_params,
    script:
        "../workflow/scripts/segment.py"
