"""Settings of segmentation methods: defaults, checks and search spaces."""

import subprocess
import sys

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.segmentation.method_settings import (
    check_settings,
    complete,
    defaults,
    methods_for,
    search_spaces,
    settings_reference,
)
from cellmap_pipeline.segmentation.methods import METHODS


def test_methods_import_no_numerical_library():
    code = (
        "import sys, cellmap_pipeline.segmentation.methods;"
        "print([m for m in ('numpy', 'scipy', 'cc3d', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("label", "settings", "message"),
    [
        ("mito", {"threshhold": 0.5}, "unknown key 'threshhold' (known: method, threshold"),
        ("mito", {"threshold": 1.5}, "postprocess.mito: threshold must be a number from 0 to 1"),
        ("mito", {"threshold": True}, "not True"),
        ("mito", {"threshold": None}, "not None"),
        ("mito", {"threshold": float("nan")}, "not nan"),
        ("mito", {"min_size_nm3": -1}, "min_size_nm3"),
        ("mito", {"fill_holes": 1}, "fill_holes must be true or false, not 1"),
        ("mito", {"method": "threshold"}, "'threshold' is none of connected_components"),
        ("mito", {"method": ["x"]}, "method"),
        ("er", {"method": "connected_components"}, "none of threshold"),
        ("er", {"neck": 0.5}, "unknown key 'neck'"),
        ("mito", {"neck": 0.5}, "neck belongs to the method watershed_distance"),
        ("mito", {"method": "connected_components", "neck": 0.5}, "watershed_distance"),
    ],
    ids=[
        "unknown key", "above the range", "boolean for a number", "null", "nan", "negative size",
        "number for a boolean", "method of semantic classes", "list as method",
        "method of instance classes", "key of instance classes", "key of another method",
        "key of another method than the one that is set",
    ],
)  # fmt: skip
def test_invalid_settings_are_named(label, settings, message):
    with pytest.raises(InputError) as error:
        check_settings(label, settings)
    assert message in str(error.value)


def test_numbers_in_text_are_converted():
    assert check_settings("mito", {"min_size_nm3": "1e6"}) == {"min_size_nm3": 1e6}


def test_defaults_and_the_best_usable_method_are_added():
    assert complete("er", {"threshold": 0.3}, []) == defaults("threshold") | {"threshold": 0.3}
    for predicted, method in (
        ([], "connected_components"),
        (["boundary", "affinities"], "watershed_boundary"),
        (["distance"], "watershed_learned_distance"),
        (["affinities"], "watershed_affinities"),
    ):
        assert complete("mito", {}, predicted)["method"] == method
    with pytest.raises(InputError, match="mito_boundary .*targets: {mito: .boundary.}"):
        complete("mito", {"method": "watershed_boundary"}, ["distance"])
    with pytest.raises(InputError, match="mito_affinity_z and mito_affinity_y and mito_affinity_x"):
        complete("mito", {"method": "mutex_watershed"}, [])


@pytest.mark.parametrize("label", ["er", "mito"])
@pytest.mark.parametrize(
    "predicted",
    [[], ["boundary"], ["distance", "affinities"]],
    ids=lambda kinds: " and ".join(kinds) or "no auxiliary channels",
)
def test_search_spaces_are_valid_and_ascending(label, predicted):
    spaces = search_spaces(label, predicted, (3.48, 4, 4))
    lacking = {name for name, m in METHODS.items() if m.auxiliary not in {None, *predicted}}
    assert set(spaces) == set(methods_for(label)) - lacking
    for method, space in spaces.items():
        assert set(space) == set(METHODS[method].settings_model.model_fields)
        for name, values in space.items():
            assert values == sorted(values)
            for value in values:
                assert check_settings(label, {"method": method, name: value})[name] == value


@pytest.mark.parametrize("method", list(METHODS))
def test_defaults_are_in_range_and_documented(method):
    label = "mito" if method in methods_for("mito") else "er"
    assert check_settings(label, defaults(method)) == defaults(method)
    table = "\n".join(settings_reference())
    for name, field in METHODS[method].settings_model.model_fields.items():
        assert f"`{name}`" in table and field.description and field.description in table
