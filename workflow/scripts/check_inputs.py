"""Look at the data before anything expensive.

In: the data folder, the trainings' settings and the manifest's rows (all by params).
Out: check_inputs.json, the crops and labels that each training finds, and empty files that say what
was looked at.
"""

from pathlib import Path

from cellmap_pipeline.jobs import job, write_json

with job(snakemake.log[0], snakemake.output):
    from cellmap_pipeline.check_inputs import check_inputs
    from cellmap_pipeline.datasplit import SplitSettings
    from cellmap_pipeline.plan import DATASPLIT_KEYS, crop_label

    cfg = snakemake.params.cfg
    trainings = {
        name: (
            SplitSettings(**{key: settings[key] for key in DATASPLIT_KEYS}),
            Path(settings["datasplit"]) if settings["datasplit"] else None,
        )
        for name, settings in cfg["trainings"].items()
    }
    predicted = {name: [crop_label(row) for row in rows] for name, rows in cfg["predicted"].items()}
    truth = Path(cfg["ground_truth"]) if cfg["ground_truth"] else None
    checkpoints = {name: (Path(path), keys) for name, (path, keys) in cfg["checkpoints"].items()}
    found = check_inputs(
        Path(cfg["data_root"]), trainings, predicted, truth, checkpoints, cfg["elsewhere"]
    )
    write_json(found, snakemake.params.found)
