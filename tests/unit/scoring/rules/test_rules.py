"""Scores of distances by each set of rules."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.rules.base import DistanceScale
from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES, RULES, rules_named

UNMATCHED = np.nan


def scores(rules, distances, cap_nm=1200.0, voxel_size=(4.0, 4.0, 4.0)):
    return RULES[rules].normalize(np.array(distances, float), DistanceScale(cap_nm, voxel_size))


def test_known_scores_of_2026_06_30():
    # The diagonal of a voxel of 4 x 4 x 2 nm is 6 nm.
    found = scores("2026-06-30", [0, 6, 60, UNMATCHED], cap_nm=600, voxel_size=(2, 4, 4))
    np.testing.assert_allclose(found, [1, 1 / 1.01, 1.01**-10, 1.01**-100])


def test_known_scores_of_2026_07():
    found = scores("2026-07", [0, 100, 600, 1200, UNMATCHED])
    np.testing.assert_allclose(found, [1, 0.825404, 0.316228, 0.1, 0], atol=1e-6)


@pytest.mark.parametrize("rules", ["2026-06-30", "2026-07"])
@given(
    distances=st.lists(st.floats(0, 1), min_size=2, max_size=10),
    cap_nm=st.floats(1, 1e5),
    voxel_size=st.tuples(*[st.floats(1, 100)] * 3),
)
def test_scores_fall_with_the_distance_and_are_lowest_without_a_match(
    rules, distances, cap_nm, voxel_size
):
    ordered = cap_nm * np.sort(distances)
    found = scores(rules, [0, *ordered, cap_nm, UNMATCHED], cap_nm, voxel_size)
    assert found[0] == 1 and np.all(np.diff(found) <= 0) and found[-1] >= 0


def test_unknown_rules_are_refused():
    assert rules_named(NEWEST_RULES).name == NEWEST_RULES == "2026-07"
    message = "'2026-08' is not a set of scoring rules (did you mean '2026-07'?): choose one of "
    with pytest.raises(InputError, match=re.escape(message)):
        rules_named("2026-08")
