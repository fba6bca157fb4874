"""The style and order of classes in figures."""

from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.classes import CLASSES, COLORS, in_class_order, style_of


def test_known_classes_have_different_styles():
    styles = [style_of(name) for name in CLASSES]
    assert len(set(CLASSES)) == len(CLASSES)
    assert len({(style.color, style.hatch) for style in styles}) == len(CLASSES)
    assert len({(style.color, style.marker) for style in styles}) == len(CLASSES)


def test_tested_classes_of_the_challenge_are_known(shared):
    lines = (shared / "data/challenge/tested_classes.csv").read_text().split()
    assert {line.split(",")[0] for line in lines} <= set(CLASSES)


@given(st.text(min_size=1))
def test_every_name_has_a_fixed_style(name):
    assert style_of(name) == style_of(name)
    assert style_of(name).color in COLORS


def test_known_classes_come_first_then_others_by_name():
    assert in_class_order(["zebra", "pm", "apple", "mito", "nuc"]) == [
        "nuc",
        "mito",
        "pm",
        "apple",
        "zebra",
    ]
