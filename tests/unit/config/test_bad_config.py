"""Errors in configuration keys and their values: each ends the run while Snakemake parses."""

import pytest

from tests.support.spoiled import (
    CONFIG,
    PARSING,
    TINY,
    Row,
    assert_refused,
    rewrite,
)

ROWS = {
    "a typo in a key": Row(
        PARSING,
        f"{CONFIG}: ground_thruth: unknown key (did you mean 'ground_truth'?)",
        lambda folder: folder.configure(ground_thruth="data/truth.zarr"),
    ),
    "a key in the wrong file": Row(
        PARSING,
        f"{CONFIG}: epochs: unknown key here: it belongs in config/training/{{name}}.yaml",
        lambda folder: folder.configure(epochs=3),
    ),
    "a key of a section of the other file": Row(
        PARSING,
        f"{TINY}: validation_fraction: unknown key here: it belongs in config/config.yaml, as "
        "`split: {validation_fraction: …}`",
        lambda folder: folder.configure_training(validation_fraction=0.2),
    ),
    "folds without their number": Row(
        PARSING,
        "training tiny: `validation: folds` needs the number of folds: set `split: {folds: 5}` in "
        "the run's configuration",
        lambda folder: folder.configure_training(validation="folds"),
    ),
    "a teacher for the official loader": Row(
        PARSING,
        f"{TINY}: `teach` needs `loader: fast`: cellmap-data reads no labels around a crop",
        lambda folder: folder.configure_training(teach={"from": "a"}, loader="cellmap-data"),
    ),
    "a typo in a key of `teach`": Row(
        PARSING,
        f"{TINY}: teach.form: unknown key (did you mean 'from'?)",
        lambda folder: folder.configure_training(teach={"from": "a", "form": "b"}),
    ),
    "settings from an unknown training": Row(
        PARSING,
        "training tiny: settings_from: 'tinny' is not among `trainings` (did you mean 'tiny'?): …",
        lambda folder: folder.configure_training(validation="none", settings_from="tinny"),
    ),
    "settings from a training itself": Row(
        PARSING,
        "training tiny: settings_from: following it from training to training leads in a circle: …",
        lambda folder: folder.configure_training(validation="none", settings_from="tiny"),
    ),
    "settings from elsewhere although they are tuned": Row(
        PARSING,
        f"{TINY}: `settings_from` needs `validation: none`: otherwise settings are tuned",
        lambda folder: folder.configure_training(settings_from="other"),
    ),
    "a GPU model for jobs without GPUs": Row(
        PARSING,
        f"{TINY}: `resources.validate.gpu_model`: these jobs use no GPU: remove it",
        lambda folder: folder.configure_training(resources={"validate": {"gpu_model": "a100"}}),
    ),
    "a container with spaces in its name": Row(
        PARSING,
        f"{CONFIG}: container: contains spaces, which Snakemake takes in no image's name: rename "
        "it",
        lambda folder: folder.configure(container="my image.sif"),
    ),
    "a missing key": Row(
        PARSING,
        f"{TINY}: patch_size: is missing",
        lambda folder: rewrite(folder.training, "patch_size", "#"),
    ),
    "a boolean as a number": Row(
        PARSING,
        f"{TINY}: epochs: YAML reads yes, no, on, off, true and false as booleans, but this key "
        "takes none: write a number, or the name in quotes",
        lambda folder: folder.configure_training(epochs=True),
    ),
    "a Windows path": Row(
        PARSING,
        f"{CONFIG}: data_root: is a Windows path: write it as Linux sees it, such as /mnt/c/data",
        lambda folder: folder.configure(data_root="C:\\data"),
    ),
    "a variable in a path": Row(
        PARSING,
        f"{CONFIG}: output: variables are not expanded in paths: write the full path",
        lambda folder: folder.configure(output="$SCRATCH/results"),
    ),
    "a missing training": Row(
        PARSING,
        "trainings: there is no file for 'tinny' (did you mean 'tiny'?) (looked for …); there "
        "are: tiny",
        lambda folder: folder.configure(trainings=["tinny"]),
    ),
    "a training twice": Row(
        PARSING,
        f"{CONFIG}: trainings: lists tiny twice",
        lambda folder: folder.configure(trainings=["tiny", "tiny"]),
    ),
    "an empty choice": Row(
        PARSING,
        f"{CONFIG}: submission.select: is empty: …",
        lambda folder: folder.configure(submission={"select": {}}),
    ),
    "a voxel size twice": Row(
        PARSING,
        f"{CONFIG}: submission.select.mito: 8 and 8 8 8 are the same voxel size: remove one of "
        "the two",
        lambda folder: folder.configure(
            submission={"select": {"mito": {8: "tiny", "8 8 8": "tiny"}}}
        ),
    ),
    "a template without a label": Row(
        PARSING,
        f"{CONFIG}: predictions: nnunet: 'other/{{crop}}' lacks {{dataset}}, {{label}}",
        lambda folder: folder.configure(predictions={"nnunet": "other/{crop}"}),
    ),
    "a negative voxel size": Row(
        PARSING,
        f"{TINY}: voxel_size: Input should be greater than or equal to 0.1, not -8",
        lambda folder: folder.configure_training(voxel_size=-8),
    ),
    "a voxel size in meters": Row(
        PARSING,
        f"{TINY}: voxel_size: Input should be greater than or equal to 0.1, not 8e-09",
        lambda folder: folder.configure_training(voxel_size=8e-9),
    ),
    "a patch size that the network does not support": Row(
        PARSING,
        f"{TINY}: patch_size: [33, 33, 33] does not suit monai_basic_unet3d, which needs three "
        "multiples of 16 that are not all 16; the nearest are [32, 32, 32] and [48, 48, 48]",
        lambda folder: folder.configure_training(patch_size=33),
    ),
    "a batch larger than any GPU memory": Row(
        PARSING,
        f"{TINY}: `batch_size: 4096` of `patch_size: [128, 128, 128]` is more than 1,073,741,824 "
        "voxels at once, which no GPU holds: lower them",
        lambda folder: folder.configure_training(batch_size=4096, patch_size=128),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_configuration_is_refused(folder, row):
    assert_refused(folder, row)
