"""Metadata of groups: what real volumes state is read, anything else is named with its key."""

import json

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats.n5 import stored_n5_grids
from cellmap_pipeline.io.formats.ngff import declared_levels, multiscale_metadata, stored_grids

GRID = Grid((8, 4, 4), (30, 20, 10), (16, 16, 16))
NGFF = {"multiscales": [multiscale_metadata("x", [GRID])]}
TRANSFORM = {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "scale": [8, 4, 4],
             "translate": [30, 20, 10]}  # fmt: skip
# As COSEM's n5 volumes have it.
N5 = {
    "axes": ["x", "y", "z"],
    "multiscales": [{"datasets": [{"path": "s0", "transform": TRANSFORM}], "name": "raw"}],
    "n5": "2.0.0",
    "pixelResolution": {"dimensions": [4.0, 4.0, 8.0], "unit": "pixel"},
    "scales": [[1, 1, 1]],
    "units": ["nm", "nm", "nm"],
}
DATASET = ("multiscales", 0, "datasets", 0)
STEPS = (*DATASET, "coordinateTransformations")


def replaced(stored, place, value):
    """Copy JSON with another value at a place; `...` removes it."""
    copy = json.loads(json.dumps(stored))
    *path, last = place
    target = copy
    for key in path:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return copy


def test_members_that_are_not_read_may_be_anything():
    more = NGFF | {"omero": 7, "multiscales": [*NGFF["multiscales"], {"axes": 7}]}
    more["multiscales"][0] = NGFF["multiscales"][0] | {"name": None, "metadata": [1], "type": 2}
    (level,) = declared_levels(more, "f")
    assert (level.path, level.voxel_size, level.translation) == ("s0", (8, 4, 4), (30, 20, 10))


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        (("multiscales",), {}, "`multiscales`"),
        (("multiscales",), [], "`multiscales`"),
        (("multiscales", 0), None, "`multiscales.0`"),
        (("multiscales", 0, "axes"), ..., "`multiscales.0.axes`"),
        (("multiscales", 0, "axes"), ["z"] * 9, "`multiscales.0.axes`"),
        (("multiscales", 0, "axes", 1), 7, "`multiscales.0.axes.1.Axis`"),
        (("multiscales", 0, "axes", 1, "name"), "y" * 33, "`multiscales.0.axes.1.Axis.name`"),
        (("multiscales", 0, "axes", 1, "unit"), ["nm"], "`multiscales.0.axes.1.Axis.unit`"),
        (("multiscales", 0, "datasets"), NGFF["multiscales"] * 65, "`multiscales.0.datasets`"),
        ((*DATASET, "path"), 0, "`multiscales.0.datasets.0.path`"),
        ((*DATASET, "path"), "/s0", "`multiscales.0.datasets.0.path`: the level '/s0' lies outs"),
        ((*DATASET, "path"), "a/../../b", "`multiscales.0.datasets.0.path`: the level"),
        ((*DATASET, "path"), "a\0", "`multiscales.0.datasets.0.path`: it is no path"),
        ((*DATASET, "path"), "a" * 1025, "`multiscales.0.datasets.0.path`"),
        (STEPS, ..., "`multiscales.0.datasets.0.coordinateTransformations`: Field required"),
        (STEPS, [], "`multiscales.0.datasets.0`: `coordinateTransformations` have no scale"),
        ((*STEPS, 0, "type"), "rotation", "`multiscales.0.datasets.0.coordinateTransformations.0`"),
        ((*STEPS, 0, "scale"), [4, 4], r"coordinateTransformations.0.scale.scale`"),
        ((*STEPS, 0, "scale", 1), 0, "coordinateTransformations.0.scale.scale.1`"),
        ((*STEPS, 0, "scale", 1), True, "coordinateTransformations.0.scale.scale.1`"),
        ((*STEPS, 0, "scale", 1), "4", "coordinateTransformations.0.scale.scale.1`"),
        ((*STEPS, 0, "scale", 1), 1e300, "coordinateTransformations.0.scale.scale.1`"),
        ((*STEPS, 0, "scale", 1), 10**400, "coordinateTransformations.0.scale.scale.1`"),
        ((*STEPS, 0, "scale", 1), float("nan"), "coordinateTransformations.0.scale.scale.1`"),
        ((*STEPS, 1, "translation", 2), 1e308, "coordinateTransformations.1.translation.tra"),
        ((*STEPS, 1, "translation", 2), float("-inf"), "coordinateTransformations.1.transl"),
        (("multiscales", 0, "coordinateTransformations"), [{"type": "identity"}],
         "`multiscales.0.coordinateTransformations.0`"),
    ],
)  # fmt: skip
def test_ngff_is_strict(place, value, key):
    with pytest.raises(InputError, match=key.replace("(", r"\(")) as error:
        declared_levels(replaced(NGFF, place, value), "x/.zattrs")
    assert str(error.value).startswith("x/.zattrs ") and "\0" not in str(error.value)


@pytest.mark.parametrize("voxel_size", [[4, 4], [4, 4, 0], "444", [4, 4, 1e16], None])
def test_attributes_of_an_array_are_strict(voxel_size, tmp_path):
    (tmp_path / ".zarray").write_text('{"shape": [4, 4, 4]}')
    attributes = {"voxel_size": voxel_size, "translation": [0, 0, 0]}
    with pytest.raises(InputError, match=r"\.zattrs must hold .* \(`voxel_size"):
        stored_grids(tmp_path, attributes, "zarr")


@pytest.fixture
def n5(tmp_path):
    (tmp_path / "s0").mkdir()
    (tmp_path / "s0/attributes.json").write_text('{"dimensions": [16, 16, 16]}')
    return tmp_path


def test_n5_groups_of_cosem_are_read(n5):
    assert [level.grid for level in stored_n5_grids(n5, N5)] == [GRID]


@pytest.mark.parametrize(
    "members",
    [
        # As BigStitcher has it in groups.
        {"downsamplingFactors": [[1, 1, 1], [2, 2, 2]]},
        {"scales": None},
        {"multiscales": [N5["multiscales"][0] | {"axes": None, "coordinateTransformations": None}]},
    ],
)
def test_members_of_n5_groups_that_say_nothing_are_left_out(n5, members):
    assert [level.grid for level in stored_n5_grids(n5, N5 | members)] == [GRID]


def test_n5_groups_without_multiscales_have_resolutions(n5):
    group = {"multiscales": None, "pixelResolution": [4, 4, 8], "scales": [[1, 1, 1]]}
    (level,) = stored_n5_grids(n5, group)
    assert level.grid == Grid((8, 4, 4), (0, 0, 0), (16, 16, 16))


def test_a_transform_takes_precedence_over_resolutions(n5):
    array = {"dimensions": [16] * 3, "transform": TRANSFORM, "pixelResolution": [0, 0, 0]}
    (n5 / "s0/attributes.json").write_text(json.dumps(array | {"downsamplingFactors": [2]}))
    assert [level.grid for level in stored_n5_grids(n5, N5)] == [GRID]


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        (("multiscales",), {}, "`multiscales`"),
        (("multiscales", 0), "s0", "`multiscales.0`"),
        ((*DATASET, "path"), "../s0", "`multiscales.0.datasets.0.path`: the level"),
        ((*DATASET, "transform", "axes"), ["z", "y"], "datasets.0.transform.axes`: they are"),
        ((*DATASET, "transform", "axes"), ["z", "y", "y"], "datasets.0.transform.axes`: they are"),
        ((*DATASET, "transform", "units"), ["nm", "nm"], "datasets.0.transform`: `units` must"),
        ((*DATASET, "transform", "units", 0), "inch", "transform.units.0`: 'inch' is none of"),
        ((*DATASET, "transform", "scale", 0), -8, "datasets.0.transform.scale.0`"),
        ((*DATASET, "transform", "translate", 0), 1e308, "datasets.0.transform.translate.0`"),
        ((*DATASET, "transform"), 7, "`multiscales.0.datasets.0.transform`"),
        ((*DATASET, "transform"), ..., "`pixelResolution.unit`: 'pixel' is no unit of length"),
        ((*DATASET, "coordinateTransformations"), [{"type": "scale", "scale": [1] * 3}],
         "`axes`: they are"),
        (("scales",), [[1, 1]], "`scales.0`"),
        (("scales",), [[1, 1, 1]] * 65, "`scales`"),
        (("scales", 0, 1), 0, "`scales.0.1`"),
        (("pixelResolution", "dimensions", 2), float("inf"), "`pixelResolution.PixelResolution."),
        (("pixelResolution",), [4, 4], "`pixelResolution"),
    ],
)  # fmt: skip
def test_n5_is_strict(n5, place, value, key):
    with pytest.raises(InputError) as error:
        stored_n5_grids(n5, replaced(N5, place, value))
    assert str(error.value).startswith(f"{n5}/attributes.json does not say where") and key in str(
        error.value
    )


@pytest.mark.parametrize(
    "array",
    [
        {"dimensions": [16] * 2},
        {"dimensions": ["16"] * 3},
        {"dimensions": None},
        {"transform": TRANSFORM},
        {"dimensions": [16] * 3, "downsamplingFactors": [2, 0, 2]},
    ],
)
def test_n5_arrays_are_strict(n5, array):
    (n5 / "s0/attributes.json").write_text(json.dumps(array))
    with pytest.raises(InputError, match="attributes.json does not say where the voxels lie"):
        stored_n5_grids(n5, N5)
