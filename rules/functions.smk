"""What the inputs, params and resources of rules are made by, stage by stage."""

from cellmap_pipeline.plan import validation as plan_validation
from cellmap_pipeline.run.resume import fingerprint_of

# check_inputs


def mark_of(name):
    """The empty file that `name` waits for, named after the settings that both depend on."""
    settings = {"data_root": PLAN.config.data_root, "settings": CHECKED[name]}
    return OUTPUT / "checked" / f"{name}.{fingerprint_of(settings)}"


def checked(name):
    """To wait for the check, and for what is fetched, and not to run again for them."""
    return ancient([mark_of(name)] if name in CHECKED else []) + ancient(ALL_FETCHED)


# datasplit


def split_params(wildcards):
    """What a datasplit depends on."""
    own = training_params("datasplit", stages.DATASPLIT_KEYS)(wildcards)
    own["data_root"] = PLAN.config.data_root
    # More crops in the data folder are another split.
    return own | ({"fetched": sorted(PLAN.fetched)} if PLAN.config.fetch else {})


def own_datasplit(wildcards):
    """The CSV that the training's file names, if it names one."""
    return PLAN.trainings[wildcards.training].datasplit or []


# train


def initial_weights(wildcards):
    """The file to begin with, which may be another training's model.ckpt."""
    return PLAN.trainings[wildcards.training].initial_weights or []


# validate


def inference_params(stage):
    """A params function: what the result of a prediction depends on besides the checkpoint."""

    def params(wildcards):
        training = PLAN.trainings[wildcards.training]
        lineage = {"lineage": stages.training_lineage(training)}
        return version(stage) | lineage | stages.inference_settings(training)

    return params


def checkpoint_of(wildcards):
    """The checkpoint to predict with: the training's, or the file that its configuration names."""
    choice = PLAN.trainings[wildcards.training].inference.checkpoint
    if choice in ("best", "last"):
        return OUTPUT / wildcards.training / "model.ckpt"
    return choice


def validation_trainings(wildcards):
    """The trainings on whose validation crops a source is scored."""
    return plan_validation.validation_trainings(PLAN, wildcards.source)


def validate_params(wildcards):
    """What the scores of a source depend on."""
    trainings = {name: PLAN.trainings[name] for name in validation_trainings(wildcards)}
    own = trainings.get(wildcards.source)
    return version("validate") | {
        "lineage": [stages.training_lineage(training) for training in trainings.values()],
        "inference": [stages.inference_settings(training) for training in trainings.values()],
        "labels": plan_validation.validation_settings(PLAN, wildcards.source),
        "trainings": list(trainings),
        "voxel_size": list(own.voxel_size) if own else None,
        "everywhere": wildcards.source == AVERAGE,
    }


def validation_asks(key, grows=True):
    """A resources function: what the scoring of a source asks for; retries for more."""

    def resources(wildcards, attempt):
        if wildcards.source in PLAN.trainings:
            amount = requests.resources(PLAN.trainings[wildcards.source], "validate")[key]
        else:
            amount = requests.RESOURCES["validate"][key]
        return amount * attempt if grows else amount

    return resources


# predict


def predict_params(wildcards):
    """What a crop's prediction depends on, with the rows that this training predicts in it."""
    return inference_params("predict")(wildcards) | {
        "rows": rows_of(wildcards.training, int(wildcards.crop)),
        "data_root": PLAN.config.data_root,
    }


def parts_of(wildcards):
    """The parts that a crop's prediction is put together from; none where one job makes it."""
    jobs = JOBS[wildcards.training, int(wildcards.crop)]
    path = f"{wildcards.training}/predictions/{wildcards.dataset}/crop{wildcards.crop}"
    return [OUTPUT / f"{path}.part{part}of{jobs}" for part in range(1, jobs + 1) if jobs > 1]


def predictions_of(training, crop):
    return OUTPUT / training / "predictions" / DATASET[crop] / f"crop{crop}"


# select


def validation_files(name):
    """By source, the path of a file of its validation."""
    return {source: OUTPUT / source / "validation" / name for source in PLAN.validated()}


# segment


def segment_row(wildcards):
    return ROW[int(wildcards.crop), wildcards.label]


def segment_origins(wildcards):
    """The trainings and the predictions made elsewhere that give a label, and averages of them."""
    row = segment_row(wildcards)
    averaged = choice_for(PLAN, row) == AVERAGE
    names = [origin(source) for source in PLAN.sources(row)]
    return list(dict.fromkeys(names + [AVERAGE] * averaged))


def segment_predictions(wildcards):
    """The predictions of the trainings that give a label."""
    return [
        predictions_of(name, int(wildcards.crop))
        for name in segment_origins(wildcards)
        if name in PLAN.trainings
    ]


def segment_params(wildcards):
    """What a label depends on."""
    row = segment_row(wildcards)
    sources = label_sources(PLAN, row)
    return version("segment") | {
        "lineage": LINEAGE[row],
        "row": row_settings(row),
        "select": choice_for(PLAN, row),
        "origins": segment_origins(wildcards),
        "sources": sources,
        "postprocess": {
            source: PLAN.trainings[origin(source)].postprocess.get(row.label, {})
            for source in sources
            if origin(source) in PLAN.trainings
        },
    }


# package


def segmentation_of(row):
    return OUTPUT / "segmentations" / row.dataset / f"crop{row.crop}" / row.label
