"""Results are written in a new format if one class describes its metadata.

The class is registered in `io.formats.registry`. A format that is not read yet also needs a parser
there, and the names of its files in `io.formats.array`.
"""

import json

import numpy as np
import pytest
import torch
import zarr

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats import registry
from cellmap_pipeline.io.formats.ngff import write_metadata
from cellmap_pipeline.io.storage import read_json
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.prediction.output import PartialResult
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.report.served_volumes import ServedVolume
from cellmap_pipeline.segmentation.final_labels import segment_crop, write_empty
from cellmap_pipeline.segmentation.methods import Method
from cellmap_pipeline.submission.check import check
from cellmap_pipeline.submission.package import package
from tests.support.networks import tiny_task

GRID = Grid((8, 8, 8), (40, 0, 80), (40, 36, 44))
ROWS = [CropLabel(1, "d", label, GRID) for label in ("mito", "pm", "er")]
# Attributes of a group that OME-NGFF 0.5 keeps below `ome`.
OME_NAMES = ("multiscales", "image-label")


class Zarr3Writer:
    """Metadata of groups and arrays in zarr 3."""

    def create_group(self, path):
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5"}}}
        write_metadata(path / "zarr.json", group)

    def array_metadata(self, shape, chunks, dtype, compression_level):
        return {
            "shape": shape,
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "zstd", "configuration": {"level": compression_level}},
            ],
        }

    def add_attributes(self, path, attributes):
        stored = read_json(path / "zarr.json")
        own = stored.setdefault("attributes", {})
        for name, value in attributes.items():
            (own["ome"] if name in OME_NAMES else own)[name] = value
        write_metadata(path / "zarr.json", stored)


@pytest.fixture
def raw(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 255, GRID.shape).astype(np.uint8)
    create(tmp_path / "raw", GRID, "uint8", chunk=16).write(voxels).result()
    return Volume.open(tmp_path / "raw")


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    return tiny_task()


def make_results(folder, task, raw, monkeypatch):
    """Predict in two steps, segment in blocks and in memory, and package."""
    predictions, labels = folder / "predictions", folder / "labels"
    with monkeypatch.context() as patch:
        patch.setattr(PartialResult, "finish", lambda self: None)
        predict_crop([task], raw, ROWS[:2], predictions, Inference())
    predict_crop([task], raw, ROWS[:2], predictions, Inference())
    for row, max_voxels in zip(ROWS[:2], (1000, GRID.size), strict=True):
        highest = Volume.open(predictions / row.label).levels[0].array.read().result().max()
        settings = {"threshold": (int(highest) - 5) / 255, "min_size_nm3": 0}
        with monkeypatch.context() as patch:
            patch.setattr(Method, "max_voxels_in_memory", max_voxels)
            output = labels / f"d/crop1/{row.label}"
            segment_crop(row, [[predictions / row.label]], {}, settings, output)
    write_empty(ROWS[2], labels / "d/crop1/er")
    return package(labels, ROWS, folder / "submission.zip")


def arrays(folder):
    """Return the voxels of all results by their paths, and those of the submission by label."""
    found = {
        path.relative_to(folder): Volume.open(path).levels[0].read((0, 0, 0), GRID.shape)
        for pattern in ("predictions/*", "labels/d/crop1/*")
        for path in folder.glob(pattern)
        if path.is_dir()
    }
    with zarr.ZipStore(str(folder / "submission.zip"), mode="r") as store:
        submitted = zarr.open_group(store, mode="r")["crop1"]
        return found | {name: array[:] for name, array in submitted.arrays()}


def test_all_stages_write_and_read_a_new_format(task, raw, tmp_path, monkeypatch):
    copied = make_results(tmp_path / "zarr", task, raw, monkeypatch)["copied"]
    monkeypatch.setitem(registry.WRITERS, "zarr3", Zarr3Writer())
    monkeypatch.setattr(registry, "OUTPUT_FORMAT", "zarr3")
    converted = make_results(tmp_path / "zarr3", task, raw, monkeypatch)["converted"]
    # The format of a submission is fixed, so labels in another format are converted.
    assert copied == converted == ["crop1/er", "crop1/mito", "crop1/pm"]
    assert check(tmp_path / "zarr3/submission.zip", ROWS) == []
    expected, found = arrays(tmp_path / "zarr"), arrays(tmp_path / "zarr3")
    assert len(found) == 9 and found.keys() == expected.keys()
    for name, voxels in found.items():
        np.testing.assert_array_equal(voxels, expected[name])
    assert found["pm"].any() and found["mito"].any()
    results = [
        p for stage in ("predictions", "labels") for p in (tmp_path / "zarr3" / stage).rglob("*")
    ]
    assert not [path for path in results if path.name in (".zgroup", ".zarray", ".zattrs")]


def test_attributes_of_a_new_format_are_read(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.WRITERS, "zarr3", Zarr3Writer())
    monkeypatch.setattr(registry, "OUTPUT_FORMAT", "zarr3")
    write_empty(ROWS[1], tmp_path / "pm")
    volume = Volume.open(tmp_path / "pm")
    assert (volume.stored_as, volume.levels[0].grid) == ("zarr3", GRID)
    assert volume.attributes["image-label"]["colors"][0]["label-value"] == 1
    assert volume.levels[0].attributes["cellmap_pipeline"] == {"kind": "labels"}
    served = json.loads(ServedVolume(volume).read("s0/.zarray"))
    assert served["shape"] == list(GRID.shape)
