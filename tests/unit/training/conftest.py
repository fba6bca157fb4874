"""Fixtures of the tests of training."""

import pytest

from tests.support.trainings import make_datasplit


@pytest.fixture
def datasplit(tmp_path):
    """A data split with a training crop and a validation crop."""
    return make_datasplit(tmp_path)
