"""Fixtures of the tests of plans."""

import functools

import pytest

from tests.support.plans import two_trainings


@pytest.fixture
def plan(tmp_path):
    """Function that plans two trainings, with changes to the configuration."""
    return functools.partial(two_trainings, tmp_path)
