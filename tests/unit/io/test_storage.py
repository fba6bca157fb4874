"""Volumes in S3 buckets, and files whose presence is checked."""

import errno
import os
from pathlib import Path

import boto3
import numpy as np
import pytest
import tensorstore as ts
from moto.server import ThreadedMotoServer

from cellmap_pipeline.data.datasplit import DatasplitSettings, make_crops, make_datasplit
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.remote.s3 import S3Path
from cellmap_pipeline.io.storage import location, present, read_text, volumes_in
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.patches.crops import CropData, open_crops

GRID = Grid((8, 8, 8), (0, 0, 0), (40, 33, 20))
RAW = np.random.default_rng(0).integers(0, 255, GRID.shape).astype(np.uint8)


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """A function that copies a folder into a bucket of a real HTTP server."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    client = boto3.client(
        "s3", endpoint_url=server, region_name="us-east-1", aws_access_key_id="a",
        aws_secret_access_key="b",
    )  # fmt: skip
    client.create_bucket(Bucket="cells", ACL="public-read")

    def put(folder, key):
        for path in folder.rglob("*"):
            if path.is_file():
                body = path.read_bytes()
                name = f"{key}/{path.relative_to(folder)}"
                client.put_object(Bucket="cells", Key=name, Body=body, ACL="public-read")

    return put


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "anonymous"])
def test_bucket_and_folder_give_the_same_voxels(bucket, tmp_path, monkeypatch, signed):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x") if signed else monkeypatch.delenv(name, raising=False)
    create(tmp_path / "raw", GRID, "uint8", chunk=16).write(RAW).result()
    encoding = {"annotation_type": {"encoding": {"unknown": 255}}}
    attributes = {"cellmap": {"annotation": encoding}}
    create(tmp_path / "crop1/mito", GRID, "uint8", attributes).write(RAW).result()
    bucket(tmp_path / "raw", "a/raw")
    bucket(tmp_path / "crop1", "a/crop1")
    raw, label = Volume.open("s3://cells/a/raw"), LabelVolume.open("s3://cells/a/crop1/mito")
    assert raw.levels[0].grid == GRID and label.encoding.unknown == 255
    box = GRID.box((-3, 2, 5), (20, 30, 10))
    assert np.array_equal(raw.read_raw(box), Volume.open(tmp_path / "raw").read_raw(box))
    here = LabelVolume.open(tmp_path / "crop1/mito").read(box)
    assert all(np.array_equal(a, b) for a, b in zip(label.read(box), here, strict=True))
    crop = CropData(location("s3://cells/a/raw"), tmp_path / "crop1", ["mito"], (8, 8, 8))
    assert np.array_equal(crop.read_raw((1, 2, 3), (20, 20, 10)), RAW[1:21, 2:22, 3:13])


def test_datasplit_may_refer_to_a_bucket(bucket, tmp_path):
    """Raw with or without labels, in rows of five and three columns, and in a written datasplit."""
    recon = tmp_path / "b.zarr/recon-1"
    create(recon / "em/raw", GRID, "uint8", chunk=16).write(RAW).result()
    for crop, box in ((1, GRID.box((0, 0, 0), (16, 16, 16))), (2, GRID.box((20, 0, 0), (9, 9, 9)))):
        ids = np.full(box.shape, crop, np.uint8)
        create(recon / f"labels/crop{crop}/mito", box, "uint8").write(ids).result()
    bucket(tmp_path / "b.zarr", "c/b.zarr")
    url = "s3://cells/c/b.zarr"
    own = tmp_path / "own.csv"
    own.write_text(
        f"train,{url},recon-1/em/raw,{url},recon-1/labels/crop1/[mito]\n"
        f"validate,{url}/recon-1/em/raw,{recon}/labels/crop2\n"
    )
    settings = DatasplitSettings(["er", "mito"], (8, 8, 8))
    with pytest.raises(InputError, match="no crop of .* voxel of er: .* the crops annotate: mito"):
        make_crops(tmp_path, settings, own)
    settings = DatasplitSettings(["mito"], (8, 8, 8))
    far, near = make_crops(tmp_path, settings, own)
    assert (far.name, far.zarr) == ("b/crop1", location(url))
    assert near.raw == far.raw == location(f"{url}/recon-1/em/raw")
    assert far.present["mito"] == 16**3 * 8**3 and near.present["mito"] == 9**3 * 8**3
    make_datasplit(
        tmp_path, settings, own, {}, None, tmp_path / "split.csv", tmp_path / "summary.csv"
    )
    for path in (own, tmp_path / "split.csv"):
        crops = open_crops(path, ["mito", "pm"], (8, 8, 8))
        for side, start, n, crop in (("train", 0, 16, 1), ("validate", 20, 9, 2)):
            (data,) = crops[side]
            assert data.present_classes == ["mito"]
            ids, known = data.labels["mito"].read(data.grid)
            assert known.all() and (ids == crop).all()
            read = data.read_raw((0, 0, 0), (n, n, n))
            assert np.array_equal(read, RAW[start : start + n, :n, :n])


def test_labels_missing_in_a_bucket_are_named(bucket, tmp_path):
    (tmp_path / "own.csv").write_text(
        "train,s3://cells/raw,s3://cells/none/crop1\nvalidate,a,s3://cells/none/crop2\n"
    )
    with pytest.raises(InputError, match="s3://cells/none/crop1: the folder does not exist"):
        make_crops(tmp_path, DatasplitSettings(["mito"], (8, 8, 8)), tmp_path / "own.csv")
    with pytest.raises(InputError, match="s3://cells/none/crop1 has none of mito"):
        open_crops(tmp_path / "own.csv", ["mito"], (8, 8, 8))


def test_n5_is_read_from_a_bucket(bucket, tmp_path):
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{tmp_path}/raw/s0/"}}
    metadata = {"dimensions": GRID.shape[::-1], "blockSize": [16] * 3, "dataType": "uint8",
                "compression": {"type": "gzip"}}  # fmt: skip
    ts.open(spec | {"metadata": metadata}, create=True).result().T.write(RAW).result()
    (tmp_path / "raw/attributes.json").write_text('{"pixelResolution": [8, 8, 8]}')
    (tmp_path / "raw/s0/0/1/2").unlink()
    bucket(tmp_path / "raw", "d/raw")
    volume = Volume.open("s3://cells/d/raw")
    assert volume.levels[0].grid == GRID
    missing = volume.levels[0].missing_chunks((0, 0, 0), GRID.shape)
    assert np.argwhere(missing).tolist() == [[2, 1, 0]]
    values = volume.read_raw(GRID.box((3, 0, 0), (29, 33, 20))) * 255
    assert np.allclose(values, RAW[3:32])


def test_chunks_missing_in_a_bucket_are_outside_the_volume(bucket, tmp_path):
    create(tmp_path / "raw", GRID, "uint8", chunk=16).write(RAW).result()
    (tmp_path / "raw/s0/1/0/0").unlink()
    bucket(tmp_path / "raw", "b/raw")
    level = Volume.open("s3://cells/b/raw").levels[0]
    missing = level.missing_chunks((0, 0, 0), GRID.shape)
    assert missing.shape == (3, 3, 2) and np.argwhere(missing).tolist() == [[1, 0, 0]]
    # The bucket is the source, so its missing chunks cannot be fetched.
    expected = RAW.copy()
    expected[16:32, :16, :16] = 0
    volume = Volume.open("s3://cells/b/raw")
    assert np.allclose(volume.read_raw(GRID) * 255, expected)
    inside = np.ones(GRID.shape, bool)
    inside[16:32, :16, :16] = False
    assert np.array_equal(volume.inside(GRID), inside)


def test_missing_keys_are_named(bucket):
    assert read_text(S3Path("cells", "none")) is None
    with pytest.raises(InputError, match="s3://cells/none does not exist"):
        Volume.open("s3://cells/none")
    with pytest.raises(InputError, match="s3://nobucket/raw does not exist"):
        Volume.open("s3://nobucket/raw")
    with pytest.raises(InputError, match="only paths of folders and s3://"):
        location("gs://cells/raw")


def test_address_is_split_into_parts_like_a_path():
    path = location("s3://cells/a/raw/")
    assert path == S3Path("cells", "a/raw")
    assert str(path / "s0") == "s3://cells/a/raw/s0" and path.name == "raw"
    assert path.parts == ("cells", "a", "raw")
    assert path.parents == [S3Path("cells", "a"), S3Path("cells")] and path.parent.name == "a"


def test_presence_of_a_name_does_not_depend_on_names_with_the_same_beginning(bucket, tmp_path):
    for name in ("1", "10", "1.a/b"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text("")
    bucket(tmp_path / "x", "e")
    names = ["1", "10", "100", "1.", "1.a", "1.a/b"]
    there = [True, True, False, False, False, True]
    assert present(location("s3://cells/e"), names) == present(tmp_path / "x", names) == there
    with pytest.raises(InputError, match="s3://nobucket/a cannot be listed"):
        present(location("s3://nobucket/a"), ["b"])


def test_files_that_cannot_be_inspected_are_not_missing(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    assert present(tmp_path, ["a", "b"]) == [False, False]
    assert volumes_in(tmp_path, ["a", "b"]) == ["a"]

    def fail(self, **_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "stat", fail)
    for look in (present, volumes_in):
        with pytest.raises(InputError, match="a cannot be read .Stale file handle"):
            look(tmp_path, ["a"])
