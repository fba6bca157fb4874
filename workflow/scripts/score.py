"""Score the submission like the official evaluator.

Input: submission.zip, and the ground truth (params). Output: scores.json, scores.csv.
"""

from pathlib import Path

from cellmap_pipeline.io.files import atomic_write, write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import logging

    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.scoring.rules.registry import rules_named
    from cellmap_pipeline.scoring.submission import score_submission
    from cellmap_pipeline.scoring.summary import write_csv

    cfg = snakemake.params.cfg
    scores = score_submission(
        Path(snakemake.input[0]),
        Path(cfg["ground_truth"]),
        [crop_label(row) for row in cfg["rows"]],
        workers=snakemake.threads,
        memory_gb=snakemake.resources.mem_mb / 1024,
        without_collisions=True,
        rules=cfg["rules"],
    )
    write_json(snakemake.output.json, scores)
    if note := rules_named(cfg["rules"]).note:
        logging.warning("rules of %s: %s", cfg["rules"], note)
    with atomic_write(snakemake.output.csv) as tmp:
        write_csv(scores, tmp)
