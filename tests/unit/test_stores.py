import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from cellmap_pipeline.crops import CropData
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.stores import S3Path, location, read_text
from cellmap_pipeline.volumes import LabelVolume, Volume, create

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
    """A bucket of a real HTTP server, and what puts files into it."""
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


@pytest.mark.parametrize("signed", [True, False])
def test_a_bucket_reads_like_a_folder(bucket, tmp_path, monkeypatch, signed):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x") if signed else monkeypatch.delenv(name, raising=False)
    create(tmp_path / "raw", GRID, "uint8", chunk=16).write(RAW).result()
    encoding = {"annotation_type": {"encoding": {"unknown": 255}}}
    attributes = {"cellmap": {"annotation": encoding}}
    create(tmp_path / "crop1/mito", GRID, "uint8", attributes).write(RAW).result()
    bucket(tmp_path / "raw", "a/raw")
    bucket(tmp_path / "crop1", "a/crop1")
    raw, label = Volume.open("s3://cells/a/raw"), LabelVolume.open("s3://cells/a/crop1/mito")
    assert raw.levels[0].grid == GRID and label.unknown == 255
    box = GRID.box((-3, 2, 5), (20, 30, 10))
    assert np.array_equal(raw.read_raw(box), Volume.open(tmp_path / "raw").read_raw(box))
    here = LabelVolume.open(tmp_path / "crop1/mito").read(box)
    assert all(np.array_equal(a, b) for a, b in zip(label.read(box), here, strict=True))
    crop = CropData(location("s3://cells/a/raw"), tmp_path / "crop1", ["mito"], (8, 8, 8))
    assert np.array_equal(crop.read_raw((1, 2, 3), (20, 20, 10)), RAW[1:21, 2:22, 3:13])


def test_chunks_that_a_bucket_lacks_are_missing(bucket, tmp_path):
    create(tmp_path / "raw", GRID, "uint8", chunk=16).write(RAW).result()
    (tmp_path / "raw/s0/1/0/0").unlink()
    bucket(tmp_path / "raw", "b/raw")
    level = Volume.open("s3://cells/b/raw").levels[0]
    missing = level.missing_chunks((0, 0, 0), GRID.shape)
    assert missing.shape == (3, 3, 2) and np.argwhere(missing).tolist() == [[1, 0, 0]]
    # The bucket is the source: what it lacks nothing can bring.
    expected = RAW.copy()
    expected[16:32, :16, :16] = 0
    volume = Volume.open("s3://cells/b/raw")
    assert np.allclose(volume.read_raw(GRID) * 255, expected)
    inside = np.ones(GRID.shape, bool)
    inside[16:32, :16, :16] = False
    assert np.array_equal(volume.inside(GRID), inside)


def test_what_is_not_there(bucket):
    assert read_text(S3Path("cells", "none")) is None
    with pytest.raises(InputError, match="s3://cells/none does not exist"):
        Volume.open("s3://cells/none")
    with pytest.raises(InputError, match="s3://nobucket/raw does not exist"):
        Volume.open("s3://nobucket/raw")
    with pytest.raises(InputError, match="only paths of folders and s3://"):
        location("gs://cells/raw")


def test_parts_of_an_address():
    path = location("s3://cells/a/raw/")
    assert path == S3Path("cells", "a/raw")
    assert str(path / "s0") == "s3://cells/a/raw/s0" and path.name == "raw"
