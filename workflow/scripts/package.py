"""Create submission.zip, and check it against the manifest.

Input: the segmentations, the manifest's rows, and which of them are segmented (params).
Output: submission.zip, and submission_check.json, the problems that were found.
"""

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import logging
    from dataclasses import asdict

    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.errors import InputError
    from cellmap_pipeline.submission.check import check
    from cellmap_pipeline.submission.package import package

    rows = snakemake.params.cfg["rows"]
    segmented = [crop_label(row) for row in rows if row["made"]]
    package(snakemake.params.segmentations, segmented, snakemake.output.zip)
    manifest = [crop_label(row) for row in rows]
    rules = snakemake.params.cfg["rules"]
    problems = check(
        snakemake.output.zip,
        manifest,
        workers=snakemake.threads,
        rules=rules,
        memory_gb=snakemake.resources.mem_mb / 1024,
    )
    for problem in problems:
        logging.warning("%s", problem)
    if any(problem.severity == "rejected" for problem in problems):
        raise InputError("the submission would be rejected: see the messages above")
    write_json(snakemake.output.check, [asdict(problem) for problem in problems])
