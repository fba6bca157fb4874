"""Errors in the metadata and chunks of volumes: ``check_inputs`` finds each."""

from pathlib import Path

import pytest

from tests.support.spoiled import (
    CHECK,
    Row,
    assert_refused,
    change_array,
    change_axes,
    change_scale,
    change_translation,
    edit,
    rewrite,
    truncate,
)

CHUNK = "s0/0/0/0"


def reverse_axes(volume: Path) -> None:
    """Reverse the order of the axes in the metadata of a volume."""
    edit(volume / ".zattrs", lambda a: a["multiscales"][0]["axes"].reverse())


ROWS = {
    "a missing level": Row(
        CHECK,
        "fibsem-uint8: none of its levels is present (s0: [8.0, 8.0, 8.0] nm): fetch the one that "
        "is needed (docs/fetching.md)",
        lambda folder: (folder.raw / "s0/.zarray").unlink(),
    ),
    "files with a dot not copied": Row(
        CHECK,
        "crop1/mito is not a volume: it has neither .zattrs nor .zarray nor zarr.json. Copy or "
        "fetch it again, with files whose names begin with a dot",
        lambda folder: (folder.label() / ".zattrs").unlink(),
    ),
    "no `multiscales`": Row(
        CHECK,
        "fibsem-uint8/.zattrs is not OME-NGFF 0.4 or 0.5 multiscale metadata (`multiscales`: Field "
        "required): a volume needs `multiscales` with axes z, y, x and a scale per dataset, "
        "or is one array with `voxel_size` and `translation`",
        lambda folder: (folder.raw / ".zattrs").write_text("{}"),
    ),
    "axes in another order": Row(
        CHECK,
        "fibsem-uint8/.zattrs: axes are ['x', 'y', 'z'], but must be ['z', 'y', 'x']: write the "
        "volume again with one channel and its axes in that order",
        lambda folder: reverse_axes(folder.raw),
    ),
    "an unknown unit": Row(
        CHECK,
        "fibsem-uint8/.zattrs: its axes are in parsec, but must all be in one of nanometer, …",
        lambda folder: change_axes(folder.raw, unit="parsec"),
    ),
    "a negative scale": Row(
        CHECK,
        "fibsem-uint8/.zattrs is not OME-NGFF 0.4 or 0.5 multiscale metadata (`multiscales.0."
        "datasets.0.coordinateTransformations.0.scale.scale.0`: Input should be greater than 0)",
        lambda folder: change_scale(folder.raw, [-8.0, 8.0, 8.0]),
    ),
    "a scale of zero": Row(
        CHECK,
        "mito/.zattrs is not OME-NGFF 0.4 or 0.5 multiscale metadata (`multiscales.0."
        "datasets.0.coordinateTransformations.0.scale.scale.0`: Input should be greater than 0)",
        lambda folder: change_scale(folder.label(), [0.0, 8.0, 8.0]),
    ),
    "empty metadata": Row(
        CHECK,
        "fibsem-uint8/.zattrs is empty: copy or fetch it again, or write the volume again",
        lambda folder: (folder.raw / ".zattrs").write_text(""),
    ),
    "truncated metadata": Row(
        CHECK,
        "fibsem-uint8/.zattrs is not JSON (…): copy or fetch it again, or write the volume again",
        lambda folder: truncate(folder.raw / ".zattrs"),
    ),
    "metadata that are not UTF-8": Row(
        CHECK,
        "s0/.zarray is not UTF-8 text: copy or fetch it again",
        lambda folder: (folder.raw / "s0/.zarray").write_bytes(b"\xff\xfe{}"),
    ),
    "zarr 3 without attributes": Row(
        CHECK,
        "crop1/mito/zarr.json is not OME-NGFF 0.4 or 0.5 multiscale metadata (`multiscales`: …",
        lambda folder: (folder.label() / ".zattrs").rename(folder.label() / "zarr.json"),
    ),
    "a level outside its volume": Row(
        CHECK,
        "fibsem-uint8/.zattrs is not OME-NGFF 0.4 or 0.5 multiscale metadata (`multiscales.0."
        "datasets.0.path`: the level '../../s0' lies outside the volume)",
        lambda folder: rewrite(folder.raw / ".zattrs", '"s0"', '"../../s0"'),
    ),
    "chunks that fill the memory": Row(
        CHECK,
        "s0/.zarray does not say how the array is stored (a chunk of [99999, 99999, "
        "99999] voxels is more than 2 GiB): copy it again, or write the array again as zarr 2",
        lambda folder: change_array(folder.raw / "s0", chunks=[99999] * 3),
    ),
    "an implausibly large label": Row(
        CHECK,
        "s0: its shape [9999999, 9999999, 9999999] is larger than any crop: check its metadata",
        lambda folder: change_array(folder.label() / "s0", shape=[9999999] * 3),
    ),
    "an unknown compression": Row(
        CHECK,
        "s0 cannot be opened (…): copy or fetch it again, or write it again as zarr 2 with a "
        "common compressor",
        lambda folder: change_array(folder.raw / "s0", compressor={"id": "zfp"}),
    ),
    "a broken chunk": Row(
        CHECK,
        "s0: cannot read voxels [0, 0, 0] to [32, 32, 32] (…): copy or fetch it again",
        lambda folder: (folder.raw / CHUNK).write_bytes(b"no chunk" * 100),
    ),
    "truncated chunks": Row(
        CHECK,
        "s0: cannot read voxels … (…): copy or fetch it again; 3 more chunks are broken",
        lambda folder: [truncate(folder.raw / f"s0/0/{y}/{x}") for y in (0, 1) for x in (0, 1)],
    ),
    "an empty chunk": Row(
        CHECK,
        "s0: cannot read voxels [0, 0, 0] to [32, 32, 32] (…): copy or fetch it again",
        lambda folder: truncate(folder.raw / CHUNK, 0),
    ),
    "a broken chunk of a label": Row(
        CHECK,
        "crop1/mito/s0: cannot read voxels … (…): copy or fetch it again",
        lambda folder: truncate(folder.label() / CHUNK),
    ),
    "missing raw": Row(
        CHECK,
        "a/crop1: …s0: 1 chunks of raw are missing around voxels …: fetch the raw of this crop "
        "at [8.0, 8.0, 8.0] nm (docs/fetching.md)",
        lambda folder: (folder.raw / CHUNK).unlink(),
    ),
    "a test crop outside its volume": Row(
        CHECK,
        "test crop 3: …s0: voxels [1250, 0, 0] to [1282, 32, 32] lie outside the volume of [64, "
        "64, 96] voxels: check the crop's translation",
        lambda folder: folder.row(translation="[10000;0;0]"),
    ),
    "labels outside their volume": Row(
        CHECK,
        "a/crop1: …s0: voxels [-1250, 0, 0] to … lie outside the volume of …: check the crop's "
        "translation",
        lambda folder: [
            change_translation(folder.label(name), [-10000, 0, 0]) for name in ("mito", "pm")
        ],
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_volumes_are_refused(folder, row):
    assert_refused(folder, row)
