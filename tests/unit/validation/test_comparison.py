import itertools

import numpy as np
import pytest

from cellmap_pipeline.scoring.rules.base import Counts
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.validation import comparison

JULY = RULES["2026-07"]


def crops(*ious, first=1):
    """Make counts of crops of 100 voxels, none of them too much."""
    return {f"d/crop{i}": Counts(iou, 0, 100 - iou) for i, iou in enumerate(ious, first)}


def compare(rules=JULY, instance=False, **counts):
    return comparison.compare(counts, rules, instance)


def test_only_shared_crops_are_compared():
    """On its own crops, a is better."""
    found = compare(a=crops(50, 60, 40, 100, 100), b=crops(60, 70, 50) | crops(0, 0, first=9))
    assert found.n_crops == 3
    assert found.scores == {"a": 0.5, "b": 0.6}
    assert found.best == "b" and found.contenders == ["b"] and not found.is_open
    assert found.errors == {"a": pytest.approx(0)}


def test_the_standard_error_is_that_of_the_mean_difference_between_crops():
    rng = np.random.default_rng(0)
    differences = rng.integers(-20, 20, 30)
    found = compare(a=crops(*[50] * 30), b=crops(*(50 - differences).tolist()))
    worse = "b" if found.best == "a" else "a"
    expected = np.std(differences / 100, ddof=1) / 30**0.5
    assert found.errors == {worse: pytest.approx(expected, rel=0.1)}


@pytest.mark.parametrize(("lead", "is_open"), [(4, True), (20, False)])
def test_noise_makes_a_choice_open(lead, is_open):
    noise = [20, -20, 15, -15, 10, -10, 5, -5]
    worse = crops(*(50 + v for v in noise))
    found = compare(a=worse, b=crops(*[50 + lead] * 8), c=crops(*[5] * 8))
    assert found.best == "b"
    assert found.is_open is is_open
    assert found.contenders == (["a", "b"] if is_open else ["b"])


@pytest.mark.parametrize("rules", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("instance", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_identical_sources_are_open(rules, instance, n):
    rng = np.random.default_rng(n)
    numbers = rng.integers(0, 9, (n, 3)).tolist()
    same = {f"d/crop{i}": Counts(t, p, 1 + f, t / 3) for i, (t, p, f) in enumerate(numbers)}
    found = compare(rules, instance, a=same, b=dict(same))
    assert found.is_open and found.best == "a" and found.contenders == ["a", "b"]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_sources_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    sources = {name: crops(*rng.integers(30, 80, 12).tolist()) for name in "abc"}
    results = [
        compare(**{name: sources[name] for name in order})
        for order in itertools.permutations("abc")
    ]
    for found in results:
        assert found.best == results[0].best and found.is_open == results[0].is_open
        assert found.errors == results[0].errors and found.scores == results[0].scores
        assert set(found.contenders) == set(results[0].contenders)


def test_an_error_is_unknown_for_few_crops_with_the_label():
    """Only a large difference keeps a source out of the average."""
    empty = {f"d/crop{i}": Counts(0, i % 2, 0) for i in range(10, 30)}
    near, far = crops(80, 60), crops(20, 30)
    found = compare(a=crops(90, 60) | empty, b=near | empty, c=far | empty)
    assert found.n_crops == 22 and found.errors == {} and found.is_open
    assert found.contenders == ["a", "b"]
    found = compare(a=crops(90, 60), c=far)
    assert found.is_open and found.contenders == ["a"]


def test_sources_without_a_shared_crop_with_the_label_keep_their_own_scores():
    empty = {"d/crop50": Counts(0, 0, 0)}
    found = compare(a=crops(60, 70) | empty, b=crops(80, 80, first=5) | empty)
    assert found.n_crops == 0 and found.errors == {}
    assert found.scores == {"a": 0.65, "b": 0.8}
    assert found.best == "b" and found.is_open and found.contenders == ["a", "b"]
    found = compare(a=crops(20, 10), b=crops(80, 80, first=5))
    assert found.contenders == ["b"]


def test_a_single_source_is_not_open():
    found = compare(a=crops(20))
    assert not found.is_open and found.contenders == ["a"]
