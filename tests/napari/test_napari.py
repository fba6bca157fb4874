"""napari shows results and imported volumes as they are stored, at their positions."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.importing.sources.open_source import open_source
from cellmap_pipeline.data.importing.volume import import_label, import_raw
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.prediction.output import PROBABILITY_ATTRIBUTES
from cellmap_pipeline.segmentation.final_labels import segment_crop
from tests.support.foreign_volumes import write_tiff

pytestmark = pytest.mark.napari
PYTHON = Path(__file__).resolve().parents[2] / ".napari-env/bin/python"
SIZE, TRANSLATION = (8.0, 4.0, 4.0), (100.0, -200.0, 300.5)
GRID = Grid(SIZE, TRANSLATION, (40, 50, 60))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What napari shows of each volume, and its voxels, by the names of the volumes."""
    if not PYTHON.exists():
        pytest.skip("napari is not installed; `make test-napari` does it")
    folder = tmp_path_factory.mktemp("napari")
    rng = np.random.default_rng(0)
    probability = np.zeros(GRID.shape, np.uint8)
    probability[5:20, 5:20, 5:20], probability[25:35, 30:45, 30:50] = 255, 240
    raw = rng.integers(0, 256, (40, 131, 150), np.uint8)
    ids = (probability > 0).astype(np.uint16) * 300
    stored = {"predictions/d/crop1/mito": probability, "predictions/d/crop1/er": probability}
    for path, voxels in stored.items():
        create(folder / path, GRID, "uint8", PROBABILITY_ATTRIBUTES).write(voxels).result()
    for label in ("mito", "er"):
        settings = {"min_size_nm3": 0, "smooth_nm": 0}
        source, output = (f"{f}/d/crop1/{label}" for f in ("predictions", "segmentations"))
        row = CropLabel(1, "d", label, GRID)
        segment_crop(row, [[folder / source]], {}, settings, folder / output)
    dataset = folder / "data/d"
    for name, voxels in (("raw", raw), ("ids", ids)):
        write_tiff(folder / f"{name}.tif", voxels)
    path = import_raw(open_source(folder / "raw.tif"), dataset, SIZE, TRANSLATION)
    stored[path.relative_to(folder).as_posix()] = raw
    source = open_source(folder / "ids.tif")
    path = import_label(source, dataset, 1, "mito", SIZE, TRANSLATION)
    stored[path.relative_to(folder).as_posix()] = ids
    objects = (probability > 0).astype(np.uint8)
    stored["segmentations/d/crop1/er"] = objects
    objects = objects.copy()
    objects[20:] *= 2
    stored["segmentations/d/crop1/mito"] = objects
    command = [PYTHON, Path(__file__).with_name("open_volumes.py"), *(folder / p for p in stored)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    layers = json.loads(done.stdout.splitlines()[-1])
    return {path: (layer, stored[path]) for path, layer in zip(stored, layers, strict=True)}


@pytest.mark.parametrize(
    ("path", "kind", "dtype"),
    [
        ("predictions/d/crop1/mito", "Image", "uint8"),
        ("predictions/d/crop1/er", "Image", "uint8"),
        ("segmentations/d/crop1/mito", "Labels", "uint8"),
        ("segmentations/d/crop1/er", "Labels", "uint8"),
        ("data/d/d.zarr/recon-1/em/fibsem-uint8", "Image", "uint8"),
        ("data/d/d.zarr/recon-1/labels/groundtruth/crop1/mito", "Labels", "uint16"),
    ],
)
def test_layer_shows_the_volume_at_its_position(shown, path, kind, dtype):
    layer, voxels = shown[path]
    assert (layer["kind"], layer["dtype"]) == (kind, dtype)
    assert layer["scale"] == list(SIZE)
    assert layer["translate"] == list(TRANSLATION)
    assert np.array_equal(layer["voxels"], voxels)
    assert "partial" not in layer["name"]


def test_raw_has_its_levels(shown):
    layer, _ = shown["data/d/d.zarr/recon-1/em/fibsem-uint8"]
    assert layer["shapes"] == [[40, 131, 150], [40, 66, 75]]
