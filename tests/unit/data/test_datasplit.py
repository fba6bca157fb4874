import csv
from pathlib import Path

import numpy as np
import pytest

from cellmap_pipeline.data.datasplit import (
    DatasplitSettings,
    find_labeled_crops,
    make_crops,
    make_datasplit,
    usage_by_split,
)
from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.data.split import SplitSettings, split_crops
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from tests.support.labeled_crops import as_crops, make_labeled_crop


def write_crop(root, dataset, number, labels, voxel_size=8.0):
    recon = root / dataset / f"{dataset}.zarr" / "recon-1"
    for label, voxels in labels.items():
        grid = Grid((voxel_size,) * 3, (number * 1000.0, 0, 0), voxels.shape)
        path = recon / "labels/groundtruth" / f"crop{number}" / label
        path.parent.mkdir(parents=True, exist_ok=True)
        create(path, grid, "uint8").write(voxels).result()


def some(n):
    voxels = np.zeros((10, 10, 10), np.uint8)
    voxels.ravel()[:n] = 1
    return voxels


@pytest.fixture
def data_root(tmp_path):
    for number in range(1, 7):
        write_crop(tmp_path, "a", number, {"mito": some(100), "nuc": some(10 * number)})
    write_crop(tmp_path, "b", 7, {"mito": some(50)})
    write_crop(tmp_path, "b", 8, {"mito": some(50)}, voxel_size=32)
    return tmp_path


def parts_of(data_root):
    """Return the part of each crop in the run's split."""
    return split_crops(find_labeled_crops(data_root, []), SplitSettings())


def test_all_crops_are_found_with_all_labels_for_the_split(data_root):
    broken = data_root / "b/b.zarr/recon-1/labels/groundtruth/crop7/mito/s0/.zarray"
    broken.write_text("{")
    problems = []
    crops = find_labeled_crops(data_root, problems)
    assert [crop.name for crop in crops] == [f"a/crop{i}" for i in range(1, 7)] + ["b/crop8"]
    assert sorted(crops[0].present) == ["mito", "nuc"]
    assert len(problems) == 1 and str(broken.parent.parent) in problems[0]


def test_a_broken_chunk_costs_the_split_a_label_but_no_crop(data_root):
    chunk = data_root / "a/a.zarr/recon-1/labels/groundtruth/crop1/mito/s0/0/0/0"
    chunk.write_bytes(b"broken")
    problems = []
    crops = find_labeled_crops(data_root, problems)
    assert (crops[0].name, list(crops[0].present)) == ("a/crop1", ["nuc"])
    assert len(problems) == 1 and str(chunk.parents[2]) in problems[0]


def test_a_training_takes_its_part_of_the_split():
    crops = [make_labeled_crop(i, {"a": 1.0}) for i in (1, 2, 3)]
    parts = {"a/crop1": "train", "a/crop2": "validate", "a/crop3": "train", "a/crop4": "validate"}
    assert usage_by_split(crops, "held_out", parts, None) == ["train", "validate", "train"]
    folds = {"a/crop1": "0", "a/crop2": "1", "a/crop3": "0"}
    assert usage_by_split(crops, "folds", folds, 1) == ["train", "validate", "train"]
    assert usage_by_split(crops, "none", {}, None) == ["train"] * 3
    with pytest.raises(InputError, match=r"1 crops are not in the run's split, such as a/crop3: "):
        usage_by_split(crops, "held_out", {"a/crop1": "train", "a/crop2": "validate"}, None)
    with pytest.raises(InputError, match="`--forcerun folds` takes them up"):
        usage_by_split(crops, "folds", {"a/crop1": "0"}, 1)
    with pytest.raises(InputError, match=r"left to validate: .* uses \(2\) on the other"):
        usage_by_split([crops[0], crops[2]], "held_out", parts, None)


def test_a_crop_on_both_sides_of_an_own_split_is_refused(data_root, tmp_path):
    settings = DatasplitSettings(["mito"], (8, 8, 8))
    folder = data_root / "a/a.zarr/recon-1/labels/groundtruth"
    rows = [("train", 1), ("train", 2), ("validate", 2), ("validate", 3)]
    own = tmp_path / "own.csv"
    own.write_text("".join(f"{use},raw,{folder}/crop{n}\n" for use, n in rows))
    with pytest.raises(InputError) as error:
        make_crops(data_root, settings, own)
    assert str(error.value) == (
        f"{own}: {folder}/crop2 is listed to train and to validate, so its scores would say "
        "nothing: keep one of its rows"
    )


def test_without_validation_a_crop_has_the_classes_of_all_its_rows(data_root, tmp_path):
    crop = data_root / "a/a.zarr/recon-1/labels/groundtruth/crop2"
    own = tmp_path / "own.csv"
    own.write_text(f"train,raw,{crop}/[nuc]\nvalidate,raw,{crop}/[mito]\n")
    settings = DatasplitSettings(["mito", "nuc"], (8, 8, 8), validation="none")
    (found,) = make_crops(data_root, settings, own)
    assert list(found.present) == ["mito", "nuc"]


def test_rows_of_one_crop_are_merged_on_each_side(data_root, tmp_path):
    labels = data_root / "a/a.zarr/recon-1/labels/groundtruth"
    own, path, summary = tmp_path / "own.csv", tmp_path / "datasplit.csv", tmp_path / "summary.csv"
    rows = [("train", 1, "nuc"), ("validate", 2, "nuc"), ("train", 1, "mito")]
    rows += [("train", 3, "mito"), ("validate", 2, "mito")]
    own.write_text("".join(f"{use},raw,{labels}/crop{n}/[{c}]\n" for use, n, c in rows))
    settings = DatasplitSettings(["mito", "nuc"], (8, 8, 8))
    make_datasplit(data_root, settings, own, {}, None, path, summary)
    found = [(row.usage, row.labels.name, row.classes) for row in read_datasplit(path, None)]
    assert found == [
        ("train", "crop1", ["mito", "nuc"]),
        ("validate", "crop2", ["mito", "nuc"]),
        ("train", "crop3", ["mito"]),
    ]


def test_a_crop_may_train_with_several_raws(data_root, tmp_path):
    labels = data_root / "a/a.zarr/recon-1/labels/groundtruth"
    own = tmp_path / "own.csv"
    own.write_text("".join(f"train,{raw},{labels}/crop1\n" for raw in ("raw", "sharpened")))
    settings = DatasplitSettings(["mito"], (8, 8, 8), validation="none")
    assert [crop.raw.name for crop in make_crops(data_root, settings, own)] == ["raw", "sharpened"]


@pytest.mark.parametrize("other", ["exp2/labels.zarr/crop1", "exp2/labels.zarr/crop_1"])
def test_two_validation_crops_of_one_name_are_refused(data_root, tmp_path, other):
    settings = DatasplitSettings(["mito"], (8, 8, 8))
    own, train = tmp_path / "own.csv", data_root / "a/a.zarr/recon-1/labels/groundtruth/crop2"
    folders = [data_root / "exp1/labels.zarr/crop1", data_root / other]
    for folder in folders:
        folder.mkdir(parents=True)
        create(folder / "mito", Grid((8,) * 3, (0, 0, 0), (10,) * 3), "uint8").write(1).result()
    own.write_text(
        f"train,raw,{train}\n" + "".join(f"validate,raw,{folder}\n" for folder in folders)
    )
    with pytest.raises(InputError) as error:
        make_crops(data_root, settings, own)
    assert str(error.value) == (
        f"{own}: two crops to validate on are called labels/crop1, {folders[0]} (raw: raw) and "
        f"{folders[1]} (raw: raw), so the predictions of one would replace those of the other: "
        "rename the container, or the folder, of one of them, or remove its row"
    )
    # Training crops are not told apart by their names.
    own.write_text(own.read_text().replace("validate", "train", 1))
    assert len(make_crops(data_root, settings, own)) == 3


def test_crops_are_found_with_their_labeled_volumes(data_root):
    crops = make_crops(data_root, DatasplitSettings(["nuc", "mito"], (8, 8, 8)), None)
    assert [crop.name for crop in crops] == [f"a/crop{i}" for i in range(1, 7)] + ["b/crop7"]
    assert crops[0].present == {"nuc": 10 * 8**3, "mito": 100 * 8**3}
    assert crops[-1].present == {"mito": 50 * 8**3}


def test_a_crop_has_the_extent_of_all_its_labels(data_root):
    write_crop(data_root, "b", 9, {"mito": some(9), "nuc": np.ones((20, 12, 10), np.uint8)})
    settings = DatasplitSettings(["mito", "nuc"], (8, 8, 8), crops=[9])
    (crop,) = make_crops(data_root, settings, None)
    (same,) = [crop for crop in find_labeled_crops(data_root, []) if crop.crop == 9]
    assert crop.grid == same.grid == Grid((8, 8, 8), (9000, 0, 0), (20, 12, 10))


def test_crops_are_filtered_by_dataset_and_number(data_root):
    def names(**filters):
        crops = make_crops(data_root, DatasplitSettings(["mito"], (8, 8, 8), **filters), None)
        return [crop.crop for crop in crops]

    assert names(datasets=["b"]) == [7]
    assert names(crops=[2, 3]) == [2, 3]
    with pytest.raises(InputError, match="there is no crop 99 below .*, only 1, 2, 3, "):
        names(crops=[2, 99])
    with pytest.raises(InputError, match="no crops of elsewhere, only of a, b: "):
        names(datasets=["elsewhere"])


def test_the_error_of_a_class_without_data_lists_the_annotated_classes(data_root, tmp_path):
    write_crop(data_root, "b", 9, {"empty": some(0)})
    for label in ("golgi", "empty"):
        with pytest.raises(InputError, match=f"voxel of {label}: .* annotate: empty, mito, nuc$"):
            make_crops(data_root, DatasplitSettings(["mito", label], (8, 8, 8)), None)
    # The same holds for the crops of a user's CSV.
    labels = data_root / "a/a.zarr/recon-1/labels/groundtruth"
    own = tmp_path / "own.csv"
    own.write_text(f"train,a,{labels}/crop1\nvalidate,a,{labels}/crop2\n")
    with pytest.raises(InputError, match=r"own.csv has .* of golgi: .* annotate: mito, nuc$"):
        make_crops(data_root, DatasplitSettings(["mito", "golgi"], (8, 8, 8)), own)


def test_datasplit_is_written_in_the_format_of_the_challenge(data_root, tmp_path):
    settings = DatasplitSettings(["nuc", "mito"], (8, 8, 8))
    path, summary = tmp_path / "datasplit.csv", tmp_path / "summary.csv"
    make_datasplit(data_root, settings, None, parts_of(data_root), None, path, summary)
    rows = list(csv.reader(path.open()))
    assert {row[0] for row in rows} == {"train", "validate"}
    zarr = str(data_root / "a/a.zarr")
    assert rows[0][1:] == [
        zarr, "recon-1/em/fibsem-uint8", zarr, "recon-1/labels/groundtruth/crop1/[nuc,mito]",
    ]  # fmt: skip
    table = {row["name"]: row for row in csv.DictReader(summary.open())}
    assert int(table["mito"]["train_crops"]) + int(table["mito"]["validate_crops"]) == 7
    again = tmp_path / "again.csv"
    make_datasplit(data_root, settings, path, {}, None, again, summary)
    assert again.read_text() == path.read_text()


@pytest.mark.parametrize("relative", [True, False])
def test_raw_outside_the_zarr_keeps_its_path(data_root, tmp_path, monkeypatch, relative):
    """Raw outside the zarr keeps its path in a written datasplit; a relative one can be moved."""
    monkeypatch.chdir(data_root)
    base = Path() if relative else data_root
    recon, raw = base / "a/a.zarr/recon-1", base / "elsewhere.zarr/raw"
    own, path = tmp_path / "own.csv", tmp_path / "datasplit.csv"
    own.write_text(
        f"train,{raw},{recon}/labels/groundtruth/crop1\n"
        f"validate,{raw},{recon}/labels/groundtruth/crop2\n"
    )
    settings = DatasplitSettings(["mito"], (8, 8, 8))
    make_datasplit(data_root, settings, own, {}, None, path, tmp_path / "summary.csv")
    for row in read_datasplit(path, ["mito"]):
        assert row[1] == raw
        assert row[2].parent == recon / "labels/groundtruth"
    assert (str(data_root) in path.read_text()) != relative


def test_cellmap_data_reads_a_written_datasplit(data_root, tmp_path):
    from cellmap_data import CellMapDataSplit

    path = tmp_path / "datasplit.csv"
    settings = DatasplitSettings(["nuc", "mito"], (8, 8, 8))
    parts, summary = parts_of(data_root), tmp_path / "summary.csv"
    make_datasplit(data_root, settings, None, parts, None, path, summary)
    rows = CellMapDataSplit._parse_csv(str(path))
    ours = read_datasplit(path, settings.classes)
    assert [row["raw"] for side in rows.values() for row in side] == [
        str(raw) for side in rows for use, raw, *_ in ours if use == side
    ]


FORMS = {
    "five": """\
train,a.zarr,raw,a.zarr,"lab/crop1/[mito,er]"
validate,a.zarr,raw,a.zarr,lab/crop2/[mito]
""",
    "three": """\
train,a.zarr/raw,"a.zarr/lab/crop1/[mito,er]"
validate,a.zarr/raw,a.zarr/lab/crop2/[mito]
""",
    "header": """\
raw,label,usage
a.zarr/raw,a.zarr/lab/crop1,train
a.zarr/raw,a.zarr/lab/crop2/[mito],validate
""",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_all_forms_of_a_datasplit_are_equivalent(form, ending, start, tmp_path):
    text = start + FORMS[form].replace("\n", ending)
    (tmp_path / "d.csv").write_bytes(text.encode())
    (train, validate) = read_datasplit(tmp_path / "d.csv", ["mito"])
    assert [str(part) for part in train[:3]] == ["train", "a.zarr/raw", "a.zarr/lab/crop1"]
    assert [str(part) for part in validate[:3]] == ["validate", "a.zarr/raw", "a.zarr/lab/crop2"]
    assert train[3] == validate[3] == ["mito"]


def test_paths_may_contain_commas_and_spaces(tmp_path):
    (tmp_path / "d.csv").write_text(
        '# ours\n\ntrain, "/d/a, b.zarr",raw,"/d/a, b.zarr","lab/crop1/[er, mito]"\n'
        'validate,"/d/a, b.zarr",/n/c.n5/raw,"/d/a, b.zarr","lab/crop2/[mito]"\n'
    )
    train, validate = read_datasplit(tmp_path / "d.csv", ["mito", "er"])
    assert [str(part) for part in train[1:3]] == ["/d/a, b.zarr/raw", "/d/a, b.zarr/lab/crop1"]
    assert train[3] == ["mito", "er"]
    assert str(validate[1]) == "/n/c.n5/raw"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train,a,b\nvalidate,a\n", "line 2: 2 columns"),
        ("test,a,b\n", "line 1: usage 'test'"),
        ("\r\n# why\r\ntrain,a,b\r\nTrain,a,b\r\n", "line 4: usage 'Train'"),
        ("train,a,r,a,l/[mito,er]\n", "line 1: 6 columns"),
        ('train,a,"b/[er]"\n', r"line 1: .* but only mito"),
        (f"train,a,b\n{'x' * 200_000}\n", "line 2: not CSV"),
        ("train,a,b\n", "no row for 'validate'"),
        ("validate,a,b\n", "no row for 'train'"),
        ("", "no row for 'train'"),
    ],
)
def test_errors_name_the_line(text, message, tmp_path):
    (tmp_path / "d.csv").write_bytes(text.encode())
    with pytest.raises(InputError, match=message) as error:
        read_datasplit(tmp_path / "d.csv", ["mito"])
    assert str(error.value).startswith(str(tmp_path / "d.csv"))


def test_rows_to_validate_on_are_optional_when_told_so(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("train,a,b\n")
    assert [row.usage for row in read_datasplit(path, ["mito"], needs_validation=False)] == [
        "train"
    ]
    path.write_text("validate,a,b\n")
    with pytest.raises(InputError, match="no row for 'train': it needs crops to train on"):
        read_datasplit(path, ["mito"], needs_validation=False)


def test_unreadable_datasplits_are_refused(tmp_path, data_root):
    (tmp_path / "latin.csv").write_bytes(b"\xe9\xff")
    for lack in ("none.csv does not exist", "latin.csv line 1 is not UTF-8", "a cannot be read"):
        with pytest.raises(InputError, match=lack):
            read_datasplit(tmp_path / lack.split()[0], ["mito"])
    own = tmp_path / "own.csv"
    own.write_text("train,a,lab/crop1\nvalidate,a,lab/crop2\n")
    with pytest.raises(InputError, match="labels lab/crop1: the folder does not exist"):
        make_crops(data_root, DatasplitSettings(["mito"], (8, 8, 8)), own)


def test_crops_of_the_synthetic_challenge_are_found(mock, tmp_path):
    rows = mock.made_up_labels(part=0.04)
    mock.make_challenge(tmp_path / "data", rows)
    classes = [label for label in mock.CLASSES if any(row.label == label for row in rows)]
    made = {crop.crop: crop for crop in as_crops(mock, rows)}
    held = [c for c in classes if any(crop.present.get(c) for crop in made.values())]
    found = make_crops(tmp_path / "data", DatasplitSettings(held, (32, 32, 32)), None)
    assert len(found) == len(made)
    for crop in found:
        there = {c: n for c, n in made[crop.crop].present.items() if c in held}
        assert crop.present == pytest.approx(there)
        assert crop.grid == made[crop.crop].grid
