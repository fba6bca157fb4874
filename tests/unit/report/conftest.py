"""Fixtures of the tests of figures."""

from contextlib import contextmanager

import pytest
from matplotlib.figure import Figure

from cellmap_pipeline.report.figures import cases, crops, data, resources, scores, training


@pytest.fixture
def drawn(monkeypatch):
    """Figures that the tested code draws, kept instead of written."""
    figures = []

    @contextmanager
    def keep(path, width, height):
        figures.append(Figure((width, height), layout="constrained"))
        yield figures[-1]
        figures[-1].draw_without_rendering()

    for module in (cases, crops, data, resources, scores, training):
        monkeypatch.setattr(module, "saved_figure", keep)
    return figures
