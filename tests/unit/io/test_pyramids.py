"""Positions of levels for which the metadata state none, or contradicting ones."""

import json
import shutil

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats.ngff import multiscale_metadata
from cellmap_pipeline.io.pyramids import misplaced_level
from cellmap_pipeline.io.volumes import Volume, create, create_levels

FINE = Grid((4, 4, 4), (10, 20, 30), (48, 40, 44))
COARSE = FINE.at((8, 8, 8))


def write(path, fine, coarse, translation=FINE.translation):
    """Write a volume of two levels, the coarse one at `translation`; None: none has one."""
    grids = [FINE, Grid(COARSE.voxel_size, translation or (0, 0, 0), COARSE.shape)]
    for i, (grid, voxels) in enumerate(zip(grids, (fine, coarse), strict=True)):
        create(path / f"{i}", grid, voxels.dtype.name, chunk=16).write(voxels).result()
        (path / f"{i}/s0").rename(path / f"s{i}")
    multiscale = multiscale_metadata("", grids)
    if translation is None:
        for dataset in multiscale["datasets"]:
            del dataset["coordinateTransformations"][1]
    (path / ".zattrs").write_text(json.dumps({"multiscales": [multiscale]}))
    return Volume.open(path)


def raw():
    noise = np.random.default_rng(0).normal(size=FINE.shape)
    return (128 + 40 * noise).clip(0, 255).astype(np.uint8)


def means(voxels):
    z, y, x = (n // 2 for n in voxels.shape)
    return np.round(voxels.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))).astype(voxels.dtype)


def mask():
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=FINE.shape), 2)
    return (smooth > 0.02).astype(np.uint8)


def objects():
    return np.random.default_rng(0).integers(0, 5, COARSE.shape).repeat(2, 0).repeat(2, 1).repeat(
        2, 2
    ).astype(np.uint16)  # fmt: skip


EDGES, CENTERS = COARSE.translation, FINE.translation
CASES = {
    "means": (raw(), means(raw()), EDGES, "its voxels are means of others"),
    "every other voxel": (raw(), raw()[::2, ::2, ::2], CENTERS, ""),
    "every other voxel of a mask": (mask(), mask()[::2, ::2, ::2], CENTERS, ""),
    "blocks of ids": (objects(), objects()[::2, ::2, ::2], None, "its voxels do not show"),
    "nothing to see": (np.full(FINE.shape, 7, "u1"), np.full(COARSE.shape, 7, "u1"), EDGES,
                       "its voxels do not show"),
    "unlike each other": (raw(), raw()[-24:, -20:, -22:], EDGES, "its voxels do not show"),
}  # fmt: skip


@pytest.mark.parametrize(("fine", "coarse", "expected", "assumption"), CASES.values(), ids=CASES)
def test_position_of_a_coarser_level_is_found_by_comparing_voxels(
    fine, coarse, expected, assumption, tmp_path
):
    volume = write(tmp_path, fine, coarse)
    if expected:
        assert volume.levels[1].grid.translation == expected
    assert assumption in volume.assumption and bool(assumption) == bool(volume.assumption)


def test_levels_without_translations_are_placed_by_their_voxels(tmp_path):
    volume = write(tmp_path, raw(), means(raw()), translation=None)
    assert [level.grid.translation for level in volume.levels] == [(0, 0, 0), (2, 2, 2)]
    # The mean of voxels is read at their center.
    part = Grid((8, 8, 8), (18, 18, 18), (4, 4, 4))
    expected = means(raw())[2:6, 2:6, 2:6] / np.float32(255)
    np.testing.assert_allclose(volume.read_raw(part), expected, rtol=1e-6)


def test_stated_positions_are_kept(tmp_path):
    volume = write(tmp_path, raw(), raw()[::2, ::2, ::2], EDGES)
    assert volume.levels[1].grid == COARSE and not volume.assumption


def test_missing_chunks_are_not_compared(tmp_path):
    write(tmp_path / "whole", raw(), raw()[::2, ::2, ::2])
    for chunk in (tmp_path / "whole/s0").glob("*/*/*"):
        chunk.unlink()
    (tmp_path / "whole").rename(tmp_path / "partial")
    volume = Volume.open(tmp_path / "partial")
    assert volume.levels[1].grid.translation == EDGES and "do not show" in volume.assumption


@pytest.mark.parametrize(("translation", "is_misplaced"), [
    (EDGES, False), (tuple(t + 1 for t in EDGES), False), ((22, 22, 32), True),
], ids=["same edges", "an eighth of a voxel off", "half a voxel off"])  # fmt: skip
def test_contradicting_positions_of_levels_are_reported(translation, is_misplaced, tmp_path):
    volume = write(tmp_path, raw(), means(raw()), translation)
    text = "s1 begins at [18.0, 18.0, 28.0] nm, but s0 at [8.0, 18.0, 28.0] nm"
    assert misplaced_level(volume.levels) == (text if is_misplaced else "")


def write_levels(path, voxels, translation, present=(0, 1, 2)):
    """Write levels of doubling voxel sizes whose metadata state the same translation, or none."""
    position = translation or (0, 0, 0)
    grids = [Grid((4 * 2**n,) * 3, position, level.shape) for n, level in enumerate(voxels)]
    for n, array in enumerate(create_levels(path, grids, "uint8", chunk=16)):
        array.write(voxels[n]).result()
        if n not in present:
            shutil.rmtree(path / f"s{n}")
    if translation is None:
        attributes = json.loads((path / ".zattrs").read_text())
        for dataset in attributes["multiscales"][0]["datasets"]:
            del dataset["coordinateTransformations"][1]
        (path / ".zattrs").write_text(json.dumps(attributes))
    return Volume.open(path)


MEANS = [raw(), means(raw()), means(means(raw()))]
EVERY_OTHER = [raw()[:: 2**n, :: 2**n, :: 2**n] for n in range(3)]


@pytest.mark.parametrize("translation", [FINE.translation, None], ids=["the same one", "none"])
@pytest.mark.parametrize(
    ("voxels", "present", "reason"),
    [
        (MEANS, [1, 2], "its voxels are means of others"),
        (MEANS, [2], "its voxels do not show whether they do"),
        (EVERY_OTHER, [1, 2], ""),
    ],
    ids=["means", "the coarsest of means", "every other voxel"],
)
def test_levels_lie_where_they_do_in_the_whole_if_the_finest_one_is_not_present(
    voxels, present, reason, translation, tmp_path
):
    whole = write_levels(tmp_path / "whole", voxels, translation)
    part = write_levels(tmp_path / "part", voxels, translation, present)
    assert [level.grid for level in part.levels] == [whole.levels[n].grid for n in present]
    reasons = part.assumption.split("; ") if part.assumption else []
    assert len(reasons) == (len(present) if reason else 0)
    for n, text in zip(present, reasons, strict=False):
        assert text.startswith(f"s{n} has the same translation as s0") and reason in text


def test_stated_positions_are_kept_without_the_finest_level(tmp_path):
    write(tmp_path, raw(), means(raw()), EDGES)
    shutil.rmtree(tmp_path / "s0")
    volume = Volume.open(tmp_path)
    assert [level.grid for level in volume.levels] == [COARSE] and not volume.assumption
