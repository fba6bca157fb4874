"""The style of all figures."""

import pytest

from cellmap_pipeline.classes import CLASSES, style_of
from cellmap_pipeline.report.figures.style import saved_figure, split_into_panels


def test_classes_of_a_panel_differ_in_color_hatch_and_marker():
    for panel in split_into_panels(CLASSES):
        for attribute in ("color", "hatch", "marker"):
            assert len({getattr(style_of(name), attribute) for name in panel}) == len(panel)


def test_figures_are_written_atomically_and_reproducibly(tmp_path):
    with pytest.raises(RuntimeError), saved_figure(tmp_path / "a.png", 2, 1):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for name in ("b.png", "c.png"):
        with saved_figure(tmp_path / name, 2, 1) as figure:
            figure.subplots().plot([0, 1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "c.png"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    with saved_figure(tmp_path / "d.jpg", 2, 1) as figure:
        figure.text(0.5, 0.5, "a picture")
    assert (tmp_path / "d.jpg").read_bytes().startswith(b"\xff\xd8")
