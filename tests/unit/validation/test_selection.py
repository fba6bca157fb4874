import pytest

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.sources import named_sources
from cellmap_pipeline.validation.selection import (
    chosen_sources,
    score_entry,
    select_map,
    selection_table,
)


def entry(size, score, half=0.1):
    return {
        "voxel_size": [size] * 3, "score": score, "score_at_half": half,
        "measured_at": [size] * 3, "crops": ["d/crop1", "d/crop2"],
    }  # fmt: skip


def found(**labels):
    return {"classes": {name: {"voxel_sizes": sizes} for name, sizes in labels.items()}}


SCORES = {
    "a": found(mito=[entry(2, 0.7), entry(8, 0.5)], nuc=[entry(8, 0.9)]),
    "b": found(mito=[entry(2, 0.4), entry(8, 0.6)], nuc=[entry(8, 0.9)]),
    "c": found(nuc=[entry(8, 0.95)]),
}


def row(label="mito", size=(8, 8, 8)):
    return CropLabel(1, "d", label, Grid(size, (0, 0, 0), (4, 4, 4)))


def test_the_best_score_at_the_voxel_size_is_chosen():
    assert chosen_sources(row(), ["a", "b"], "best", SCORES) == ["b"]
    assert chosen_sources(row(size=(1.74, 2, 2)), ["a", "b"], "best", SCORES) == ["a"]
    assert chosen_sources(row("nuc"), ["a", "b"], "best", SCORES) == ["a"]  # a tie
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
    assert table[-1]["crops"] == "2" and table[-1]["score_at_half"] == "0.100000"
    assert "er at 8 8 8 nm: no source has a validation score, a is taken" in caplog.text
    wanted = "select: {er: a, mito: {'1.74 2 2': a, 8: b}, nuc: c:parts}"
    assert select_map(table) == wanted


def test_the_select_map_of_averages():
    table = selection_table([(row(), ["a", "b"])], "average", SCORES)
    assert select_map(table) == "select: {mito: [a, b]}"
