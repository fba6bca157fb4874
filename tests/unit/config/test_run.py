"""Values of the run configuration, and the messages about invalid ones."""

from datetime import date

import pytest

from cellmap_pipeline.config.load import parse_run
from cellmap_pipeline.errors import InputError

RUN = {"data_root": "data", "test_crops": "m.csv", "trainings": ["a"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_rot": "x"}, "config.yaml: data_rot: unknown key (did you mean 'data_root'?)"),
        ({"trainings": []}, "trainings"),
        ({"trainings": ["a", "a"]}, "lists a twice"),
        ({"trainings": "a"}, "trainings: Input should be a valid list, not 'a'"),
        ({"submission": {"crops": "some"}}, "submission.crops"),
        ({"submission": {"select": "worst"}}, "submission.select"),
        ({"predictions": {"a": "x"}}, "name of a training"),
        ({"predictions": {"b": "x/{crop}/{label}"}}, "lacks {dataset}"),
    ],
    ids=str,
)
def test_invalid_runs_are_refused(changes, message):
    with pytest.raises(InputError) as error:
        parse_run(RUN | changes, "config.yaml")
    assert str(error.value).startswith("config.yaml: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainings": ["a", "a"]}, "trainings: lists a twice"),
        ({"trainings": ["a b"]}, "trainings.0: 'a b' is not a name (letters, digits, _, -)"),
        ({"trainings": []}, "trainings: is empty: name at least one"),
        ({"trainings": None}, "trainings: has no value: give one"),
        ({"submission": None}, "submission: has no value: give one, or leave it out"),
        ({"submission": 3}, "submission: Input should be a valid dictionary, not 3"),
        (
            {"submission": {"crops": "some"}},
            "submission.crops: Input should be 'all'; or Input should be a valid list, not 'some'",
        ),
        (
            {"submission": {"select": {"mito": {"abc": "a"}}}},
            "submission.select.mito.abc: 'abc' is not a voxel size in nm, such as 8 or '3.48 4 4'",
        ),
        (
            {"submission": {"select": {"mito": {"8": "a b"}}}},
            "submission.select.mito.8: 'a b' is not a name (letters, digits, _, -)",
        ),
        ({"submission": {"select": {"mito": ["a", "a"]}}}, "submission.select.mito: lists a twice"),
        ({"submission": {"crops": []}}, "submission.crops: is empty: name at least one"),
        (
            {"scoring": {"rules": "2026-06"}},
            "scoring.rules: '2026-06' is not a set of scoring rules (did you mean '2026-07'?): "
            "choose one of 2026-06-30, 2026-07, pq",
        ),
        ({"scoring": {"rules": None}}, "scoring.rules: has no value: give one, or leave it out"),
    ],
    ids=str,
)
def test_error_of_a_run_is_one_line(changes, message):
    with pytest.raises(InputError) as error:
        parse_run(RUN | changes, "config.yaml")
    assert str(error.value) == f"config.yaml: {message}"


def test_rules_of_the_evaluator_by_name():
    assert parse_run(RUN, "config.yaml").scoring.rules == "2026-07"
    # YAML reads this name as a date.
    as_date = RUN | {"scoring": {"rules": date(2026, 6, 30)}}
    assert parse_run(as_date, "config.yaml").scoring.rules == "2026-06-30"
    assert parse_run(RUN | {"scoring": {"rules": "pq"}}, "config.yaml").scoring.rules == "pq"


def test_missing_key_is_named():
    with pytest.raises(InputError, match="config.yaml: data_root: is missing"):
        parse_run({key: value for key, value in RUN.items() if key != "data_root"}, "config.yaml")
