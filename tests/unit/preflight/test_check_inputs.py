"""Results of check_inputs for valid and nearly valid data; `test_bad_data` has other errors."""

import json
import logging
import shutil

import numpy as np
import pytest

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES
from cellmap_pipeline.config.load import parse_run
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.storage import ABSENT_FILE
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.preflight import chunks
from cellmap_pipeline.preflight.check_inputs import check_inputs
from tests.support.runs import TINY
from tests.support.spoiled import CHECK, CROP, RAW, STARTS, TEST_CROP, check_run


@pytest.fixture
def data(small_data, tmp_path):
    """A copy of the small demo data that a test may change."""
    return shutil.copytree(small_data, tmp_path / "data")


def look(data, changes=None, rows=None, **config):
    training = Training.model_validate(TINY | {"classes": ["mito", "pm"]} | (changes or {}))
    manifest = data / "test_crop_manifest.csv"
    rows = rows or [row for row in read_manifest(manifest) if row.label == "mito"]
    keys = {"data_root": str(data), "test_crops": str(manifest), "trainings": ["a"]}
    keys["output"] = str(data.parent / "results")
    run = parse_run(keys | config, "config")
    return check_inputs(Plan(run, {"a": training}, rows, manifest), threads=2)


def test_labels_of_each_crop_are_listed(data):
    found = look(data, ground_truth=str(data / "ground_truth.zarr"))
    assert found["a"]["demo_cell-1/crop1"] == ["mito", "pm"]
    assert sorted(found["a"]) == [
        f"demo_cell-{i}/crop{j}" for i, j in ((1, 1), (1, 2), (2, 3), (2, 4))
    ]


def test_number_of_decoded_chunks_is_logged(data, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        look(data)
    raw = next(line for line in caplog.messages if line.startswith("raw: "))
    decoded, here = raw.removeprefix("raw: ").split(" chunks")[0].split(" of ")
    assert decoded == here and int(here) > 30
    assert raw.endswith("chunks of 2 arrays decoded, 0 broken")
    assert caplog.messages[-1] == "0 problems, 0 warnings"
    # Above the limit, an evenly spread part of the chunks is decoded.
    monkeypatch.setattr(chunks, "MAX_DECODED_VOXELS", 10 * chunks.MIN_CHUNK_COST_VOXELS)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        look(data)
    raw = next(line for line in caplog.messages if line.startswith("raw: "))
    decoded = raw.removeprefix("raw: ").split(" of ")[0]
    assert 2 <= int(decoded) < int(here) / 2


def test_multiscale_ground_truth_is_refused(data):
    groups = next(data.glob("demo_cell-1/*.zarr/recon-1/labels/groundtruth"))
    crop = next(groups.glob("crop*"))
    grid = read_manifest(data / "test_crop_manifest.csv")[0].grid
    rows = [CropLabel(int(crop.name[4:]), "demo_cell-1", "mito", grid)]
    with pytest.raises(InputError, match=rf"ground_truth: .* no array .* of {crop.name} .* s0"):
        look(data, rows=rows, ground_truth=str(groups))


def test_all_crops_without_raw_are_reported_at_once(data):
    for level in data.glob("demo_cell-*/*.zarr/recon-1/em/fibsem-uint8/s*"):
        for chunk in level.rglob("*"):
            if chunk.is_file() and not chunk.name.startswith("."):
                chunk.unlink()
    with pytest.raises(InputError) as error:
        look(data)
    lines = str(error.value).splitlines()
    for crop in ("demo_cell-1/crop1", "demo_cell-2/crop4", "test crop 5", "test crop 6"):
        assert sum(line.startswith(crop) and "raw are missing" in line for line in lines) == 1


def test_absent_levels_are_reported_with_the_advice_to_fetch_them(data):
    levels = [
        next(data.glob("demo_cell-1/*/*/em/fibsem-uint8")) / "s0",
        next(data.glob("demo_cell-1/*/*/labels/*/crop1/mito")) / "s0",
    ]
    for level in levels:
        (level / ".zarray").unlink()
    with pytest.raises(InputError) as error:
        look(data)
    for level in levels:
        assert str(level.parent) in str(error.value)
    assert "s0: [8.0, 8.0, 8.0] nm" in str(error.value) and "fetch" in str(error.value)


def test_unreadable_labels_are_reported_at_once(data):
    broken = sorted(data.glob("demo_cell-*/*/*/labels/*/crop*/mito"))[:2]
    (broken[0] / ".zattrs").write_text("{")
    for array in broken[1].glob("s*/.zarray"):
        array.unlink()
    with pytest.raises(InputError) as error:
        look(data)
    first, second = sorted(str(error.value).splitlines())
    assert first.startswith(f"training a: {broken[0]}/.zattrs is not JSON")
    assert second.startswith(f"training a: {broken[1]}: none of its levels is present")
    assert "docs/fetching.md" in second


def own_split(data, tmp_path, sides):
    """Write a data split of the crops of the first dataset, by number and side."""
    (dataset,) = data.glob("demo_cell-1/*.zarr")
    rows = [
        f"{side},{dataset}/recon-1/em/fibsem-uint8,"
        f'"{dataset}/recon-1/labels/groundtruth/crop{number}/[mito,pm]"\n'
        for number, side in sides.items()
    ]
    (tmp_path / "own.csv").write_text("".join(rows))
    return {"datasplit": str(tmp_path / "own.csv")}


def test_two_validation_crops_of_one_name_are_refused(data, tmp_path):
    split = own_split(data, tmp_path, {1: "train", 2: "validate"})
    (labels,) = data.glob("demo_cell-1/*.zarr/recon-1/labels/groundtruth/crop2")
    other = shutil.copytree(labels, tmp_path / "other/demo_cell-1.zarr/crop2")
    own = tmp_path / "own.csv"
    last = own.read_text().splitlines()[-1]
    own.write_text(own.read_text() + last.replace(str(labels), str(other)) + "\n")
    with pytest.raises(InputError, match="crops to validate on are called demo_cell-1/crop2, "):
        look(data, split)


def test_rows_of_one_validation_crop_count_as_one(data, tmp_path):
    split = own_split(data, tmp_path, {1: "train", 2: "validate"})
    own = tmp_path / "own.csv"
    train, validate = own.read_text().splitlines()
    rows = [train, *(validate.replace("mito,pm", label) for label in ("pm", "mito"))]
    own.write_text("\n".join(rows) + "\n")
    assert look(data, split)["a"]["demo_cell-1/crop2"] == ["mito", "pm"]


def without_voxels(data, number, *labels):
    """Empty labels of a crop of the first dataset."""
    for label in labels:
        (place,) = data.glob(f"demo_cell-1/*.zarr/recon-1/labels/groundtruth/crop{number}/{label}")
        (level, *_) = Volume.open(place).levels
        create(place, level.grid, "uint8").write(np.zeros(level.grid.shape, "u1")).result()


def test_a_class_of_one_dataset_need_not_validate_if_datasets_stay_whole(data, caplog):
    for number in (1, 2):
        without_voxels(data, number, "mito")
    with caplog.at_level(logging.INFO):
        look(data, split={"by": "dataset"})
    assert "no crop that validates has a labeled voxel of mito, so nothing shows" in caplog.text


def test_weights_of_a_network_that_saw_the_validation_crops_are_refused(data, caplog):
    manifest = data / "test_crop_manifest.csv"
    rows = [row for row in read_manifest(manifest) if row.label == "mito"]
    output = data.parent / "results"
    config = {"data_root": str(data), "test_crops": str(manifest), "output": str(output)}
    run = parse_run(config | {"trainings": ["a", "b"], "split": {"folds": 2}}, "config")

    def check(first, path):
        a = Training.model_validate(TINY | {"classes": ["mito", "pm"], "validation": first})
        changes = {"classes": ["mito", "pm"], "initial_weights": f"{output}/a/{path}"}
        b = Training.model_validate(TINY | changes)
        check_inputs(Plan(run, {"a": a, "b": b}, rows, manifest), threads=2)

    check("held_out", "model.ckpt")
    message = r"^training b: initial_weights: 'a' trains on 1 of .* 'b', such as demo_cell-"
    with pytest.raises(InputError, match=message):
        check("none", "../a/model.ckpt")


def test_sides_of_a_split_that_lack_a_class(data, tmp_path, caplog):
    split = own_split(data, tmp_path, {1: "train", 2: "validate"})
    without_voxels(data, 2, "mito")
    with caplog.at_level(logging.INFO):
        look(data, split)
    assert "no crop that validates has a labeled voxel of mito, so nothing shows" in caplog.text
    without_voxels(data, 2, "pm")
    with caplog.at_level(logging.INFO):
        look(data, split)
    assert "of any class, so the validation loss decides which epoch is best" in caplog.text
    split = own_split(data, tmp_path, {2: "train", 1: "validate"})
    with pytest.raises(InputError) as error:
        look(data, split)
    assert "training a: no crop that trains has a labeled voxel of mito, pm: move" in str(
        error.value
    )


def test_unreadable_rows_of_a_custom_datasplit_are_reported_at_once(data, tmp_path):
    raw = next(data.glob("demo_cell-1/*/*/em/fibsem-uint8"))
    own = tmp_path / "own.csv"
    own.write_text(f"train,{raw},{data}/none/crop1\nvalidate,{raw},{data}/none/crop2\n")
    with pytest.raises(InputError) as error:
        look(data, {"datasplit": str(own)})
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    for i, line in enumerate(lines, 1):
        assert line.startswith(f"training a: labels {data}/none/crop{i}: the folder does not exist")


def test_labels_without_chunks_are_background(data):
    """Chunks of background are not stored."""
    labels = list(data.glob("demo_cell-*/*/*/labels/*/crop*/pm"))
    for label in labels[1:]:
        for level in label.glob("s*"):
            (level / ".zattrs").write_text("{}")
        for chunk in label.glob("s*/*/*/*"):
            chunk.unlink()
    assert look(data)["a"]["demo_cell-1/crop1"] == ["mito", "pm"]


def test_finer_level_replaces_an_absent_one(data):
    for volume in (
        next(data.glob("demo_cell-1/*/*/em/fibsem-uint8")),
        next(data.glob("demo_cell-1/*/*/labels/*/crop1/mito")),
    ):
        (volume / "s1/.zarray").unlink()
    assert "demo_cell-1/crop1" in look(data, {"voxel_size": 16})["a"]


def test_raw_that_the_source_lacks_is_an_error_only_if_all_of_a_crop_is_missing(data):
    for recon in data.glob("demo_cell-1/*/recon-1"):
        array = recon / "em/fibsem-uint8/s0"
        separator = json.loads((array / ".zarray").read_text()).get("dimension_separator", ".")
        here = [p for p in array.rglob("*") if p.is_file() and not p.name.startswith(".")]
        names = [str(path.relative_to(array)) for path in here]
        assert len(names) > 1 and separator in names[0]
        here[0].unlink()
        (array / ABSENT_FILE).write_text(json.dumps(names))
        assert "demo_cell-1/crop1" in look(data)["a"]
        for path in here[1:]:
            path.unlink()
    with pytest.raises(InputError, match="demo_cell-1/crop1: .*the source has no raw at voxels"):
        look(data)


def crop_grid(crop=TEST_CROP):
    return RAW.box(STARTS[crop], CROP)


def predict(folder, grid, value=200, dtype=np.uint8, **where):
    folder.write_predictions(np.full(grid.shape, value, dtype), grid, **where)


def warned(caplog):
    return [line for line in caplog.messages if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("start", "shape", "ends"),
    [
        ((-1, -1, -1), (10, 10, 10), ""),
        ((0, 0, 0), (7, 8, 8), CHECK),
        ((0, 0, 0), (8, 8, 4), CHECK),
    ],
    ids=["larger than the crop", "one of eight planes lacks", "half of each row lacks"],
)
def test_coarser_predictions_must_cover_the_crop(folder, start, shape, ends):
    predict(folder, crop_grid().at((32, 32, 32)).box(start, shape))
    assert check_run(folder)[0] == ends


def test_coarser_prediction_may_end_within_a_voxel_of_the_border(folder, caplog):
    """The borders of coarse voxels do not coincide with those of the crop."""
    coarse = crop_grid().at((40, 40, 40)).box((0, 0, 0), (6, 6, 6))
    assert not coarse.covers(crop_grid())
    predict(folder, coarse)
    with caplog.at_level(logging.INFO):
        assert check_run(folder) == ("", "")
    assert not warned(caplog)
    # The same holds for predictions of validation crops, which are scored.
    split(folder)
    predict(folder, crop_grid(VALIDATES).at((40, 40, 40)).box((0, 0, 0), (6, 6, 6)), crop=VALIDATES)
    with caplog.at_level(logging.INFO):
        assert check_run(folder) == ("", "")
    assert not warned(caplog)


SUFFIXES = [suffix for suffixes in AUXILIARY_SUFFIXES.values() for suffix in suffixes]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("start", "value", "says"),
    [
        ((0, 0, 0), np.nan, "contains NaN"),
        (
            (0, 0, 0),
            200,
            "has values from 200 to 200, but probabilities",
        ),
        ((16, 0, 0), 1, "does not cover 50% of its crop"),
        ((0, 40, 0), 1, "does not overlap the crop"),
    ],
    ids=["nan", "percentages", "half of the crop", "beside the crop"],
)
def test_bad_auxiliary_channels_are_refused(folder, suffix, start, value, says):
    predict(folder, crop_grid())
    grid = crop_grid().box(start, CROP)
    predict(folder, grid, value, np.float32, channel="mito" + suffix)
    when, said = check_run(folder)
    assert when == CHECK and len(said.splitlines()) == 1
    assert f"other/a/crop3/mito{suffix}/s0 " in said and says in said


def test_valid_auxiliary_channels_are_accepted(folder, caplog):
    for suffix in ["", *SUFFIXES]:
        predict(folder, crop_grid(), channel="mito" + suffix)
    with caplog.at_level(logging.INFO):
        assert check_run(folder) == ("", "")
    assert "predictions: 6 of 6 chunks of 6 arrays decoded, 0 broken" in caplog.messages


TRAINS, VALIDATES = 1, 2


@pytest.fixture
def scored(folder):
    """A folder with external predictions of the test crop and a custom datasplit."""
    predict(folder, crop_grid())
    split(folder)
    return folder


def split(folder, annotated="mito,pm"):
    rows = {"train": (TRAINS, "mito,pm"), "validate": (VALIDATES, annotated)}
    lines = [
        f'{usage},{folder.raw},"{folder.label(crop=crop).parent}/[{labels}]"\n'
        for usage, (crop, labels) in rows.items()
    ]
    (folder.path / "own.csv").write_text("".join(lines))
    folder.configure_training(datasplit="own.csv")


@pytest.mark.parametrize("channel", ["mito", "mito_boundary"])
@pytest.mark.parametrize(
    ("start", "value", "dtype", "says"),
    [
        ((0, 0, 0), np.nan, np.float32, "contains NaN"),
        (
            (0, 0, 0),
            200,
            np.float32,
            "has values from 200 to 200, but probabilities",
        ),
        ((0, 0, 0), 1, np.int64, "is int64, but probabilities are"),
        ((0, 40, 0), 1, np.uint8, "does not overlap the crop"),
    ],
    ids=["nan", "percentages", "int64", "beside the crop"],
)
def test_bad_predictions_of_validation_crops_are_refused(
    scored, channel, start, value, dtype, says
):
    predict(scored, crop_grid(VALIDATES), crop=VALIDATES)
    grid = crop_grid(VALIDATES).box(start, CROP)
    predict(scored, grid, value, dtype, crop=VALIDATES, channel=channel)
    when, said = check_run(scored)
    assert when == CHECK and len(said.splitlines()) == 1
    assert f"other/a/crop{VALIDATES}/{channel}/s0 " in said and says in said


def test_prediction_of_a_validation_crop_that_is_no_volume_is_refused(scored):
    (scored.path / f"other/a/crop{VALIDATES}/mito").mkdir(parents=True)
    when, said = check_run(scored)
    assert when == CHECK and said.startswith(
        f"predictions.nnunet: other/a/crop{VALIDATES}/mito is not a volume"
    )


def test_validation_crops_may_be_predicted_in_part(scored, caplog):
    """They are scored in the predicted part, which all channels of the label must cover."""
    half = crop_grid(VALIDATES).box((0, 0, 0), (16, 32, 32))
    predict(scored, half, crop=VALIDATES)
    with caplog.at_level(logging.INFO):
        assert check_run(scored) == ("", "")
    (line,) = warned(caplog)
    assert f"other/a/crop{VALIDATES}/mito does not cover 50% of a/crop{VALIDATES}" in line
    predict(scored, half, crop=VALIDATES, channel="mito_boundary")
    assert check_run(scored) == ("", "")
    quarter = half.box((0, 16, 0), (16, 16, 32))
    predict(scored, quarter, crop=VALIDATES, channel="mito_boundary")
    when, said = check_run(scored)
    assert when == CHECK and "mito_boundary/s0 does not cover 50% of its crop" in said


def test_predictions_that_validation_does_not_read_are_not_checked(scored):
    """It reads no training crops, no labels that its crops lack, and no absent predictions."""
    assert check_run(scored) == ("", "")
    predict(scored, crop_grid(TRAINS), np.nan, np.float32, crop=TRAINS)
    assert check_run(scored) == ("", "")
    predict(scored, crop_grid(VALIDATES), np.nan, np.float32, crop=VALIDATES)
    assert check_run(scored)[0] == CHECK
    split(scored, annotated="pm")
    assert check_run(scored) == ("", "")
