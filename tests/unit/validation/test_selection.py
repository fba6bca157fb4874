import pytest

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.sources import named_sources
from cellmap_pipeline.validation import selection
from cellmap_pipeline.validation.selection import (
    choose,
    score_entry,
    select_and_segment,
    select_map,
    selection_table,
)


def entry(size, score, auxiliary=(), crops=4, first=1):
    """Make the result of an instance label with this score in each of several crops."""
    counts = {"tp": 100, "fp": 0, "fn": 0, "hausdorff_norm_sum": 100 * score**2}
    names = [f"d/crop{n}" for n in range(first, first + crops)]
    return {
        "voxel_size": [size] * 3, "score": score, "score_at_half": 0.1, "measured_at": [size] * 3,
        "crops": names, "auxiliary": list(auxiliary),
        "by_crop": dict.fromkeys(names, counts),
    }  # fmt: skip


def found(**labels):
    classes = {name: {"voxel_sizes": sizes} for name, sizes in labels.items()}
    return {"rules": "2026-07", "classes": classes}


SCORES = {
    "a": found(mito=[entry(2, 0.7), entry(8, 0.5)], nuc=[entry(8, 0.9)]),
    "b": found(mito=[entry(2, 0.4), entry(8, 0.6)], nuc=[entry(8, 0.9, ["boundary"])]),
    "c": found(nuc=[entry(8, 0.95)]),
}


def chosen_sources(*args):
    return choose(*args).sources


def row(label="mito", size=(8, 8, 8)):
    return CropLabel(1, "d", label, Grid(size, (0, 0, 0), (4, 4, 4)))


def test_the_best_score_at_the_voxel_size_is_chosen():
    assert chosen_sources(row(), ["a", "b"], "best", SCORES) == ["b"]
    assert chosen_sources(row(size=(1.74, 2, 2)), ["a", "b"], "best", SCORES) == ["a"]
    assert chosen_sources(row("nuc"), ["a", "b"], "best", SCORES) == ["a"]  # other channels
    assert chosen_sources(row("nuc"), ["a", "c:parts"], "best", SCORES) == ["c:parts"]
    assert chosen_sources(row("er"), ["a"], "best", SCORES) == ["a"]  # no choice
    assert score_entry(row(size=(1.74, 2, 2)), "a", SCORES)["score"] == 0.7


def test_sources_without_a_score_lose():
    assert chosen_sources(row(), ["c", "b"], "best", SCORES) == ["b"]
    assert chosen_sources(row("er"), ["c", "b"], "best", SCORES) == ["c"]


def test_all_sources_or_the_configured_ones():
    assert chosen_sources(row(), ["a", "b"], "average", SCORES) == ["a", "b"]
    assert chosen_sources(row(), ["a"], {"mito": "a"}, SCORES) == ["a"]
    assert chosen_sources(row(), ["a", "c"], {"mito": ["a", "c"]}, SCORES) == ["a", "c"]
    assert chosen_sources(row(), ["a", "b"], {"nuc": "a"}, SCORES) == ["b"]


def test_an_open_choice_takes_the_average_of_those_that_may_be_best():
    entries = {"a": entry(8, 0.4), "b": entry(8, 0.9), "c:parts": entry(8, 0.5), "d": entry(8, 0.9)}
    scores = {name.removesuffix(":parts"): found(nuc=[one]) for name, one in entries.items()}
    choice = choose(row("nuc"), list(entries), "best", scores)
    assert choice.sources == ["b", "d"] and choice.comparison.is_open
    assert choice.tuned_for == ["b", "b", "d"]
    # Channels that only one of them has could not be averaged.
    entries["d"]["auxiliary"] = ["boundary"]
    choice = choose(row("nuc"), list(entries), "best", scores)
    assert choice.sources == choice.tuned_for == ["b"] and choice.comparison.is_open
    # Sources that are clearly worse may have any.
    entries["a"]["auxiliary"], entries["d"]["auxiliary"] = ["distance"], []
    assert chosen_sources(row("nuc"), list(entries), "best", scores) == ["b", "d"]


def test_labels_are_made_from_the_chosen_sources_with_the_settings_of_the_best(monkeypatch):
    made = []
    monkeypatch.setattr(selection, "segment_crop", lambda *args: made.append(args))
    noisy, other = entry(8, 0.97), entry(8, 0.75)
    noisy["by_crop"] |= {name: other["by_crop"][name] for name in other["crops"][::2]}
    scores = {"a": found(nuc=[noisy]), "b": found(nuc=[entry(8, 0.89)])}
    tuned = {
        name: {"nuc": [{"voxel_size": [8] * 3, "settings": {"threshold": threshold}}]}
        for name, threshold in (("a", 0.3), ("b", 0.6))
    }
    choice = choose(row("nuc"), ["a", "b"], "best", scores)
    assert choice.sources == ["a", "b"] and choice.comparison.best == "b"
    select_and_segment(
        row("nuc"), predictions={"a": ["A"], "b": ["B"]}, select="best", scores=scores, tuned=tuned,
        configured={"a": {"min_size_nm3": 5}}, output=None,
    )  # fmt: skip
    ((_, predictions, settings, configured, *_),) = made
    assert predictions == [["A"], ["B"]]
    assert settings == {"threshold": 0.6} and configured == {"min_size_nm3": 5}


def test_the_table_says_on_how_many_crops_and_how_surely(caplog):
    scores = {
        "a": found(nuc=[entry(8, 0.5, crops=6)]),
        "b": found(nuc=[entry(8, 0.9, crops=6, first=3)]),
        "c": {"rules": "2026-07", "classes": {}},
    }
    a, b, c = selection_table([(row("nuc"), ["a", "b", "c"])], "best", scores)
    columns = ("shared_crops", "shared_score", "standard_error", "open", "chosen")
    assert [a[name] for name in columns] == ["4", "0.500000", "0.000000", "no", "no"]
    assert [b[name] for name in columns] == ["4", "0.900000", "", "no", "yes"]
    assert [c[name] for name in columns] == ["", "", "", "", "no"]
    assert list(a) == selection.COLUMNS and caplog.text == ""
    scores["b"] = found(nuc=[entry(8, 0.9, first=30)])
    table = selection_table([(row("nuc"), ["a", "b"])], "best", scores)
    assert [one["shared_crops"] for one in table] == ["0", "0"]
    assert [one["open"] for one in table] == ["yes", "yes"]
    assert [one["chosen"] for one in table] == ["no", "yes"]
    assert "nuc at 8 8 8 nm: a, b share no validation crop with the label" in caplog.text


@pytest.mark.parametrize(
    ("size", "names"),
    [((1.74, 2, 2), ["a"]), ((8, 8, 8), ["a", "b"]), ((3.48, 4, 4), ["c"]), ((32, 32, 32), [])],
)
def test_a_choice_by_voxel_size(size, names):
    select = {"mito": {"2": "a", "8": ["a", "b"], "3.48 4 4": "c"}}
    assert named_sources(row(size=size), select) == names
    assert named_sources(row("nuc", size), select) == []
    assert named_sources(row(size=size), "best") == []


def test_the_table_and_the_select_map(caplog):
    rows = [
        (row(), ["a", "b"]), (row(size=(1.74, 2, 2)), ["a", "b"]), (row("nuc"), ["c:parts"]),
        (row("er"), ["a", "b"]),
    ]  # fmt: skip
    table = selection_table(rows, "best", SCORES)
    lines = [
        (r["label"], r["voxel_size"], r["training"], r["score"], r["measured_at"], r["chosen"])
        for r in table
    ]
    assert lines == [
        ("er", "8 8 8", "a", "", "", "yes"),
        ("er", "8 8 8", "b", "", "", "no"),
        ("mito", "1.74 2 2", "a", "0.700000", "2 2 2", "yes"),
        ("mito", "1.74 2 2", "b", "0.400000", "2 2 2", "no"),
        ("mito", "8 8 8", "a", "0.500000", "8 8 8", "no"),
        ("mito", "8 8 8", "b", "0.600000", "8 8 8", "yes"),
        ("nuc", "8 8 8", "c:parts", "0.950000", "8 8 8", "yes"),
    ]
    assert table[-1]["crops"] == "4" and table[-1]["score_at_half"] == "0.100000"
    assert "er at 8 8 8 nm: no source has a validation score, a is taken" in caplog.text
    wanted = "select: {er: a, mito: {'1.74 2 2': a, 8: b}, nuc: c:parts}"
    assert select_map(table) == wanted


def test_the_select_map_of_averages():
    table = selection_table([(row(), ["a", "b"])], "average", SCORES)
    assert select_map(table) == "select: {mito: [a, b]}"


def test_a_source_without_validation_does_not_hide_the_scores_of_others():
    choice = choose(row("nuc"), ["full", "a", "b"], "best", SCORES)
    assert "full" not in choice.sources and set(choice.sources) <= {"a", "b"}
