"""At stored voxel sizes, our readers return the voxels that cellmap-data reads."""

import numpy as np
import pytest

from cellmap_pipeline.demo.make import make_demo
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume

BOXES = 30
# cellmap-data takes a translation to be the lower edge of voxel 0, and rounds down from there.
EDGE_OFFSET_VOXELS = 1e-3
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement") / "demo"
    make_demo(folder, size="small", progress=False)
    return folder


@pytest.fixture(params=["demo", "flyem"])
def recon(request):
    """A dataset's folder of raw and labels."""
    if request.param == "demo":
        root = request.getfixturevalue("demo")
    else:
        root = request.getfixturevalue("shared") / "data/flyem"
    return sorted(root.glob("*/*.zarr/recon-1"))[0]


def random_boxes(shape):
    """Start and shape of boxes inside an array and across each of its borders."""
    shape = np.array(shape)
    for k in range(BOXES):
        size = rng.integers(1, np.minimum(shape, 40) + 1)
        start = rng.integers(0, shape - size + 1)
        yield start, size
        if k < 3:
            # The first and the last voxels of an axis, and some beyond them.
            for edge in (-(size[k] // 2), shape[k] - (size[k] + 1) // 2):
                across = start.copy()
                across[k] = edge
                yield across, size


def read_by_cellmap_data(path, grid, start, size):
    """Voxels (float32) that cellmap-data reads; NaN beyond the array."""
    from cellmap_data.image import CellMapImage

    image = CellMapImage(str(path), path.name, grid.voxel_size, size.tolist(), pad=True)
    center = {
        axis: t + (a + n / 2 + EDGE_OFFSET_VOXELS) * v
        for axis, t, a, n, v in zip(
            "zyx", grid.translation, start, size, grid.voxel_size, strict=True
        )
    }
    return image[center].numpy()


def test_raw_equals_that_read_by_cellmap_data(recon):
    volume = Volume.open(recon / "em/fibsem-uint8")
    assert len(volume.levels) > 1
    compared = 0
    for level in volume.levels:
        for start, size in random_boxes(level.grid.shape):
            low, high = np.maximum(start, 0), np.minimum(start + size, level.grid.shape)
            if level.missing_chunks(low, high).any():
                continue  # The demo's raw is stored only around its crops.
            compared += 1
            theirs = read_by_cellmap_data(volume.path, level.grid, start, size)
            known = ~np.isnan(theirs)
            ours = volume.read_raw(level.grid.box(start, size)) * 255
            assert known.any()
            assert np.array_equal(np.rint(ours)[known], theirs[known])
            assert np.allclose(ours[known], theirs[known], atol=1e-3)
    assert compared >= 10


def test_labels_equal_those_read_by_cellmap_data(recon):
    folders = sorted((recon / "labels/groundtruth").glob("crop*/*/.zattrs"))
    labeled = 0
    for path in folders[:: max(1, len(folders) // 12)]:
        label = LabelVolume.open(path.parent)
        assert label.encoding.unknown is None or label.encoding.unknown > 0
        for level in label.volume.levels:
            for start, size in random_boxes(level.grid.shape):
                theirs = read_by_cellmap_data(path.parent, level.grid, start, size)
                ids, known = label.read(level.grid.box(start, size))
                inside = ~np.isnan(theirs)
                assert np.array_equal(known, inside & (theirs != label.encoding.unknown))
                assert np.array_equal(ids[known], theirs[known])
                assert not ids[~known].any()
                labeled += np.count_nonzero(ids)
    assert labeled > 1000
