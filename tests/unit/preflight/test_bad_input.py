"""The table of bad input: each kind ends with one message, in time, and loses nothing.

A row says what is spoiled, when the run ends, and what it says then: `…` stands for what varies.
The messages of docs/troubleshooting.md are among those here.
"""

import json
import logging
import os
import pickle
import re
import shutil
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning
import torch
import yaml
import zarr
from numcodecs import Zstd

from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.submission.check import check
from cellmap_pipeline.training import devices
from tests.support.networks import tiny_task
from tests.support.spoiled import (
    CROP,
    HEADER,
    LOOK,
    PARSING,
    RAW,
    START,
    STARTS,
    TEST_CROP,
    Folder,
    edit,
    make_folder,
    said_to,
)

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcde", "bcdef", strict=True)
)
CHUNK = "s0/0/0/0"


class Code:
    """What runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


class Row(NamedTuple):
    """A kind of bad input."""

    when: str
    says: str
    spoil: Callable[[Folder], object]


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def rewrite(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def truncate(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def rescale(volume: Path, scale: list[float]) -> None:
    """Let the metadata of a volume say another voxel size."""

    def change(attributes):
        steps = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        steps[0]["scale"] = scale

    edit(volume / ".zattrs", change)


def move(volume: Path, translation: list[float]) -> None:
    """Let the metadata of a volume say another place."""

    def change(attributes):
        steps = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        steps[1]["translation"] = translation

    edit(volume / ".zattrs", change)


def axes(volume: Path, **changes) -> None:
    edit(volume / ".zattrs", lambda a: [x.update(changes) for x in a["multiscales"][0]["axes"]])


def xyz(volume: Path) -> None:
    edit(volume / ".zattrs", lambda a: a["multiscales"][0]["axes"].reverse())


def array(level: Path, **changes) -> None:
    """Let the metadata of an array say something else."""
    edit(level / ".zarray", lambda a: a.update(changes))


def float_raw(it: Folder, value: float) -> None:
    voxels = np.full(RAW.shape, 0.5, np.float32)
    voxels[5, 5, 5:7] = value
    it.store(it.raw, voxels, RAW)


def relabel(it: Folder, voxels: np.ndarray, start=(0, 0, 0)) -> None:
    it.store(it.label(), voxels, RAW.box(start, voxels.shape))


def checkpoint(it: Folder, **changes) -> None:
    """Predict with a checkpoint of another training."""
    task = tiny_task(**changes)
    content = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": pytorch_lightning.__version__,
    }
    torch.save(content, it.path / "other.ckpt")
    it.train(inference={"checkpoint": "other.ckpt"})


def predict_with(it: Folder, content: bytes, key: str = "") -> None:
    (it.path / "other.ckpt").write_bytes(content)
    it.train(**({key: "other.ckpt"} if key else {"inference": {"checkpoint": "other.ckpt"}}))


def split_by(it: Folder, text: str) -> None:
    (it.path / "own.csv").write_text(text)
    it.train(datasplit="own.csv")


def own_row(it: Folder, usage: str, crop: int) -> str:
    return f'{usage},{it.raw},"{it.label(crop=crop).parent}/[mito,pm]"\n'


def elsewhere(it: Folder, voxels: np.ndarray, translation=(128, 128, 512)) -> None:
    """Predictions made elsewhere of mito."""
    it.predict_elsewhere(voxels, Grid((8, 8, 8), translation, voxels.shape))


def average_with_plain(it: Folder) -> None:
    """Average with a training that predicts no boundaries, by a method that takes them."""
    it.train(postprocess={"mito": {"method": "watershed_boundary"}})
    plain = yaml.safe_load(it.training.read_text()) | {"targets": {"mito": []}, "postprocess": {}}
    it.training.with_name("plain.yaml").write_text(yaml.safe_dump(plain))
    it.configure(trainings=["tiny", "plain"], submission={"select": "average"})


def link(path: Path, target: str) -> None:
    shutil.rmtree(path)
    path.symlink_to(target)


def table(it: Folder, text: str) -> None:
    (it.path / "classes.csv").write_text(text)
    it.train(mutual_exclusion="classes.csv")


def fetch(it: Folder, row: str) -> None:
    (it.path / "crops.csv").write_text(f"crop_number,collection,alignment,crop_url,em_url\n{row}\n")
    it.configure(fetch={"crops": "crops.csv"})


CONFIG, TINY, MANIFEST = "config/config.yaml", "config/training/tiny.yaml", "data/manifest.csv"
ROWS = {
    # The configuration.
    "tabs": Row(
        PARSING,
        f"{CONFIG} is not YAML in line …: it is indented with a tab: indent with spaces instead",
        lambda it: append(it.config, "submission:\n\tcrops: all\n"),
    ),
    "a YAML bomb": Row(
        PARSING,
        f"{CONFIG} line …: with its aliases (`*name`) written out it holds more than 100,000 "
        "values: "
        "write plain keys and values",
        lambda it: append(it.config, BOMB),
    ),
    "an alias of itself": Row(
        PARSING,
        f"{CONFIG} line …: `&` names a part that holds itself",
        lambda it: append(it.config, "a: &a [*a]\n"),
    ),
    "YAML with code": Row(
        PARSING,
        f"{CONFIG} is not YAML in line …: write plain values, without `!`",
        lambda it: append(it.config, "output: !!python/object/apply:os.system ['touch ran']\n"),
    ),
    "a template": Row(
        PARSING,
        f"{CONFIG}: `__use_yte__` makes a template of it, in which Python is run: leave it out",
        lambda it: append(it.config, "__use_yte__: true\n"),
    ),
    "YAML cut off": Row(
        PARSING,
        f"{CONFIG} is not YAML in line …: …: correct it",
        lambda it: append(it.config, "submission: {crops: [1, 2\n"),
    ),
    "a key twice": Row(
        PARSING,
        f"{CONFIG} line …: the key 'trainings' stands there twice: remove one of the two",
        lambda it: append(it.config, "trainings: [other]\n"),
    ),
    "a configuration that is not UTF-8": Row(
        PARSING,
        f"{CONFIG} line … is not UTF-8 text: save the file with the encoding UTF-8",
        lambda it: it.config.write_bytes(it.config.read_bytes() + b"output: r\xe9sultats\n"),
    ),
    "another file as configuration": Row(
        PARSING,
        f"{CONFIG} is larger than 1,000,000 bytes, which no configuration is: is it another file?",
        lambda it: append(it.config, "#" * 2_000_000),
    ),
    "a list as configuration": Row(
        PARSING,
        f"{CONFIG} must hold keys and values: docs/configuration.md lists them",
        lambda it: it.config.write_text("[a, b]"),
    ),
    "an empty configuration": Row(
        PARSING,
        f"{CONFIG} must hold keys and values: docs/configuration.md lists them",
        lambda it: it.config.write_text("# nothing\n"),
    ),
    "no configuration": Row(
        PARSING, f"{CONFIG} does not exist (looked in …)", lambda it: it.config.unlink()
    ),
    "a slip in a key": Row(
        PARSING,
        f"{CONFIG}: ground_thruth: unknown key (did you mean 'ground_truth'?)",
        lambda it: it.configure(ground_thruth="data/truth.zarr"),
    ),
    "a key in the wrong file": Row(
        PARSING,
        f"{CONFIG}: epochs: unknown key here: it belongs into config/training/{{name}}.yaml",
        lambda it: it.configure(epochs=3),
    ),
    "a key that is missing": Row(
        PARSING,
        f"{TINY}: patch_size: is missing",
        lambda it: rewrite(it.training, "patch_size", "#"),
    ),
    "a switch as a number": Row(
        PARSING,
        f"{TINY}: epochs: YAML reads yes, no, on, off, true and false as switches, which this is "
        "not: write a number, or the name in quotes",
        lambda it: it.train(epochs=True),
    ),
    "a path of Windows": Row(
        PARSING,
        f"{CONFIG}: data_root: is a path of Windows: give it as Linux has it, such as /mnt/c/data",
        lambda it: it.configure(data_root="C:\\data"),
    ),
    "a variable in a path": Row(
        PARSING,
        f"{CONFIG}: output: variables are not replaced in paths: write the path itself",
        lambda it: it.configure(output="$SCRATCH/results"),
    ),
    "a training that is not there": Row(
        PARSING,
        "trainings: there is no file for 'tinny' (did you mean 'tiny'?) (looked for …); there are: "
        "tiny",
        lambda it: it.configure(trainings=["tinny"]),
    ),
    "a training twice": Row(
        PARSING,
        f"{CONFIG}: trainings: lists tiny twice",
        lambda it: it.configure(trainings=["tiny", "tiny"]),
    ),
    "a training named like a folder of the results": Row(
        PARSING,
        f"{CONFIG}: trainings: logs is the name of a folder of the results: choose another name",
        lambda it: it.configure(trainings=["logs"]),
    ),
    "a crop that is not in the manifest": Row(
        PARSING,
        f"{CONFIG}: submission.crops: 7 not in {MANIFEST}: name some that are there: 3",
        lambda it: it.configure(submission={"crops": [7]}),
    ),
    "a class that is not in the manifest": Row(
        PARSING,
        f"{CONFIG}: submission.classes: golgi not in {MANIFEST}: name some that are there: mito, "
        "pm",
        lambda it: it.configure(submission={"classes": ["golgi"]}),
    ),
    "a source that is not there": Row(
        PARSING,
        f"{CONFIG}: submission.select.mito: 'other' is not among trainings or predictions (tiny)",
        lambda it: it.configure(submission={"select": {"mito": "other"}}),
    ),
    "a choice for nothing": Row(
        PARSING,
        f"{CONFIG}: submission.select: is empty: …",
        lambda it: it.configure(submission={"select": {}}),
    ),
    "a voxel size that no crop has": Row(
        PARSING,
        f"{CONFIG}: submission.select.mito: no crop of {MANIFEST} takes the choice for 32 nm: they "
        "ask for mito at 8 8 8 nm: correct or remove it",
        lambda it: it.configure(submission={"select": {"mito": {8: "tiny", 32: "tiny"}}}),
    ),
    "a voxel size twice": Row(
        PARSING,
        f"{CONFIG}: submission.select.mito: 8 and 8 8 8 are the same voxel size: remove one of the "
        "two",
        lambda it: it.configure(submission={"select": {"mito": {8: "tiny", "8 8 8": "tiny"}}}),
    ),
    "a choice for a label that no crop asks for": Row(
        PARSING,
        f"{CONFIG}: submission.select.golgi: no crop of {MANIFEST} asks for 'golgi', only for "
        "mito, pm: correct or remove it",
        lambda it: [
            it.configure(submission={"select": {"golgi": "tiny"}}),
            it.train(classes=["mito", "pm", "golgi"]),
        ],
    ),
    "predictions chosen for a label that they have not": Row(
        PARSING,
        f"{CONFIG}: submission.select.pm: predictions 'nnunet' have not got it (their classes: "
        "mito)",
        lambda it: [
            elsewhere(it, np.ones(CROP, np.uint8)),
            it.configure(submission={"select": {"pm": "nnunet"}}),
        ],
    ),
    "predictions of a label that no crop asks for": Row(
        PARSING,
        f"{CONFIG}: predictions.nnunet.classes: no crop of {MANIFEST} asks for 'mitoo' (did you "
        "mean 'mito'?), only for mito, pm: correct or remove it",
        lambda it: it.configure(
            predictions={
                "nnunet": {"path": "other/{dataset}/crop{crop}/{label}", "classes": ["mitoo"]}
            }
        ),
    ),
    "an average by channels that one of its sources lacks": Row(
        PARSING,
        f"{CONFIG}: submission.select: mito: tiny, plain are averaged by `method: "
        "watershed_boundary`, which training 'tiny' sets, but 'plain' does not predict "
        "mito_boundary: train it with `targets: {mito: [boundary]}`, leave it out of the average, "
        "or set another method",
        lambda it: average_with_plain(it),
    ),
    "a template without a label": Row(
        PARSING,
        f"{CONFIG}: predictions: nnunet: 'other/{{crop}}' lacks ['{{dataset}}', '{{label}}']",
        lambda it: it.configure(predictions={"nnunet": "other/{crop}"}),
    ),
    "no label at all": Row(
        PARSING,
        f"{CONFIG}: no training predicts any label of {MANIFEST}: add one to `trainings`, or see "
        "`classes` and `serves` in its file",
        lambda it: it.train(classes=["golgi"]),
    ),
    # A training.
    "a negative voxel size": Row(
        PARSING,
        f"{TINY}: voxel_size: Input should be greater than or equal to 0.1, not -8",
        lambda it: it.train(voxel_size=-8),
    ),
    "a voxel size in metres": Row(
        PARSING,
        f"{TINY}: voxel_size: Input should be greater than or equal to 0.1, not 8e-09",
        lambda it: it.train(voxel_size=8e-9),
    ),
    "a patch that the network cannot take": Row(
        PARSING,
        f"{TINY}: patch_size: [33, 33, 33] does not suit monai_basic_unet3d, which needs "
        "three multiples of 16 that are not all 16; the nearest are [32, 32, 32] and [48, 48, 48]",
        lambda it: it.train(patch_size=33),
    ),
    "a batch that no GPU holds": Row(
        PARSING,
        f"{TINY}: `batch_size: 4096` of `patch_size: [128, 128, 128]` is more than 1,073,741,824 "
        "voxels at once, which no GPU holds: lower them",
        lambda it: it.train(batch_size=4096, patch_size=128),
    ),
    "initial weights that are not there": Row(
        PARSING,
        "training tiny: initial_weights: none.ckpt does not exist in …: correct the path, or leave "
        "it out",
        lambda it: it.train(initial_weights="none.ckpt"),
    ),
    "a class table that includes itself": Row(
        PARSING,
        "training tiny: mutual_exclusion: classes.csv line 1: class 1 includes itself, directly or "
        "through others",
        lambda it: table(it, 'a,1,"2"\nb,2,"1"\n'),
    ),
    # The manifest.
    "no manifest": Row(
        PARSING,
        f"test-crop manifest {MANIFEST} does not exist: set `test_crops` to a file in the "
        "challenge's format",
        lambda it: it.manifest.unlink(),
    ),
    "a manifest that is not UTF-8": Row(
        PARSING,
        f"test-crop manifest {MANIFEST} line … is not UTF-8 text: save it as CSV with the encoding "
        "UTF-8",
        lambda it: it.manifest.write_bytes(it.manifest.read_bytes() + b"4,\xe9\n"),
    ),
    "a manifest with semicolons": Row(
        PARSING,
        f"{MANIFEST} line 1: its fields are separated by ';', as spreadsheets do in some "
        "countries: "
        "save it with commas",
        lambda it: it.manifest.write_text(it.manifest.read_text().replace(",", ";")),
    ),
    "another header": Row(
        PARSING,
        f"{MANIFEST} line 1: the header is 'crop,…' but must be '{HEADER}'",
        lambda it: rewrite(it.manifest, "crop_name", "crop"),
    ),
    "a row twice": Row(
        PARSING,
        f"{MANIFEST} line 4: crop 3, label mito stands in line 2 already: remove one of the two",
        lambda it: append(it.manifest, it.manifest.read_text().splitlines()[1] + "\n"),
    ),
    "a row with too few fields": Row(
        PARSING,
        f"{MANIFEST} line 4: 2 fields, but a row has 6: crop_name, dataset, …",
        lambda it: append(it.manifest, "4,a\n"),
    ),
    "a row with a broken vector": Row(
        PARSING,
        f"{MANIFEST} line 2: '[32;32' is not of the form [z;y;x]; voxel_size, translation and "
        "shape "
        "are written as [z;y;x]",
        lambda it: it.row(shape="[32;32"),
    ),
    "a quote that is not closed": Row(
        PARSING,
        f"{MANIFEST} line …: not CSV (…): look for a quote that is not closed",
        lambda it: append(it.manifest, '4,"a\n' + "x" * 200_000),
    ),
    "a negative voxel size in the manifest": Row(
        PARSING,
        f"{MANIFEST} line 2: voxel sizes are positive, not [-8.0, 8.0, 8.0]; voxel_size, "
        "translation",
        lambda it: it.row(voxel_size="[-8;8;8]"),
    ),
    "a voxel size of zero in the manifest": Row(
        PARSING,
        f"{MANIFEST} line 2: voxel sizes are positive, not [8.0, 0.0, 8.0]; voxel_size, "
        "translation",
        lambda it: it.row(voxel_size="[8;0;8]"),
    ),
    "a manifest in metres": Row(
        PARSING,
        f"{MANIFEST} line 2: voxel_size [8e-9;8e-9;8e-9] is nothing like voxels in nm: convert "
        "lengths to nm",
        lambda it: it.row(voxel_size="[8e-9;8e-9;8e-9]"),
    ),
    "a crop larger than any": Row(
        PARSING,
        f"{MANIFEST} line 2: shape [99999;99999;99999] is more than any crop holds: check its "
        "numbers",
        lambda it: it.row(shape="[99999;99999;99999]"),
    ),
    "a crop name with a slash": Row(
        PARSING,
        f"{MANIFEST} line 2: crop_name '3/mito' is not a whole number such as 557",
        lambda it: it.row(crop_name="3/mito"),
    ),
    "a dataset with `..`": Row(
        PARSING,
        f"{MANIFEST} line 2: dataset '../../b' is not a name (letters, digits, '_', '-', '.')",
        lambda it: it.row(dataset="../../b"),
    ),
    "a crop in two datasets": Row(
        PARSING,
        f"{MANIFEST} line 4: crop 3 is of dataset b here and of a above: crop ids must be unique",
        lambda it: append(it.manifest, "3,b,er,[8;8;8],[0;0;0],[32;32;32]\n"),
    ),
    "a manifest without rows": Row(
        PARSING,
        f"{MANIFEST} has no rows: it must list at least one test crop",
        lambda it: it.manifest.write_text(HEADER),
    ),
    "a crop table that leads out": Row(
        PARSING,
        "crops.csv line 2: crop_url 's3://b/a.zarr/../x/crop1'… leaves a.zarr by '..': write it "
        "without",
        lambda it: fetch(it, "1,a,x,s3://b/a.zarr/../x/crop1,s3://b/a.zarr/em"),
    ),
    # Folders.
    "no data": Row(
        START,
        "data_root: nowhere does not exist in …: set it to the folder of the data",
        lambda it: it.configure(data_root="nowhere"),
    ),
    "results on a file": Row(
        START,
        "output: config/config.yaml is no folder: move it, or choose another `output`",
        lambda it: it.configure(output=CONFIG),
    ),
    "results that cannot be written": Row(
        START,
        "output: nothing can be written in /proc (…): see who owns it and whether your quota is "
        "used "
        "up, or choose another `output`",
        lambda it: it.configure(output="/proc/results"),
    ),
    "a folder in the submission's place": Row(
        START,
        "submission.zip is a folder: move it, the submission is to lie there",
        lambda it: ((it.path / "submission.zip").unlink(), (it.path / "submission.zip").mkdir()),
    ),
    "data_root at a dataset": Row(
        LOOK,
        "data_root: data/a holds no "
        "{dataset}/{dataset}.zarr/recon-1/labels/groundtruth/crop{number}"
        ": that is a dataset itself; set data_root to …/data",
        lambda it: it.configure(data_root="data/a"),
    ),
    "data_root too high": Row(
        LOOK,
        "data_root: . holds no …: set data_root to data",
        lambda it: it.configure(data_root="."),
    ),
    "a zarr with another name than its folder": Row(
        LOOK,
        "data_root: data holds no …: data/a/b.zarr is to have the name of its folder, a.zarr",
        lambda it: (it.path / "data/a/a.zarr").rename(it.path / "data/a/b.zarr"),
    ),
    "a link that leads nowhere": Row(
        LOOK,
        "crop1/mito is a link to /nowhere, which does not exist here or may not be read: correct "
        "or "
        "remove the link",
        lambda it: link(it.label(), "/nowhere"),
    ),
    "a crop twice": Row(
        LOOK,
        "crop1 and … are the same crop by dataset and number: move one of the two out of the "
        "data, or "
        "give it another number",
        lambda it: shutil.copytree(it.recon, it.recon.with_name("recon-2")),
    ),
    # Metadata of volumes.
    "raw by another name": Row(
        LOOK,
        "fibsem-uint8 does not exist, but fibsem-uint16 beside it: name the raw fibsem-uint8, by a "
        "link if you like, or name it in an own `datasplit`",
        lambda it: it.raw.rename(it.raw.with_name("fibsem-uint16")),
    ),
    "no raw": Row(
        LOOK,
        "fibsem-uint8 does not exist: copy or fetch the raw (docs/own-data.md says where it lies)",
        lambda it: shutil.rmtree(it.raw.parent),
    ),
    "a level that is missing": Row(
        LOOK,
        "fibsem-uint8: none of its levels is here (s0: [8.0, 8.0, 8.0] nm): fetch the one that is "
        "needed (docs/fetching.md)",
        lambda it: (it.raw / "s0/.zarray").unlink(),
    ),
    "files with a dot left behind": Row(
        LOOK,
        "crop1/mito is not a volume: it has neither .zattrs nor .zarray. Copy or fetch it again, "
        "with "
        "files whose names begin with a dot",
        lambda it: (it.label() / ".zattrs").unlink(),
    ),
    "no `multiscales`": Row(
        LOOK,
        "fibsem-uint8/.zattrs is not OME-NGFF 0.4 multiscale metadata (KeyError: 'multiscales'): a "
        "volume needs `multiscales` with axes z, y, x and a scale per dataset, or is one array "
        "with "
        "`voxel_size` and `translation`",
        lambda it: (it.raw / ".zattrs").write_text("{}"),
    ),
    "other axes": Row(
        LOOK,
        "fibsem-uint8/.zattrs: axes are ['x', 'y', 'z'], but must be ['z', 'y', 'x']: write the "
        "volume again, one channel of it in that order",
        lambda it: xyz(it.raw),
    ),
    "an unknown unit": Row(
        LOOK,
        "fibsem-uint8/.zattrs: its axes are in parsec, but must all be in one of nanometer, …",
        lambda it: axes(it.raw, unit="parsec"),
    ),
    "nanometres called micrometres": Row(
        LOOK,
        "s0: voxels of [800000.0, 800000.0, 800000.0] nm are nothing like voxels in nm: correct "
        "the "
        "scale or the unit in its metadata",
        lambda it: (rescale(it.raw, [800.0] * 3), axes(it.raw, unit="micrometer")),
    ),
    "a negative scale": Row(
        LOOK,
        "s0: its place and shape make no grid (ValueError: voxel sizes are positive, not [-8.0, "
        "8.0, "
        "8.0]): check its .zarray and …/fibsem-uint8/.zattrs",
        lambda it: rescale(it.raw, [-8.0, 8.0, 8.0]),
    ),
    "a scale of zero": Row(
        LOOK,
        "s0: its place and shape make no grid (ValueError: voxel sizes are positive, not [0.0, "
        "8.0, "
        "8.0]): check its .zarray and …/mito/.zattrs",
        lambda it: rescale(it.label(), [0.0, 8.0, 8.0]),
    ),
    "metadata that are empty": Row(
        LOOK,
        "fibsem-uint8/.zattrs is empty: copy or fetch it again, or write the volume again",
        lambda it: (it.raw / ".zattrs").write_text(""),
    ),
    "metadata cut off": Row(
        LOOK,
        "fibsem-uint8/.zattrs is not JSON (…): copy or fetch it again, or write the volume again",
        lambda it: truncate(it.raw / ".zattrs"),
    ),
    "metadata that are not UTF-8": Row(
        LOOK,
        "s0/.zarray is not UTF-8 text: copy or fetch it again",
        lambda it: (it.raw / "s0/.zarray").write_bytes(b"\xff\xfe{}"),
    ),
    "zarr 3": Row(
        LOOK,
        "crop1/mito is zarr 3, but zarr 2 is read: write it again with zarr_format=2",
        lambda it: (it.label() / ".zattrs").rename(it.label() / "zarr.json"),
    ),
    "a level outside its volume": Row(
        LOOK,
        "fibsem-uint8/.zattrs is not OME-NGFF 0.4 multiscale metadata (ValueError: the level "
        "'../../s0' lies outside the volume)",
        lambda it: rewrite(it.raw / ".zattrs", '"s0"', '"../../s0"'),
    ),
    "chunks that fill the memory": Row(
        LOOK,
        "s0/.zarray does not say how the array is stored (ValueError: a chunk of [99999, 99999, "
        "99999] voxels is more than 2 GiB): copy it again, or write the array again as zarr 2",
        lambda it: array(it.raw / "s0", chunks=[99999] * 3),
    ),
    "a label without an end": Row(
        LOOK,
        "s0: its shape [9999999, 9999999, 9999999] is more than any crop has: check its .zarray",
        lambda it: array(it.label() / "s0", shape=[9999999] * 3),
    ),
    "an unknown compression": Row(
        LOOK,
        "s0 cannot be opened (…): copy or fetch it again, or write it again as zarr 2 with a "
        "common "
        "compressor and no filters",
        lambda it: array(it.raw / "s0", compressor={"id": "zfp"}),
    ),
    "a wrong dtype of raw": Row(
        LOOK,
        "s0 is int32, but raw is uint8, uint16 or float from 0 to 1: convert it",
        lambda it: it.store(it.raw, np.ones(RAW.shape, np.int32), RAW),
    ),
    "labels that are probabilities": Row(
        LOOK,
        "s0 is float32, but labels are whole numbers: convert it",
        lambda it: relabel(it, np.ones(CROP, np.float32)),
    ),
    # Chunks.
    "a broken chunk": Row(
        LOOK,
        "s0: cannot read voxels [0, 0, 0] to [32, 32, 32] (…): copy or fetch it again",
        lambda it: (it.raw / CHUNK).write_bytes(b"no chunk" * 100),
    ),
    "truncated chunks": Row(
        LOOK,
        "s0: cannot read voxels … (…): copy or fetch it again; so are 3 more chunks",
        lambda it: [truncate(it.raw / f"s0/0/{y}/{x}") for y in (0, 1) for x in (0, 1)],
    ),
    "an empty chunk": Row(
        LOOK,
        "s0: cannot read voxels [0, 0, 0] to [32, 32, 32] (…): copy or fetch it again",
        lambda it: truncate(it.raw / CHUNK, 0),
    ),
    "a broken chunk of a label": Row(
        LOOK,
        "crop1/mito/s0: cannot read voxels … (…): copy or fetch it again",
        lambda it: truncate(it.label() / CHUNK),
    ),
    "raw that is not here": Row(
        LOOK,
        "a/crop1: …s0: 1 chunks of raw are missing around voxels …: fetch the raw of this crop at "
        "[8.0, 8.0, 8.0] nm (docs/fetching.md)",
        lambda it: (it.raw / CHUNK).unlink(),
    ),
    "NaN in raw": Row(
        LOOK,
        "s0 holds NaN: replace what is not a number, by 0 where nothing is known",
        lambda it: float_raw(it, np.nan),
    ),
    "raw of floats up to 255": Row(
        LOOK,
        "s0 holds 0.5 to 255, but raw is taken for 0 to 1 where it is float: scale it, or store "
        "it as "
        "uint8",
        lambda it: float_raw(it, 255),
    ),
    "chunks by another separator": Row(
        LOOK,
        "s0 has no chunk by what .zarray says (dimension_separator '.'), but there is 0: put "
        "the separator right",
        lambda it: array(it.label() / "s0", dimension_separator="."),
    ),
    "a label whose chunks are gone": Row(
        LOOK,
        "crop1/mito/s0 has no chunk here, but its annotation counts 6,336 labelled voxels: copy or "
        "fetch it again",
        lambda it: shutil.rmtree(it.label() / "s0/0"),
    ),
    "negative ids": Row(
        LOOK,
        "s0 holds -1, but ids are 0 or more: mark what is unknown by an `unknown` value "
        "(docs/own-data.md)",
        lambda it: relabel(it, np.arange(-1, 32**3 - 1, dtype=np.int32).reshape(CROP)),
    ),
    # Labels and raw, held against each other.
    "a test crop outside its volume": Row(
        LOOK,
        "test crop 3: …s0: voxels [1250, 0, 0] to [1282, 32, 32] lie outside the volume of [64, "
        "64, "
        "96] voxels: check the crop's translation",
        lambda it: it.row(translation="[10000;0;0]"),
    ),
    "labels outside their volume": Row(
        LOOK,
        "a/crop1: …s0: voxels [-1250, 0, 0] to … lie outside the volume of …: check the crop's "
        "translation",
        lambda it: [move(it.label(name), [-10000, 0, 0]) for name in ("mito", "pm")],
    ),
    "a label larger than its raw": Row(
        LOOK,
        "a/crop1: 56% of it lies outside its raw … (voxels [0, 0, 0] to [96, 96, 96] of [64, 64, "
        "96])"
        ": correct the labels' voxel size and translation (nm, z, y, x), or leave the crop out",
        lambda it: relabel(it, np.ones((96, 96, 96), np.uint8)),
    ),
    "a label elsewhere than its crop": Row(
        LOOK,
        "pm lies elsewhere than the crop's other labels: correct its translation",
        lambda it: move(it.label("pm"), [256, 256, 0]),
    ),
    "empty labels": Row(
        LOOK,
        "training tiny: no crop below data holds, at [8.0, 8.0, 8.0] nm or finer, a labelled "
        "voxel of "
        "mito: leave it out of `classes`, or see `datasets`, `crops` and `voxel_size`; the crops "
        "annotate: mito, pm",
        lambda it: [
            it.store(it.label(crop=n), np.zeros(CROP, np.uint8), RAW.box(s, CROP))
            for n, s in ((1, (0, 0, 0)), (2, (32, 32, 32)))
        ],
    ),
    "a class that nobody annotates": Row(
        LOOK,
        "training tiny: no crop below data holds, … a labelled voxel of golgi: leave it out of "
        "`classes`, or …",
        lambda it: it.train(classes=["mito", "golgi"]),
    ),
    "one crop alone": Row(
        LOOK,
        "training tiny: a split needs two labelled crops that do not overlap; there is 1 for mito, "
        "pm: see `datasets` and `crops` in the training's file",
        lambda it: it.train(crops=[1]),
    ),
    "a crop that is not in the data": Row(
        LOOK,
        "training tiny: `crops`: there is no crop 99 below data, only 1, 2: correct the number, or "
        "copy the crop there",
        lambda it: it.train(crops=[1, 2, 99]),
    ),
    "crops of which none is in the data": Row(
        LOOK,
        "training tiny: `crops`: there is no crop 99 below data, only 1, 2: correct the number, or "
        "copy the crop there",
        lambda it: it.train(crops=[99]),
    ),
    "a dataset that is not in the data": Row(
        LOOK,
        "training tiny: `datasets`: data has no crops of A (did you mean 'a'?), only of a: correct "
        "the name, or copy them there",
        lambda it: it.train(datasets=["A"]),
    ),
    # An own split.
    "a split without validation": Row(
        LOOK,
        "own.csv has no row for 'validate': it needs both train and validate",
        lambda it: split_by(it, own_row(it, "train", 1)),
    ),
    "a split with broken rows": Row(
        LOOK,
        "own.csv line 1: 2 columns, but a row is usage,raw,label or usage,raw zarr,raw "
        "dataset,label "
        "zarr,",
        lambda it: split_by(it, "train,raw\n"),
    ),
    "a split of crops that are not there": Row(
        LOOK,
        "crop9: the folder does not exist or holds none of mito, pm: correct or remove its row in "
        "own.csv",
        lambda it: split_by(it, own_row(it, "train", 9) + own_row(it, "validate", 2)),
    ),
    # Checkpoints and networks.
    "a checkpoint that is none": Row(
        LOOK,
        "training tiny: inference.checkpoint: other.ckpt is not a checkpoint of this pipeline (…): "
        "give the model.ckpt that its training wrote; it holds tensors and plain settings only",
        lambda it: predict_with(it, b"no checkpoint"),
    ),
    "a checkpoint cut off": Row(
        LOOK,
        "training tiny: inference.checkpoint: other.ckpt is not a checkpoint of this pipeline (…): "
        "give the model.ckpt that its training wrote; it holds tensors and plain settings only",
        lambda it: (checkpoint(it), truncate(it.path / "other.ckpt")),
    ),
    "a pickle with code": Row(
        LOOK,
        "training tiny: inference.checkpoint: other.ckpt is not a checkpoint of this pipeline (…): "
        "give the model.ckpt that its training wrote; it holds tensors and plain settings only",
        lambda it: predict_with(it, pickle.dumps({"state_dict": Code()}, protocol=2)),
    ),
    "a checkpoint of other classes": Row(
        LOOK,
        "training tiny: inference.checkpoint: other.ckpt does not predict pm of the training's "
        "`classes` and `targets`, but …: set them to what it predicts, or give another checkpoint",
        lambda it: checkpoint(it, classes=["mito", "nuc"]),
    ),
    "a checkpoint of other voxels": Row(
        LOOK,
        "training tiny: inference.checkpoint: other.ckpt was trained at [4.0, 4.0, 4.0] nm, but "
        "the "
        "training's `voxel_size` is [8.0, 8.0, 8.0]: set it to that, or give another checkpoint",
        lambda it: checkpoint(it, voxel_size=4),
    ),
    "initial weights with code": Row(
        LOOK,
        "training tiny: initial_weights: other.ckpt cannot be read as weights (…): give a "
        "checkpoint "
        "or a state dict saved by torch, of tensors and plain values only",
        lambda it: predict_with(
            it, pickle.dumps({"state_dict": Code()}, protocol=2), "initial_weights"
        ),
    ),
    "initial weights of another network": Row(
        LOOK,
        "training tiny: initial_weights: other.ckpt has 0 of this network's … weights: it belongs "
        "to "
        "another `model` than …",
        lambda it: (
            torch.save({"a": torch.zeros(3)}, it.path / "other.ckpt"),
            it.train(initial_weights="other.ckpt"),
        ),
    ),
    "a model that cannot be built": Row(
        LOOK,
        "training tiny: model: monai_unetr can't be built with … for patches of [32, 32, 32] "
        "(…): see docs/configuration.md for its options",
        lambda it: it.train(model={"architecture": "monai_unetr", "num_heads": 7}),
    ),
    # Truth and predictions made elsewhere.
    "a truth of other crops": Row(
        LOOK,
        "ground_truth: data/truth.zarr holds no array {crop}/{label} of crop3 with a label that is "
        "predicted, so nothing could be scored. …: of a multiscale label, give its s0; or set "
        "ground_truth: null",
        lambda it: (it.truth / "crop3").rename(it.truth / "crop4"),
    ),
    "predictions that are not there": Row(
        LOOK,
        "predictions.nnunet: other/a/crop3/mito does not exist, nor do 0 more of 1 labels: put "
        "them "
        "there, or name the labels that it has as `predictions: {nnunet: {path: …, classes: […]}}`",
        Folder.name_elsewhere,
    ),
    "predictions that are labels": Row(
        LOOK,
        "predictions.nnunet: …s0 is int64, but probabilities are uint8 or float from 0 to 1: "
        "convert it",
        lambda it: elsewhere(it, np.ones(CROP, np.int64)),
    ),
    "predictions of another place": Row(
        LOOK,
        "predictions.nnunet: …s0 lies at [0.0, 0.0, 0.0] nm, off the crop at [128.0, 128.0, "
        "512.0] nm"
        ": correct its translation and voxel size",
        lambda it: elsewhere(it, np.ones(CROP, np.uint8), (0, 0, 0)),
    ),
    "predictions of half a crop": Row(
        LOOK,
        "predictions.nnunet: …s0 lacks 50% of its crop (voxels [0, 0, 0] to [32, 32, 32] of [16, "
        "32, 32]): predict all of it, with 0 where nothing is known, or correct its translation "
        "and voxel size",
        lambda it: elsewhere(it, np.ones((16, 32, 32), np.uint8)),
    ),
    "logits as predictions": Row(
        LOOK,
        "s0 holds -3 to -3, but probabilities are 0 to 1 where it is float: scale it, or store it "
        "as "
        "uint8",
        lambda it: elsewhere(it, np.full(CROP, -3, np.float32)),
    ),
    "predictions averaged without the channels for it": Row(
        LOOK,
        "predictions.nnunet: other/a/crop3/mito is averaged by `method: watershed_boundary`, which "
        "training 'tiny' sets, but there is no other/a/crop3/mito_boundary beside it: put it "
        "there, leave these predictions out of the average, or set another method",
        lambda it: [
            elsewhere(it, np.ones(CROP, np.uint8)),
            it.train(postprocess={"mito": {"method": "watershed_boundary"}}),
            it.configure(submission={"select": "average"}),
        ],
    ),
}


@pytest.fixture
def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path)


def contents(folder: Path) -> dict[Path, bytes | str]:
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def pattern(says: str) -> str:
    return ".*".join(map(re.escape, says.split("…")))


def must_end(it: Folder, when: str, says: str) -> None:
    """See that a run ends then and says so, in a line that stands alone; and changes nothing."""
    before = contents(it.path)
    ended, said = said_to(it)
    assert any(re.search(pattern(says), line) for line in said.splitlines()), said
    assert ended == when, said
    assert contents(it.path) == before


def test_a_folder_with_which_all_is_well(it):
    assert said_to(it) == ("", "")


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_input_ends_in_time(it, row):
    row.spoil(it)
    must_end(it, row.when, row.says)
    assert not (it.path / "ran").exists()


def test_all_that_is_wrong_is_said_at_once(it):
    for name in ("no manifest", "tabs"):
        ROWS[name].spoil(it)
    it.train(epochs=-1)
    assert said_to(it)[0] == PARSING
    it = make_folder(it.path / "again")
    os.chdir(it.path)
    wrong = [
        "NaN in raw",
        "negative ids",
        "initial weights with code",
    ]
    for name in wrong:
        ROWS[name].spoil(it)
    _, said = said_to(it)
    assert all(re.search(pattern(ROWS[name].says), said) for name in wrong), said
    assert len(said.splitlines()) == len(wrong)


Usage = namedtuple("Usage", "total used free")
FULL = (
    "disk of …: 10 MB are free, but the run writes … at least and … at most (checkpoints …, "
    "labels …, "
    "predictions …, submission.zip …): make room, set `output` to another disk, lower "
    "`save_top_k`, or "
    "name fewer trainings, `submission.crops` or `classes`"
)
FEW_GPUS = (
    "training tiny: devices: 2 GPUs are asked for, but there are 1 here: lower it, or train on a "
    "machine with more (docs/cluster.md)"
)
NO_GPU = (
    "training tiny: devices: this machine has a GPU (…/nvidia0), but torch … cannot use it: bring "
    "its "
    "driver up to date (nvidia-smi shows it), or set CUDA_VISIBLE_DEVICES=-1 to train on the "
    "processors, which takes far longer"
)


def test_too_little_disk_for_the_plan(it, monkeypatch):
    it.train(model={"architecture": "monai_basic_unet3d"})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 99 * 10**7, 10**7))
    must_end(it, LOOK, FULL)
    # What is there already takes no more.
    (it.path / "results/tiny/training").mkdir()
    assert said_to(it) == ("", "")


def test_fewer_gpus_than_asked_for(it, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    it.train(devices=2)
    must_end(it, LOOK, FEW_GPUS)


def test_a_gpu_that_cannot_be_used(it, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "DEVICES", it.path / "dev")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (it.path / "dev").mkdir()
    (it.path / "dev/nvidia0").touch()
    must_end(it, LOOK, NO_GPU)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert said_to(it) == ("", "")


def outside(it: Folder) -> None:
    shutil.copytree(it.label(), it.path / "elsewhere")
    link(it.label(), "../../../../../../../elsewhere")


def coarse_raw(it: Folder) -> None:
    voxels = np.arange(32 * 32 * 48).astype(np.uint8).reshape(32, 32, 48)
    it.store(it.raw, voxels, Grid((16, 16, 16), (4, 4, 4), voxels.shape))


def wide_raw(it: Folder) -> None:
    it.store(it.raw, np.full(RAW.shape, 200, np.uint16), RAW)


def nearly_whole(it: Folder) -> None:
    elsewhere(it, np.ones((32, 32, 30), np.uint8))


def half_scored(it: Folder) -> None:
    elsewhere(it, np.ones(CROP, np.uint8))
    for crop in set(STARTS) - {TEST_CROP}:
        grid = RAW.box(STARTS[crop], (16, 32, 32))
        it.predict_elsewhere(np.ones(grid.shape, np.uint8), grid, crop)


WARNINGS = {
    "a link out of the data": (
        "crop1/mito is a link out of the data, to …/elsewhere: that must be there on every machine "
        "that runs jobs",
        outside,
    ),
    "a crop by no number": (
        "cropA is left out: its name is not `crop` and a number",
        lambda it: shutil.copytree(it.label().parent, it.label().parents[1] / "cropA"),
    ),
    "raw that is nearly black": (
        "s0 is uint16 but holds nothing above 200 around the crops, and 65535 counts as white: "
        "scale "
        "it, or store it as uint8",
        wide_raw,
    ),
    "raw in which nothing can be seen": (
        "a/crop1: all raw under it is 7 in …s0: nothing can be seen there; check its translation",
        lambda it: it.store(it.raw, np.full(RAW.shape, 7, np.uint8), RAW),
    ),
    "a copy that is not whole": (
        "s0 holds … labelled voxels, but its annotation counts 5,…: is the copy whole?",
        lambda it: it.store(
            it.label(),
            np.ones(CROP, np.uint8),
            RAW.box((0, 0, 0), CROP),
            cellmap={"annotation": {"complement_counts": {"absent": 32**3 - 5280}}},
        ),
    ),
    "voxels finer than the raw": (
        "training tiny: its voxels of [8.0, 8.0, 8.0] nm are finer than the raw … ([16.0, 16.0, "
        "16.0] nm), which is interpolated: that costs time and shows nothing more",
        coarse_raw,
    ),
    "a prediction that lacks a little": (
        "predictions.nnunet: …s0 lacks 6% of its crop (voxels [0, 0, 0] to [32, 32, 32] of [32, "
        "32, 30]): is its place right? Its outermost voxels stand in there",
        nearly_whole,
    ),
    "a prediction of half a crop that validates": (
        "predictions.nnunet: other/a/crop…/mito lacks 50% of a/crop…, and is scored on the rest "
        "alone: is its place right?",
        half_scored,
    ),
}


@pytest.mark.parametrize(("says", "spoil"), WARNINGS.values(), ids=WARNINGS)
def test_what_may_be_meant_is_a_warning(it, caplog, says, spoil):
    spoil(it)
    with caplog.at_level(logging.INFO):
        assert said_to(it) == ("", "")
    assert any(re.search("warning: .*" + pattern(says), line) for line in caplog.messages)
    assert re.fullmatch(r"0 problems, [1-9]\d* warnings", caplog.messages[-1])


def zip_bomb(path: Path) -> None:
    """A chunk of some kilobytes that unpacks to a quarter of a gigabyte."""
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("crop3/mito/.zarray"))
    metadata["compressor"] = Zstd().get_config()
    bomb = Zstd().encode(bytes(2**28))
    rezip(path, {"crop3/mito/.zarray": json.dumps(metadata).encode(), "crop3/mito/0.0.0": bomb})


def rezip(path: Path, changed: dict[str, bytes]) -> None:
    """Replace and add entries of a zip."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name, content in (entries | changed).items():
            new.writestr(name, content)


CHECKER = {
    "a zip bomb": (
        "crop3/mito: a chunk cannot be decoded (0.0.0: …): package the labels again",
        zip_bomb,
    ),
    "metadata that fill the memory": (
        "mito/.zarray has 100000000 bytes, far more than metadata take: package the labels again",
        lambda path: rezip(path, {"crop3/mito/.zarray": bytes(10**8)}),
    ),
    "a zip that leads out": (
        "'../crop3/x' leaves the archive: package the labels again",
        lambda path: rezip(path, {"../crop3/x": b""}),
    ),
    "a zip cut off": (
        "s.zip is not a zip file, or is cut off: package the labels again",
        truncate,
    ),
}


@pytest.mark.parametrize(("says", "spoil"), CHECKER.values(), ids=CHECKER)
def test_submissions_that_are_none(it, says, spoil):
    path = it.path / "s.zip"
    zarr.open_group(str(it.truth / "crop3"), mode="a")
    zarr.open_group(str(it.truth), mode="a")
    shutil.make_archive(str(path.with_suffix("")), "zip", it.truth)
    rows = read_manifest(it.manifest)
    spoil(path)
    before = contents(it.path)
    found = [problem for problem in check(path, rows) if problem.severity == "rejected"]
    assert any(re.search(pattern(says), str(problem)) for problem in found), found
    assert contents(it.path) == before


def test_the_table_is_long_and_in_the_docs(repo_root):
    """All messages that the docs explain are ones of the table."""
    known = {row.says for row in ROWS.values()}
    known |= {says for says, _ in [*WARNINGS.values(), *CHECKER.values()]}
    known |= {FULL, FEW_GPUS, NO_GPU}
    assert len(known) >= 40
    text = (repo_root / "docs/troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `` (.+?) `` \|", text, re.MULTILINE)
    assert len(quoted) >= 40
    for quote in quoted:
        assert any(re.search(pattern(quote), says) for says in known), quote
