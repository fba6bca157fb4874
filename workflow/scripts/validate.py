"""Tune and score the post-processing of a training or of external predictions.

Input: data splits, and predictions of their validation crops.
Output: scores.json, and postprocess.json with the tuned settings. Until they are complete,
`tuning.partial` keeps the results so far, from which an interrupted job resumes.
"""

import shutil
from itertools import islice
from pathlib import Path

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.plan.validation import ValidationTask
    from cellmap_pipeline.run.resume import prepare_state
    from cellmap_pipeline.scoring.rules.registry import rules_named
    from cellmap_pipeline.validation.validate import validate

    cfg = snakemake.params.cfg
    tasks = {
        label: [ValidationTask.from_dict(task) for task in label_tasks]
        for label, label_tasks in cfg["labels"].items()
    }
    paths = map(Path, snakemake.input.splits)
    state = Path(snakemake.output.scores).with_name("tuning.partial")
    depends_on = {"datasplits": [Path(path).read_text() for path in snakemake.input.splits]}
    prepare_state(state, cfg | depends_on, keep=False)
    scores, settings = validate(
        tasks,
        {
            name: list(islice(paths, networks))
            for name, networks in zip(cfg["trainings"], cfg["networks"], strict=True)
        },
        cfg["voxel_size"],
        cfg["everywhere"],
        rules_named(cfg["rules"]),
        workers=snakemake.threads,
        state=state,
    )
    write_json(snakemake.output.settings, settings)
    write_json(snakemake.output.scores, scores)
    shutil.rmtree(state)
