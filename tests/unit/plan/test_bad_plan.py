"""Errors in the choice of crops, sources and folders: each is found before the first job."""

import numpy as np
import pytest
import yaml

from tests.support.spoiled import (
    CONFIG,
    CROP,
    MANIFEST,
    PARSING,
    START,
    Folder,
    Row,
    assert_refused,
    external_predictions,
)


def average_without_boundaries(folder: Folder) -> None:
    """Average with a training without boundaries, by a method that needs them."""
    folder.configure_training(postprocess={"mito": {"method": "watershed_boundary"}})
    plain = yaml.safe_load(folder.training.read_text()) | {
        "targets": {"mito": []},
        "postprocess": {},
    }
    folder.training.with_name("plain.yaml").write_text(yaml.safe_dump(plain))
    folder.configure(trainings=["tiny", "plain"], submission={"select": "average"})


ROWS = {
    "a training named like a result folder": Row(
        PARSING,
        f"{CONFIG}: trainings: logs is the name of a folder of the results: choose another name",
        lambda folder: folder.configure(trainings=["logs"]),
    ),
    "a crop that is not in the manifest": Row(
        PARSING,
        f"{CONFIG}: submission.crops: 7 not in {MANIFEST}: the manifest has 3",
        lambda folder: folder.configure(submission={"crops": [7]}),
    ),
    "a class that is not in the manifest": Row(
        PARSING,
        f"{CONFIG}: submission.classes: golgi not in {MANIFEST}: the manifest has mito, pm",
        lambda folder: folder.configure(submission={"classes": ["golgi"]}),
    ),
    "a missing source": Row(
        PARSING,
        f"{CONFIG}: submission.select.mito: 'other' is not among trainings or predictions (tiny)",
        lambda folder: folder.configure(submission={"select": {"mito": "other"}}),
    ),
    "a voxel size that no crop has": Row(
        PARSING,
        f"{CONFIG}: submission.select.mito: no crop of {MANIFEST} uses the choice for 32 nm: they "
        "ask for mito at 8 8 8 nm: correct or remove it",
        lambda folder: folder.configure(submission={"select": {"mito": {8: "tiny", 32: "tiny"}}}),
    ),
    "a choice for a label that no crop asks for": Row(
        PARSING,
        f"{CONFIG}: submission.select.golgi: no crop of {MANIFEST} asks for 'golgi', only for "
        "mito, pm: correct or remove it",
        lambda folder: [
            folder.configure(submission={"select": {"golgi": "tiny"}}),
            folder.configure_training(classes=["mito", "pm", "golgi"]),
        ],
    ),
    "predictions chosen for a label that they lack": Row(
        PARSING,
        f"{CONFIG}: submission.select.pm: predictions 'nnunet' do not contain it (their classes: "
        "mito)",
        lambda folder: [
            external_predictions(folder, np.full(CROP, 200, np.uint8)),
            folder.configure(submission={"select": {"pm": "nnunet"}}),
        ],
    ),
    "predictions of a label that no crop asks for": Row(
        PARSING,
        f"{CONFIG}: predictions.nnunet.classes: no crop of {MANIFEST} asks for 'mitoo' (did you "
        "mean 'mito'?), only for mito, pm: correct or remove it",
        lambda folder: folder.configure(
            predictions={
                "nnunet": {"path": "other/{dataset}/crop{crop}/{label}", "classes": ["mitoo"]}
            }
        ),
    ),
    "an average over channels that one source lacks": Row(
        PARSING,
        f"{CONFIG}: submission.select: mito: tiny, plain are averaged by `method: "
        "watershed_boundary`, which training 'tiny' sets, but 'plain' does not predict "
        "mito_boundary: train it with `targets: {mito: [boundary]}`, leave it out of the "
        "average, or set another method",
        average_without_boundaries,
    ),
    "no label is predicted": Row(
        PARSING,
        f"{CONFIG}: no training predicts any label of {MANIFEST}: add one to `trainings`, or see "
        "`classes` and `serves` in its file",
        lambda folder: folder.configure_training(classes=["golgi"]),
    ),
    "missing initial weights": Row(
        PARSING,
        "training tiny: initial_weights: none.ckpt does not exist in …: correct the path, or "
        "leave it out",
        lambda folder: folder.configure_training(initial_weights="none.ckpt"),
    ),
    "an unknown teacher": Row(
        PARSING,
        "training tiny: teach.from: 'tinny' is not among `trainings` (did you mean 'tiny'?): tiny",
        lambda folder: folder.configure_training(teach={"from": "tinny"}),
    ),
    "a training that teaches itself": Row(
        PARSING,
        "training tiny: teach.from: following it from training to training leads back to 'tiny': "
        "name a training that learns without it",
        lambda folder: folder.configure_training(teach={"from": "tiny"}),
    ),
    "no data": Row(
        START,
        "data_root: nowhere does not exist in …: set it to the folder of the data",
        lambda folder: folder.configure(data_root="nowhere"),
    ),
    "a file as output folder": Row(
        START,
        "output: config/config.yaml is no folder: move it, or choose another `output`",
        lambda folder: folder.configure(output=CONFIG),
    ),
    "an unwritable output folder": Row(
        START,
        "output: nothing can be written in /proc (…): check its owner and your quota, or choose "
        "another `output`",
        lambda folder: folder.configure(output="/proc/results"),
    ),
    "a folder in place of the submission": Row(
        START,
        "submission.zip is a folder: move it, the submission is written to this path",
        lambda folder: (
            (folder.path / "submission.zip").unlink(),
            (folder.path / "submission.zip").mkdir(),
        ),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_plans_are_refused(folder, row):
    assert_refused(folder, row)
