import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel
from cellmap_pipeline.selection import chosen_sources, select_map, selection_table

SCORES = {
    "a": {"classes": {"mito": {"score": 0.5}, "nuc": {"score": 0.9}}},
    "b": {"classes": {"mito": {"score": 0.6}, "nuc": {"score": 0.9}}},
}
ROW = CropLabel(1, "d", "mito", Grid((8, 8, 8), (0, 0, 0), (4, 4, 4)))


def test_the_best_by_validation_score():
    assert chosen_sources("mito", ["a", "b"], "best", SCORES) == ["b"]
    assert chosen_sources("nuc", ["a", "b"], "best", SCORES) == ["a"]  # a tie
    assert chosen_sources("er", ["a"], "best", SCORES) == ["a"]  # no choice


def test_all_of_them_or_the_users():
    assert chosen_sources("mito", ["a", "b"], "average", SCORES) == ["a", "b"]
    assert chosen_sources("mito", ["a"], {"mito": "a"}, SCORES) == ["a"]
    assert chosen_sources("mito", ["a", "b"], {"nuc": "a"}, SCORES) == ["b"]


def test_nothing_to_compare_by():
    with pytest.raises(InputError, match="c has no validation score"):
        chosen_sources("mito", ["a", "c"], "best", SCORES)


def test_the_table_and_the_map_to_paste():
    table = selection_table([(ROW, ["a", "b"])], "best", SCORES)
    assert [(row["training"], row["score"], row["chosen"]) for row in table] == [
        ("a", "0.500000", "no"),
        ("b", "0.600000", "yes"),
    ]
    assert select_map(table) == "select: {mito: b}"
