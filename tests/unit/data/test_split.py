"""The run's split of all labeled crops: held-out crops and folds."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.data.split import (
    SplitSettings,
    read_earlier,
    read_split,
    split_crops,
    write_split,
)
from cellmap_pipeline.errors import InputError
from tests.support.labeled_crops import as_crops, make_labeled_crop


def usage_of(crops, settings):
    """Return the part of each crop."""
    return list(split_crops(crops, settings).values())


def test_each_class_is_on_both_sides_in_the_requested_proportion():
    rng = np.random.default_rng(0)
    crops = []
    for number in range(40):
        present = {c: float(rng.integers(1, 100)) for c in "abcdef" if rng.random() < 0.5}
        crops.append(make_labeled_crop(number, present or {"a": 1.0}, 1000.0 * number))
    settings = SplitSettings()
    usage = usage_of(crops, settings)
    for label in "abcdef":
        held = {
            side: sum(
                crop.present.get(label, 0)
                for crop, use in zip(crops, usage, strict=True)
                if use == side
            )
            for side in ("train", "validate")
        }
        assert held["train"] and held["validate"]
        assert held["validate"] / sum(held.values()) == pytest.approx(0.15, abs=0.03)
    assert usage_of(crops, settings) == usage


def test_a_class_of_a_single_crop_is_trained():
    crops = [make_labeled_crop(i, {"a": 10.0}, 1000.0 * i) for i in range(4)]
    crops[2].present["rare"] = 5.0
    usage = usage_of(crops, SplitSettings())
    assert usage[2] == "train"
    assert set(usage) == {"train", "validate"}


def datasets_of(crops_by_dataset):
    names = [name for name, n in crops_by_dataset.items() for _ in range(n)]
    return [make_labeled_crop(i, {"a": 10.0 + i}, 1000.0 * i, name) for i, name in enumerate(names)]


@pytest.mark.parametrize("seed", range(5))
def test_a_dataset_of_a_single_crop_never_validates(seed):
    crops = datasets_of({"small": 1, "other": 1, "large": 6})
    # The volumes alone would let both single crops validate.
    crops[0].present["a"] = crops[1].present["a"] = 8.0
    usage = usage_of(crops, SplitSettings(seed=seed, validation_fraction=0.15))
    assert usage[:2] == ["train", "train"] and "validate" in usage


def test_datasets_of_single_crops_can_be_split():
    crops = datasets_of({"one": 1, "two": 1, "three": 1})
    assert sorted(set(usage_of(crops, SplitSettings()))) == ["train", "validate"]


def test_datasets_with_test_crops_validate_first():
    crops = datasets_of({"tested": 3, "large": 17})
    without = SplitSettings()
    assert usage_of(crops, without)[:3] == ["train"] * 3
    usage = usage_of(crops, replace(without, test_datasets=["tested", "unlabeled"]))
    assert usage[:3].count("validate") == 1
    assert usage.count("validate") == 3


def test_the_share_of_crops_counts_as_well_as_that_of_volumes():
    crops = datasets_of({"a": 30, "b": 30})
    # Two large crops hold nearly all, so small ones cannot balance the volume of the class.
    for crop in crops:
        crop.present["a"] = 1.0 + crop.crop % 3
    crops[0].present["a"] = crops[30].present["a"] = 1000.0
    usage = usage_of(crops, SplitSettings())
    by_dataset = [usage[:30].count("validate"), usage[30:].count("validate")]
    assert 9 <= sum(by_dataset) <= 10 and min(by_dataset) >= 4


def test_overlapping_crops_stay_together():
    crops = [make_labeled_crop(i, {"a": 10.0}, 40.0 * i if i < 3 else 1000.0 * i) for i in range(8)]
    for seed in range(10):
        usage = usage_of(crops, SplitSettings(seed=seed, validation_fraction=0.4))
        assert len(set(usage[:3])) == 1


def test_one_crop_cannot_be_split():
    with pytest.raises(InputError, match="a split needs 2 labeled crops"):
        usage_of([make_labeled_crop(1, {"a": 1.0})], SplitSettings())


def test_the_synthetic_table_is_as_large_as_the_challenges(mock):
    rows = mock.made_up_labels()
    assert len(rows) == 11786
    assert len({row.crop for row in rows}) == 289
    assert len({row.dataset for row in rows}) == 22


def test_the_split_of_the_whole_challenge(mock):
    crops = [crop for crop in as_crops(mock, mock.made_up_labels()) if crop.grid.voxel_size[0] < 9]
    settings = SplitSettings()
    usage = usage_of(crops, settings)
    sides = {
        side: [crop for crop, use in zip(crops, usage, strict=True) if use == side]
        for side in ("train", "validate")
    }
    for label in mock.CLASSES:
        held = {
            side: [crop.present[label] for crop in sides[side] if crop.present.get(label)]
            for side in sides
        }
        assert held["train"] and held["validate"]
        share = sum(held["validate"]) / (sum(held["train"]) + sum(held["validate"]))
        assert share == pytest.approx(0.15, abs=0.03)
    pairs = [
        (a, b) for a in sides["train"] for b in sides["validate"]
        if a.dataset == b.dataset and a.grid.overlaps(b.grid)
    ]  # fmt: skip
    together = [
        (a, b) for a in crops for b in crops
        if a.crop < b.crop and a.dataset == b.dataset and a.grid.overlaps(b.grid)
    ]  # fmt: skip
    assert together and not pairs


@pytest.mark.parametrize(
    "settings", [SplitSettings(), SplitSettings(folds=4)], ids=["held out", "folds"]
)
def test_new_crops_move_no_others(settings):
    crops = datasets_of({"a": 12, "b": 9})
    earlier = split_crops(crops, settings)
    # They hold most of the class, so a new split would be another one.
    new = [make_labeled_crop(100 + i, {"a": 500.0}, 1e6 + 1000.0 * i, "a") for i in range(4)]
    parts = split_crops([*new, *crops], settings, earlier)
    assert {name: parts[name] for name in earlier} == earlier
    assert {crop.name for crop in new} == parts.keys() - earlier.keys()
    assert len({parts[crop.name] for crop in new}) > 1
    assert split_crops([*new, *crops], settings) != parts


def test_a_new_crop_joins_the_one_that_it_overlaps():
    crops = [make_labeled_crop(i, {"a": 10.0}, 1000.0 * i) for i in range(6)]
    earlier = split_crops(crops, SplitSettings())
    for crop in crops:
        new = make_labeled_crop(9, {"a": 10.0}, 1000.0 * crop.crop + 40)
        assert split_crops([*crops, new], SplitSettings(), earlier)["a/crop9"] == earlier[crop.name]


def test_a_new_crop_that_joins_two_sides_is_refused():
    crops = [make_labeled_crop(i, {"a": 10.0}, 120.0 * i) for i in range(2)]
    earlier = {"a/crop0": "train", "a/crop1": "validate"}
    new = make_labeled_crop(2, {"a": 10.0}, 60.0)
    with pytest.raises(InputError, match="remove the split's file to make a new one"):
        split_crops([*crops, new, make_labeled_crop(3, {"a": 1.0}, 5e3)], SplitSettings(), earlier)


@pytest.mark.parametrize("settings", [SplitSettings(0.4), SplitSettings(folds=3)])
def test_datasets_stay_whole_if_they_are_split(settings):
    crops = datasets_of({"a": 4, "b": 3, "c": 2, "d": 5, "e": 1})
    parts = split_crops(crops, replace(settings, by="dataset"))
    by_dataset = {
        name: {parts[crop.name] for crop in crops if crop.dataset == name} for name in "abcde"
    }
    assert all(len(found) == 1 for found in by_dataset.values())
    assert len(set.union(*by_dataset.values())) == (settings.folds or 2)


def test_folds_share_classes_and_datasets_equally():
    crops = datasets_of({"large": 20, "small": 5, **{f"single{i}": 1 for i in range(5)}})
    for crop in crops[::6]:
        crop.present["rare"] = 1.0
    parts = split_crops(crops, SplitSettings(folds=5))
    folds = [[crop for crop in crops if parts[crop.name] == str(fold)] for fold in range(5)]
    for fold in folds:
        assert 5 <= len(fold) <= 7
        by_dataset = Counter(crop.dataset.rstrip("01234") for crop in fold)
        assert by_dataset == {"large": 4, "small": 1, "single": 1}
        assert sum("rare" in crop.present for crop in fold) == 1


# A search among single crops takes as long as one among many.
@settings(deadline=None, max_examples=8)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    folds=st.integers(2, 5),
    seed=st.integers(0, 3),
)
def test_each_fold_of_any_crops_has_one(sizes, folds, seed):
    crops = datasets_of({f"d{i}": n for i, n in enumerate(sizes)})
    made = SplitSettings(folds=folds, seed=seed)
    if len(crops) < folds:
        with pytest.raises(InputError, match=rf"split.folds: {folds} needs {folds} labeled crops"):
            split_crops(crops, made)
        return
    parts = split_crops(crops, made)
    assert parts.keys() == {crop.name for crop in crops}
    assert set(parts.values()) == {str(fold) for fold in range(folds)}


@pytest.mark.parametrize("folds", [3, 5])
def test_no_fold_of_few_crops_is_empty(folds):
    # A choice with classes on both sides would take several crops for the first fold.
    classes = ["ab", "ab", "cd", "cd", "e", "e"][: folds + 1]
    crops = [
        make_labeled_crop(i, {c: 10.0**i for c in of_crop}, 1000.0 * i)
        for i, of_crop in enumerate(classes)
    ]
    parts = split_crops(crops, SplitSettings(validation_fraction=None, folds=folds))
    assert set(parts.values()) == {str(fold) for fold in range(folds)}


def test_a_written_split_is_kept_under_the_same_settings_only(tmp_path):
    path, settings = tmp_path / "split.csv", SplitSettings(seed=3)
    assert read_earlier(path, settings) == {}
    parts = {"a/crop1": "train", "b-2/crop10": "validate"}
    write_split(path, parts, settings)
    assert read_split(path) == read_earlier(path, settings) == parts
    # More test datasets change which crops would be held out first, but move none.
    assert read_earlier(path, replace(settings, test_datasets=["a"])) == parts
    for change in ({"seed": 4}, {"by": "dataset"}, {"validation_fraction": 0.2}, {"folds": 2}):
        assert read_earlier(path, replace(settings, **change)) == {}


def test_a_part_that_is_none_is_refused(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("dataset,crop,part\na,1,Validate\n")
    with pytest.raises(InputError, match="'Validate', the part of a/crop1, is neither train nor"):
        read_split(path)


@pytest.mark.parametrize("text", ["", "# x\n", "dataset,crop\na,1\n", "dataset,crop,part\na,1\n"])
def test_a_file_that_is_no_split_is_refused(tmp_path, text):
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="has other columns than dataset,crop,part: remove it"):
        read_split(path)
