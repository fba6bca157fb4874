"""Output to terminals that cannot show every character."""

import io
import sys

import pytest

from cellmap_pipeline.run.terminal import replace_unprintable


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "4 x 4 um..., {path: ...}, ?"), ("utf-8", "4 × 4 µm…, {path: …}, 神")],
)
def test_characters_that_the_encoding_lacks_are_replaced(monkeypatch, name, encoding, shown):
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding)
    monkeypatch.setattr(sys, name, stream)
    replace_unprintable()
    print("4 × 4 µm…, {path: …}, 神", end="", file=stream, flush=True)
    assert content.getvalue().decode(encoding) == shown


def test_streams_of_notebooks_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    replace_unprintable()
    print("µm", end="")
    assert sys.stdout.getvalue() == "µm"
