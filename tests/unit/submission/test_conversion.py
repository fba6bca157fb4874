"""Conversion of labels and predictions to the submission's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.submission import conversion
from cellmap_pipeline.submission.check import check
from cellmap_pipeline.submission.package import package
from tests.support import hostile
from tests.support.fuzz import bounded

GRID = Grid((8, 8, 8), (804, 160, 320), (70, 12, 10))


def converted(
    tmp_path: Path,
    label: str,
    voxels: NDArray[Any],
    source: Grid = GRID,
    attributes: dict[str, Any] | None = None,
) -> NDArray[Any]:
    """Package a label that must be converted, and read its voxels back."""
    row = CropLabel(7, "a-1", label, GRID)
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    path = folder / "a-1" / "crop7" / label
    array = zarr.open(str(path), mode="w", shape=voxels.shape, dtype=voxels.dtype, chunks=(64,) * 3)
    array[:] = voxels
    array.attrs.update(voxel_size=source.voxel_size, translation=source.translation)
    array.attrs.update(attributes or {})
    result = package(folder, [row], folder / "s.zip")
    assert result["converted"] == [f"crop7/{label}"]
    assert check(folder / "s.zip", [row]) == []
    with zarr.ZipStore(str(folder / "s.zip"), mode="r") as store:
        return zarr.open_group(store, mode="r")[f"crop7/{label}"][:]


def mark(kind: str) -> dict[str, Any]:
    return {"cellmap_pipeline": {"kind": kind}}


def ramp(highest: float, dtype: str) -> NDArray[Any]:
    return np.broadcast_to(np.linspace(0, highest, 70)[:, None, None], GRID.shape).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "highest", "packed"),
    [("i8", 200, "u1"), ("i4", 300, "u2"), ("i8", 70_000, "u4"), ("i8", 2**40, "u8"),
     ("f4", 300, "u2"), ("bool", 1, "u1")],
)  # fmt: skip
def test_ids_get_the_smallest_unsigned_type(
    tmp_path: Path, dtype: str, highest: int, packed: str
) -> None:
    voxels = np.zeros(GRID.shape, dtype)
    voxels[66:] = highest
    result = converted(tmp_path, "mito", voxels)
    assert result.dtype == packed
    np.testing.assert_array_equal(result, voxels.astype("i8"))


def test_masks_of_any_value_become_0_and_1(tmp_path: Path) -> None:
    inside = ramp(1, "f8") > 0.3
    for voxels in (inside, inside.astype("u1") * 255, inside.astype("i4"), inside.astype("f4")):
        result = converted(tmp_path, "er", voxels)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, inside)


def test_probabilities_are_thresholded_at_one_half(tmp_path: Path) -> None:
    for voxels, expected in (
        (ramp(255, "u1"), ramp(255, "u1") >= 128),
        (ramp(65535, "u2"), ramp(65535, "u2") >= 32768),
    ):
        for label in ("er", "mito"):
            result = converted(tmp_path, label, voxels, attributes=mark("probability"))
            assert result.dtype == np.uint8
            np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(converted(tmp_path, "er", ramp(1, "f4")), ramp(1, "f4") > 0.5)


def test_probabilities_in_signed_integers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its probabilities are int16, but must be floats"):
        converted(tmp_path, "er", ramp(255, "i2"), attributes=mark("probability"))


def test_ids_of_a_finer_grid_are_resampled_by_overlap(tmp_path: Path) -> None:
    # Objects of whole voxels, and single fine voxels that are at most an eighth of one.
    fine = GRID.at((4, 4, 4))
    z, y, x = np.indices(fine.shape) // 10
    voxels = (z * 10 + y) * 10 + x
    expected = voxels[::2, ::2, ::2].copy()
    voxels[1::20, 1::20, 1::20] = 7
    np.testing.assert_array_equal(converted(tmp_path, "mito", voxels, fine), expected)


def test_masks_of_a_coarser_grid_are_interpolated(tmp_path: Path) -> None:
    coarse = GRID.at((16, 16, 16))
    voxels = np.zeros(coarse.shape, "u1")
    voxels[10:] = 1
    expected = np.zeros(GRID.shape)
    expected[20:] = 1
    np.testing.assert_array_equal(converted(tmp_path, "er", voxels, coarse), expected)


@pytest.mark.parametrize("label", ["er", "mito"])
def test_voxels_outside_the_stored_extent_are_background(tmp_path: Path, label: str) -> None:
    smaller = GRID.box((5, -2, 1), (30, 20, 4))
    result = converted(tmp_path, label, np.ones(smaller.shape, "u1"), smaller)
    expected = np.zeros(GRID.shape)
    expected[5:35, :, 1:5] = 1
    np.testing.assert_array_equal(result, expected)


def test_level_with_the_closest_voxel_size_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a-1" / "crop7" / "mito"
    create(path, GRID.at((4, 4, 4)), "uint8")
    create(tmp_path / "other", GRID, "uint8").write(ramp(9, "u1")).result()
    (tmp_path / "other" / "s0").rename(path / "s1")
    group = zarr.open_group(str(path))
    levels = group.attrs["multiscales"]
    scale = [{"type": "scale", "scale": [8, 8, 8]}]
    translation = [{"type": "translation", "translation": list(GRID.translation)}]
    levels[0]["datasets"].append({"path": "s1", "coordinateTransformations": scale + translation})
    group.attrs["multiscales"] = levels
    row = CropLabel(7, "a-1", "mito", GRID)
    assert package(tmp_path / "in", [row], tmp_path / "s.zip")["copied"] == ["crop7/mito"]
    with zarr.ZipStore(str(tmp_path / "s.zip"), mode="r") as store:
        packed = zarr.open_group(store, mode="r")["crop7/mito"][:]
    np.testing.assert_array_equal(packed, ramp(9, "u1"))


def test_unknown_voxels_become_background(tmp_path: Path) -> None:
    encoding = {"absent": 0, "present": 1, "unknown": 255}
    attributes = {"cellmap": {"annotation": {"annotation_type": {"encoding": encoding}}}}
    voxels = np.ones(GRID.shape, "u1")
    voxels[5:] = 255
    for label in ("er", "mito"):
        result = converted(tmp_path, label, voxels, attributes=attributes)
        np.testing.assert_array_equal(result, voxels == 1)


@pytest.mark.parametrize(
    ("label", "voxels", "kind", "message"),
    [
        ("mito", ramp(3, "f4"), None, "ids that are not whole numbers"),
        ("mito", ramp(3, "i4") - 1, None, "ids that are not whole numbers"),
        ("mito", np.full(GRID.shape, np.nan), None, "ids that are not whole numbers"),
        ("mito", np.full(GRID.shape, np.inf), None, "ids that are not whole numbers"),
        ("er", ramp(200, "u1"), None, "is a semantic class, but holds the values"),
        ("er", ramp(200, "i2"), None, "is a semantic class, but holds the values"),
        ("er", ramp(4, "f4") - 2, None, "apply the sigmoid"),
        ("er", np.full(GRID.shape, np.nan), None, "apply the sigmoid"),
        ("er", ramp(1, "u1"), "logits", "must be 'labels' or 'probability'"),
    ],
)
def test_implausible_values_are_refused(
    tmp_path: Path, label: str, voxels: NDArray[Any], kind: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        converted(tmp_path, label, voxels, attributes=mark(kind) if kind else None)
    assert f"a-1/crop7/{label}" in str(error.value)
    assert not list(tmp_path.rglob("*.zip"))


def test_labels_outside_the_crop_are_refused(tmp_path: Path) -> None:
    outside = GRID.box((500, 0, 0), GRID.shape)
    with pytest.raises(InputError, match="does not overlap crop 7"):
        converted(tmp_path, "er", np.ones(GRID.shape, "u1"), outside)


def test_error_for_a_broken_chunk_names_the_array(tmp_path: Path) -> None:
    row = CropLabel(7, "a-1", "er", GRID)
    path = tmp_path / "in" / "a-1" / "crop7" / "er"
    create(path, GRID, "uint8").write(np.ones(GRID.shape, "u1")).result()
    (path / "s0" / "1" / "0" / "0").write_bytes(b"broken")
    with pytest.raises(InputError, match="crop7/er/s0: cannot read voxels"):
        package(tmp_path / "in", [row], tmp_path / "s.zip")


@pytest.mark.parametrize(
    ("shape", "chunks", "voxel_size", "message"),
    [
        (
            [2**31, 16, 16],
            [8, 8, 8],
            [1e-6, 4, 4],
            "voxels of .* nm in crop 1, which has 4,096",
        ),
        (
            [4096, 16, 16],
            [1, 1, 1],
            [4 / 256, 4, 4],
            "chunks of .* above the limit of 1,000",
        ),
    ],
)
@pytest.mark.parametrize("label", ["er", "mito"])
def test_far_too_many_voxels_or_chunks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str, shape: list[int],
    chunks: list[int], voxel_size: list[float], message: str,
) -> None:  # fmt: skip
    """They would take hours, and gigabytes for the names of chunks."""
    monkeypatch.setattr(conversion, "MAX_FEW_CHUNKS", 1000)
    path = tmp_path / "in/a-1/crop1" / label
    path.mkdir(parents=True)
    array = hostile.ZARRAY | {"shape": shape, "chunks": chunks}
    (path / ".zarray").write_text(json.dumps(array))
    (path / ".zattrs").write_text(json.dumps(hostile.ZATTRS | {"voxel_size": voxel_size}))
    rows = [row for row in hostile.MANIFEST if row.label == label]
    with bounded(), pytest.raises(InputError, match=message):
        package(tmp_path / "in", rows, tmp_path / "s.zip")
