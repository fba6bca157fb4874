"""Messages of errors."""

import pytest

from cellmap_pipeline.errors import InputError, UnavailableError, printable


@pytest.mark.parametrize("kind", [InputError, UnavailableError])
def test_messages_have_no_control_characters(kind):
    error = kind("crop1/\x1b]0;title\x07 is not in the manifest\nsecond line")
    assert str(error) == "crop1/\\x1b]0;title\\x07 is not in the manifest\nsecond line"


def test_other_characters_stay():
    assert printable("3.48 × 4 × 4 nm³, …") == "3.48 × 4 × 4 nm³, …"
    assert printable("a\tb\ud800") == "a\\tb\\ud800"
