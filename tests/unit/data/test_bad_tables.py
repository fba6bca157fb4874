"""Errors in the manifest, the crop and class tables, and data splits."""

import numpy as np
import pytest

from tests.support.spoiled import (
    CHECK,
    CROP,
    HEADER,
    MANIFEST,
    PARSING,
    RAW,
    Folder,
    Row,
    append,
    assert_refused,
    rewrite,
)


def use_class_table(folder: Folder, text: str) -> None:
    (folder.path / "classes.csv").write_text(text)
    folder.configure_training(mutual_exclusion="classes.csv")


def use_crop_table(folder: Folder, row: str) -> None:
    (folder.path / "crops.csv").write_text(
        f"crop_number,collection,alignment,crop_url,em_url\n{row}\n"
    )
    folder.configure(fetch={"crops": "crops.csv"})


def use_datasplit(folder: Folder, text: str) -> None:
    (folder.path / "own.csv").write_text(text)
    folder.configure_training(datasplit="own.csv")


def datasplit_row(folder: Folder, usage: str, crop: int) -> str:
    return f'{usage},{folder.raw},"{folder.label(crop=crop).parent}/[mito,pm]"\n'


ROWS = {
    "a class table that includes itself": Row(
        PARSING,
        "training tiny: mutual_exclusion: classes.csv line 1: class 1 includes itself, directly "
        "or through others",
        lambda folder: use_class_table(folder, 'a,1,"2"\nb,2,"1"\n'),
    ),
    "no manifest": Row(
        PARSING,
        f"test-crop manifest {MANIFEST} does not exist: set `test_crops` to a file in the "
        "challenge's format",
        lambda folder: folder.manifest.unlink(),
    ),
    "a manifest that is not UTF-8": Row(
        PARSING,
        f"test-crop manifest {MANIFEST} line … is not UTF-8 text: save it as CSV with the "
        "encoding UTF-8",
        lambda folder: folder.manifest.write_bytes(folder.manifest.read_bytes() + b"4,\xe9\n"),
    ),
    "a manifest with semicolons": Row(
        PARSING,
        f"{MANIFEST} line 1: its fields are separated by ';', as spreadsheets do in some "
        "countries: save it with commas",
        lambda folder: folder.manifest.write_text(folder.manifest.read_text().replace(",", ";")),
    ),
    "a wrong header": Row(
        PARSING,
        f"{MANIFEST} line 1: the header is 'crop,…' but must be '{HEADER}'",
        lambda folder: rewrite(folder.manifest, "crop_name", "crop"),
    ),
    "a row twice": Row(
        PARSING,
        f"{MANIFEST} line 4: crop 3, label mito is listed twice (first in line 2): remove one",
        lambda folder: append(folder.manifest, folder.manifest.read_text().splitlines()[1] + "\n"),
    ),
    "a row with too few fields": Row(
        PARSING,
        f"{MANIFEST} line 4: 2 fields, but a row has 6: crop_name, dataset, …",
        lambda folder: append(folder.manifest, "4,a\n"),
    ),
    "a row with a broken vector": Row(
        PARSING,
        f"{MANIFEST} line 2: '[32;32' is not of the form [z;y;x]; voxel_size, translation and "
        "shape are written as [z;y;x]",
        lambda folder: folder.row(shape="[32;32"),
    ),
    "a quote that is not closed": Row(
        PARSING,
        f"{MANIFEST} line …: not CSV (…): look for a quote that is not closed",
        lambda folder: append(folder.manifest, '4,"a\n' + "x" * 200_000),
    ),
    "a negative voxel size in the manifest": Row(
        PARSING,
        f"{MANIFEST} line 2: voxel sizes are positive, not [-8.0, 8.0, 8.0]; voxel_size, "
        "translation",
        lambda folder: folder.row(voxel_size="[-8;8;8]"),
    ),
    "a voxel size of zero in the manifest": Row(
        PARSING,
        f"{MANIFEST} line 2: voxel sizes are positive, not [8.0, 0.0, 8.0]; voxel_size, "
        "translation",
        lambda folder: folder.row(voxel_size="[8;0;8]"),
    ),
    "a manifest in meters": Row(
        PARSING,
        f"{MANIFEST} line 2: voxel_size [8e-9;8e-9;8e-9] is not a plausible voxel size in nm: "
        "check the unit",
        lambda folder: folder.row(voxel_size="[8e-9;8e-9;8e-9]"),
    ),
    "an implausibly large crop": Row(
        PARSING,
        f"{MANIFEST} line 2: shape [99999;99999;99999] is larger than any crop: check its numbers",
        lambda folder: folder.row(shape="[99999;99999;99999]"),
    ),
    "a crop name with a slash": Row(
        PARSING,
        f"{MANIFEST} line 2: crop_name '3/mito' is not a whole number such as 557",
        lambda folder: folder.row(crop_name="3/mito"),
    ),
    "a dataset with `..`": Row(
        PARSING,
        f"{MANIFEST} line 2: dataset '../../b' is not a name (letters, digits, '_', '-', '.')",
        lambda folder: folder.row(dataset="../../b"),
    ),
    "a crop in two datasets": Row(
        PARSING,
        f"{MANIFEST} line 4: crop 3 belongs to dataset b here and to a above: crop ids must be "
        "unique",
        lambda folder: append(folder.manifest, "3,b,er,[8;8;8],[0;0;0],[32;32;32]\n"),
    ),
    "a manifest without rows": Row(
        PARSING,
        f"{MANIFEST} has no rows: it must list at least one test crop",
        lambda folder: folder.manifest.write_text(HEADER),
    ),
    "a crop table that leaves its zarr": Row(
        PARSING,
        "crops.csv line 2: crop_url 's3://b/a.zarr/../x/crop1'… leaves a.zarr with '..': remove it",
        lambda folder: use_crop_table(folder, "1,a,x,s3://b/a.zarr/../x/crop1,s3://b/a.zarr/em"),
    ),
    "empty labels": Row(
        CHECK,
        "training tiny: no crop below data has, at [8.0, 8.0, 8.0] nm or finer, a labeled "
        "voxel of mito: leave it out of `classes`, or see `datasets`, `crops` and `voxel_size`; "
        "the crops annotate: mito, pm",
        lambda folder: [
            folder.store(folder.label(crop=n), np.zeros(CROP, np.uint8), RAW.box(s, CROP))
            for n, s in ((1, (0, 0, 0)), (2, (32, 32, 32)))
        ],
    ),
    "a class without annotations": Row(
        CHECK,
        "training tiny: no crop below data has, … a labeled voxel of golgi: leave it out of "
        "`classes`, or …",
        lambda folder: folder.configure_training(classes=["mito", "golgi"]),
    ),
    "a single crop": Row(
        CHECK,
        "training tiny: no crop is left to train: the run's split has all that this training "
        "uses (1) on the other side: see its `datasets` and `crops`, or change `split`",
        lambda folder: folder.configure_training(crops=[1]),
    ),
    "a missing crop": Row(
        CHECK,
        "training tiny: `crops`: there is no crop 99 below data, only 1, 2: correct the number, "
        "or copy the crop there",
        lambda folder: folder.configure_training(crops=[1, 2, 99]),
    ),
    "only missing crops": Row(
        CHECK,
        "training tiny: `crops`: there is no crop 99 below data, only 1, 2: correct the number, "
        "or copy the crop there",
        lambda folder: folder.configure_training(crops=[99]),
    ),
    "a missing dataset": Row(
        CHECK,
        "training tiny: `datasets`: data has no crops of A (did you mean 'a'?), only of a: "
        "correct the name, or copy them there",
        lambda folder: folder.configure_training(datasets=["A"]),
    ),
    "a split without validation": Row(
        CHECK,
        "own.csv has no row for 'validate': it needs both train and validate",
        lambda folder: use_datasplit(folder, datasplit_row(folder, "train", 1)),
    ),
    "a split with broken rows": Row(
        CHECK,
        "own.csv line 1: 2 columns, but a row is usage,raw,label or usage,raw zarr,raw "
        "dataset,label zarr,",
        lambda folder: use_datasplit(folder, "train,raw\n"),
    ),
    "a split of missing crops": Row(
        CHECK,
        "crop9: the folder does not exist or contains none of mito, pm: correct or remove its row "
        "in own.csv",
        lambda folder: use_datasplit(
            folder, datasplit_row(folder, "train", 9) + datasplit_row(folder, "validate", 2)
        ),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_tables_are_refused(folder, row):
    assert_refused(folder, row)
