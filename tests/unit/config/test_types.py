"""Paths and names from a configuration."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cellmap_pipeline.config.types import MAX_NAME_CHARACTERS, LocalPath, Name


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a\0b", "cannot be printed"),
        ("a\ud800b", "cannot be printed"),
        ("a\x1b[31m", "cannot be printed"),
        ("é" * 3000, "longer than 4000 bytes"),
    ],
)
def test_paths_that_no_file_system_takes(path, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(LocalPath).validate_python(path)


def test_a_name_leaves_room_for_suffixes():
    assert TypeAdapter(Name).validate_python("a" * MAX_NAME_CHARACTERS)
    with pytest.raises(ValidationError, match="longer than 100 characters"):
        TypeAdapter(Name).validate_python("a" * (MAX_NAME_CHARACTERS + 1))


@given(st.text())
def test_a_path_is_taken_or_refused(path):
    try:
        value = TypeAdapter(LocalPath).validate_python(path)
    except ValidationError:
        return
    assert value.encode() and "\0" not in value
