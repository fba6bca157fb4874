"""Fetching from an S3 server on this machine, through a proxy that misbehaves."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import tensorstore as ts

from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.fetching import fetch
from cellmap_pipeline.data.fetching.fetch import fetch_crop
from cellmap_pipeline.data.fetching.request import FetchRequest, PredictUse, TeacherUse, TrainUse
from cellmap_pipeline.data.margins import RawMargins
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats.ngff import (
    DeclaredLevel,
    multiscale_metadata,
    write_metadata,
)
from cellmap_pipeline.io.labels import LabelVolume, present_voxels
from cellmap_pipeline.io.remote import connections, s3
from cellmap_pipeline.io.storage import ABSENT_FILE
from cellmap_pipeline.io.volumes import Volume, create
from tests.support.bucket import NAME, SLOW, reach, serve

ZARR = "d/d.zarr"
CROP = f"{ZARR}/recon-1/labels/groundtruth/crop7"
EM = f"{ZARR}/recon-1/em/fibsem-uint8"
# Raw at 4, 8 and 16 nm; the crop at 4 and 8 nm lies in it.
FINE = Grid((4, 4, 4), (100, 0, 40), (96, 96, 96))
INSIDE = Grid((4, 4, 4), (100 + 32 * 4, 30 * 4, 40 + 34 * 4), (32, 32, 32))
SHARDS_OF_8 = [
    {"name": "sharding_indexed",
     "configuration": {"chunk_shape": [8, 8, 8], "codecs": [{"name": "bytes"}]}}
]  # fmt: skip
RAW = np.random.default_rng(0).integers(1, 255, FINE.shape).astype(np.uint8)


def make_multiscale(path, finest, voxels, levels):
    """Write levels of every other voxel each: tests compare equality, not appearance.

    Chunks have 8 voxels along each axis, those of the finest level 48.
    """
    grids = []
    for n in range(levels):
        step = 2**n
        grid = finest.at([v * step for v in finest.voxel_size])
        create(path / f"made{n}", grid, "uint8", chunk=8 if n else 48).write(
            voxels[::step, ::step, ::step]
        ).result()
        shutil.move(path / f"made{n}/s0", path / f"s{n}")
        shutil.rmtree(path / f"made{n}")
        grids.append(grid)
    write_metadata(path / ".zgroup", {"zarr_format": 2})
    write_metadata(path / ".zattrs", {"multiscales": [multiscale_metadata(path.name, grids)]})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A dataset with raw and a crop of `nuc`, half of it background, and `er`, only at 16 nm."""
    root = tmp_path_factory.mktemp("source")
    make_multiscale(root / EM, FINE, RAW, levels=3)
    nuc = np.zeros(INSIDE.shape, np.uint8)
    nuc[16:] = 3
    make_multiscale(root / CROP / "nuc", INSIDE, nuc, levels=2)
    annotation = {"complement_counts": {"absent": 16384, "unknown": 0}}
    write_metadata(root / CROP / "nuc/s0/.zattrs", {"cellmap": {"annotation": annotation}})
    make_multiscale(root / CROP / "er", INSIDE.at((16, 16, 16)), nuc[::4, ::4, ::4], levels=1)
    for folder in (ZARR, f"{ZARR}/recon-1", CROP):
        write_metadata(root / folder / ".zgroup", {"zarr_format": 2})
    write_metadata(root / f"{ZARR}/recon-1/.zattrs", {"of": "the alignment"})
    return root


@pytest.fixture(scope="module")
def server(source):
    with serve() as (bucket, url):
        bucket.fill(source)
        yield bucket, url


@pytest.fixture
def bucket(server, monkeypatch):
    """The bucket without any failures."""
    made, url = server
    made.reset()
    reach(url, monkeypatch)
    monkeypatch.setattr(s3, "RETRY_WAITS_S", (0.01,) * 8)
    return made


def request(
    classes=("nuc", "golgi"),
    voxel_size=8,
    root=f"s3://{NAME}",
    predict=(),
    padding=64,
    ground_truth=None,
):
    size = (voxel_size,) * 3
    margins = RawMargins.fixed(padding, size)
    use = TrainUse(size, tuple(classes), margins, ground_truth or {})
    return FetchRequest(
        "d", f"{root}/{CROP}", f"{root}/{EM}", (use,) if classes else (), tuple(predict)
    )


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ABSENT_FILE
    }


def absent_in(folder):
    return json.loads((folder / ABSENT_FILE).read_text())


def assert_copied(source, here):
    """Check that the crop at 8 nm and raw up to 64 nm around it were copied, and nothing else."""
    copied = files_below(here)
    original = files_below(source)
    assert copied.items() <= original.items()
    assert {f"{ZARR}/.zgroup", f"{ZARR}/recon-1/.zattrs", f"{CROP}/nuc/.zattrs"} <= set(copied)
    levels = {name.rpartition("/.zarray")[0] for name in copied if name.endswith(".zarray")}
    assert levels == {f"{CROP}/nuc/s1", f"{EM}/s1"}
    assert f"{CROP}/nuc/s0/.zattrs" in copied, "the annotation's counts"
    raw = Volume.open(here / EM)
    around = INSIDE.at((8, 8, 8)).padded((8, 8, 8))
    np.testing.assert_array_equal(
        raw.read_raw(raw.aligned(around, (8, 8, 8)), core=around),
        Volume.open(source / EM).read_raw(raw.aligned(around, (8, 8, 8)), core=around),
    )
    grid = INSIDE.at((8, 8, 8))
    for mine, theirs in zip(
        LabelVolume.open(here / CROP / "nuc").read(grid),
        LabelVolume.open(source / CROP / "nuc").read(grid),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def source_in_zarr_3(source, tmp_path_factory):
    """The dataset in zarr 3, in shards of 16 voxels."""
    root = tmp_path_factory.mktemp("zarr3")
    for folder in (EM, f"{CROP}/nuc"):
        volume = Volume.open(source / folder)
        for level in volume.levels:
            metadata = {
                "shape": level.grid.shape, "data_type": "uint8", "codecs": SHARDS_OF_8,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [16, 16, 16]}},
                "attributes": level.attributes,
            }  # fmt: skip
            store = {"driver": "file", "path": f"{root / folder / level.path.name}/"}
            spec = {"driver": "zarr3", "kvstore": store, "metadata": metadata}
            array = ts.open(spec, create=True).result()
            array.write(level.read((0, 0, 0), level.grid.shape)).result()
        write_metadata(root / folder / "zarr.json", zarr3_group(ome=volume.attributes))
    for folder in (ZARR, f"{ZARR}/recon-1", CROP):
        write_metadata(root / folder / "zarr.json", zarr3_group())
    return root


def zarr3_group(**attributes):
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def test_zarr_3_is_fetched(source_in_zarr_3, tmp_path):
    done = fetch_crop(7, request(root=str(source_in_zarr_3)), tmp_path)
    copied = files_below(tmp_path)
    original = files_below(source_in_zarr_3)
    # The counts of the finest level are copied without what would make it look present.
    counts = json.loads(copied.pop(f"{CROP}/nuc/s0/.zattrs"))
    assert counts["cellmap"]["annotation"]["complement_counts"]["absent"] == 16384
    assert copied.items() <= original.items()
    assert done["classes"] == ["nuc"]
    levels = {name.partition("/c/")[0] for name in copied if "/c/" in name}
    assert levels == {f"{EM}/s1", f"{CROP}/nuc/s1"}
    raw, grid = Volume.open(tmp_path / EM), INSIDE.at((8, 8, 8))
    around = grid.padded((8, 8, 8))
    np.testing.assert_array_equal(
        raw.read_raw(raw.aligned(around, (8, 8, 8)), core=around),
        Volume.open(source_in_zarr_3 / EM).read_raw(raw.aligned(around, (8, 8, 8))),
    )
    label = LabelVolume.open(tmp_path / CROP / "nuc")
    assert present_voxels(label) == (INSIDE.size - 16384) / 8
    assert np.count_nonzero(label.read(grid)[0]) == grid.size / 2


def test_only_what_is_used_is_fetched(bucket, source, tmp_path):
    done = fetch_crop(7, request(), tmp_path)
    assert_copied(source, tmp_path)
    copied = files_below(tmp_path)
    assert done["classes"] == ["nuc"]
    assert done["files"] == len(copied)
    assert done["bytes"] == sum(len(content) for content in copied.values())
    # At 8 nm the crop begins at voxels 16, 15 and 17 and has 16 voxels along each axis. With 8 more
    # around it, and 1 for interpolation, these are voxels 7 to 41, 6 to 40 and 8 to 42.
    chunks = [name for name in copied if name.startswith(f"{EM}/s1/") and "/." not in name]
    assert len(chunks) == 6 * 5 * 5
    # Half of the label's 2 x 2 x 2 chunks are background, which zarr does not store.
    assert absent_in(tmp_path / CROP / "nuc/s1") == ["0/0/0", "0/0/1", "0/1/0", "0/1/1"]
    assert not (tmp_path / CROP / "golgi").exists()


def test_a_second_run_requests_nothing(bucket, source, tmp_path):
    first = fetch_crop(7, request(), tmp_path)
    bucket.requests.clear()
    second = fetch_crop(7, request(), tmp_path)
    assert not bucket.requests
    assert (second["files"], second["bytes"]) == (0, 0)
    assert second["there"] == first["files"]
    assert second["absent"] == first["absent"] > 0


def test_resumes_where_a_killed_run_stopped(bucket, source, tmp_path):
    fetch_crop(7, request(), tmp_path)
    chunks = sorted((tmp_path / EM / "s1").rglob("[0-9]"))
    gone = [path for path in chunks if path.is_file()][::3]
    for path in [*gone, tmp_path / EM / "s1/.zarray"]:
        path.unlink()
    bucket.requests.clear()
    fetch_crop(7, request(), tmp_path)
    assert sum(bucket.requests.values()) == len(gone) + 1
    assert_copied(source, tmp_path)


def test_connections_lost_during_answers(bucket, source, tmp_path):
    bucket.cut = 0.3
    fetch_crop(7, request(), tmp_path)
    assert bucket.cuts > 10
    assert_copied(source, tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


def test_corrupt_content_is_requested_again(bucket, source, tmp_path):
    bucket.spoil[f"{EM}/s1/2/2/2"] = 1
    fetch_crop(7, request(), tmp_path)
    assert bucket.requests[f"{EM}/s1/2/2/2"] == 2
    assert_copied(source, tmp_path)


def test_the_same_content_twice_is_accepted_with_any_etag(bucket, source, tmp_path):
    bucket.spoil[f"{EM}/s1/2/2/2"] = 100
    fetch_crop(7, request(), tmp_path)
    assert bucket.requests[f"{EM}/s1/2/2/2"] == 2
    spoilt = (tmp_path / EM / "s1/2/2/2").read_bytes()
    assert spoilt[1:] == (source / EM / "s1/2/2/2").read_bytes()[1:]


def test_a_denied_chunk_stops_the_job_and_leaves_no_array(bucket, source, tmp_path):
    bucket.denied.add(f"{EM}/s1/2/2/2")
    with pytest.raises(InputError, match=r"s1/2/2/2 cannot be read .*403"):
        fetch_crop(7, request(), tmp_path)
    assert bucket.requests[f"{EM}/s1/2/2/2"] == 1
    assert not (tmp_path / EM / "s1/.zarray").exists()
    bucket.reset()
    fetch_crop(7, request(), tmp_path)
    assert_copied(source, tmp_path)


def test_outages_are_waited_for(bucket, source, tmp_path):
    key = f"{EM}/s1/2/2/2"
    bucket.busy[key] = 7
    fetch_crop(7, request(), tmp_path)
    assert bucket.requests[key] == 8
    assert_copied(source, tmp_path)


def test_missing_answers_time_out(bucket, source, tmp_path, monkeypatch):
    # This is long enough for the other answers, even on a busy machine.
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT_S", SLOW - 2)
    bucket.slow[f"{CROP}/.zgroup"] = 1
    fetch_crop(7, request(), tmp_path)
    assert bucket.requests[f"{CROP}/.zgroup"] == 2
    assert_copied(source, tmp_path)


def test_a_lasting_outage_is_an_error(bucket, tmp_path):
    key = f"{CROP}/.zgroup"
    bucket.busy[key] = 1000
    with pytest.raises(InputError, match=r"crop7/\.zgroup cannot be read .*503"):
        fetch_crop(7, request(), tmp_path)
    assert bucket.requests[key] == len(s3.RETRY_WAITS_S) + 1


@pytest.mark.parametrize(
    ("old", "new"),
    [(f"s3://{NAME}", "s3://no-such-bucket"), ("crop7", "crop8")],
)
def test_an_unknown_bucket_or_crop_is_named(bucket, tmp_path, old, new):
    labels = request().labels.replace(old, new)
    with pytest.raises(InputError, match=rf"{new}.* does not exist: check the crop"):
        fetch_crop(7, replace(request(), labels=labels), tmp_path)
    assert not files_below(tmp_path)


def test_missing_raw_is_named(bucket, tmp_path):
    raw = f"s3://{NAME}/{EM}-none"
    with pytest.raises(InputError, match=r"fibsem-uint8-none does not exist: check em_url"):
        fetch_crop(7, replace(request(), raw=raw), tmp_path)


@pytest.mark.parametrize("classes", [["golgi"], ["er"]], ids=str)
def test_nothing_is_fetched_of_a_crop_without_usable_labels(bucket, tmp_path, classes):
    done = fetch_crop(7, request(classes), tmp_path)
    assert done["classes"] == []
    assert not files_below(tmp_path)


@pytest.mark.parametrize(
    ("voxel_size", "level"), [(3.5, "s0"), (4, "s0"), (7.8, "s0"), (7.9, "s1"), (12, "s1")]
)
def test_the_fetched_level_is_the_one_that_is_read(bucket, source, tmp_path, voxel_size, level):
    fetch_crop(7, request(["nuc"], voxel_size, padding=0), tmp_path)
    for path in (CROP + "/nuc", EM):
        wanted = Volume.open(source / path).level_for([voxel_size] * 3)
        assert wanted.path.name == level
        assert [part.path.name for part in Volume.open(tmp_path / path).levels] == [level]


@pytest.mark.parametrize(
    ("wanted", "levels"),
    [([3.5], ["s0", "s1"]), ([5, 6.5], ["s0", "s1"]), ([16, 8], ["s1"])],
    ids=str,
)
def test_ground_truth_is_fetched_at_the_level_that_validation_reads(
    source, tmp_path, wanted, levels
):
    sizes = {"nuc": [(v,) * 3 for v in wanted]}
    fetch_crop(7, request(["nuc"], root=str(source), ground_truth=sizes), tmp_path)
    copy = LabelVolume.open(tmp_path / CROP / "nuc").volume
    assert [level.path.name for level in copy.levels] == levels
    original = ValidationCrop.of(source / CROP)
    fetched = ValidationCrop.of(tmp_path / CROP)
    for size in sizes["nuc"]:
        assert fetched.truth("nuc", size)[1] == original.truth("nuc", size)[1]


def test_ground_truth_of_labels_that_the_training_does_not_predict(source, tmp_path):
    coarse = {"er": [(8, 8, 8)], "golgi": [(8, 8, 8)]}
    done = fetch_crop(7, request(["nuc"], root=str(source), ground_truth=coarse), tmp_path)
    assert done["classes"] == ["nuc", "er"]
    # The training cannot use labels of 16 nm, so its own are not validated on them.
    own = request(["nuc", "er"], root=str(source), ground_truth=coarse)
    assert fetch_crop(7, own, tmp_path / "own")["classes"] == ["nuc"]
    # Without a label to train on, the crop is not used.
    unused = request(["er"], root=str(source), ground_truth={"nuc": [(8, 8, 8)]})
    assert fetch_crop(7, unused, tmp_path / "unused")["files"] == 0


def test_all_raw_within_the_margins_is_fetched(source, tmp_path):
    # Raw is half a voxel off the crop, and the patch is larger than the crop.
    margins = RawMargins(patch=(22, 16, 16), rotation=(2, 1, 0))
    one = request(root=str(source))
    use = replace(one.train[0], margins=margins)
    fetch_crop(7, replace(one, train=(use,)), tmp_path)
    copy, original = Volume.open(tmp_path / EM), Volume.open(source / EM)
    crop = copy.aligned(INSIDE, (8, 8, 8))
    box = crop.padded((8, 1, 0))
    np.testing.assert_array_equal(copy.read_raw(box, core=crop), original.read_raw(box, core=crop))
    fixed = copy.available(crop.padded((20, 20, 20)), core=crop)
    assert not fixed.covers(crop.padded((20, 20, 20)))


def test_raw_around_all_labels_of_a_crop_is_fetched(source, tmp_path):
    """The box around two labels is larger than theirs."""
    root = tmp_path / "source"
    shutil.copytree(source, root)
    other = INSIDE.box((24, 24, 0), INSIDE.shape)
    make_multiscale(root / CROP / "mito", other, np.ones(other.shape, np.uint8), levels=2)
    fetch_crop(7, request(["mito", "nuc"], root=str(root), padding=8), tmp_path / "copy")
    raw = Volume.open(tmp_path / "copy" / EM)
    crop = raw.aligned(INSIDE.box((0, 0, 0), (56, 56, 32)), (8, 8, 8))
    assert raw.available(crop, core=crop) == crop


def test_a_misplaced_label_does_not_bring_the_raw_between(source, tmp_path):
    root = tmp_path / "source"
    shutil.copytree(source, root)
    far = FINE.box((64, 64, 66), (32, 32, 30))
    make_multiscale(root / CROP / "mito", far, np.ones(far.shape, np.uint8), levels=2)
    sizes = {label: [(4, 4, 4), (8, 8, 8)] for label in ("mito", "nuc")}
    asked = request(["mito", "nuc"], root=str(root), padding=8, ground_truth=sizes)
    fetch_crop(7, asked, tmp_path / "copy")
    raw = Volume.open(tmp_path / "copy" / EM)
    level = raw.level_for((8, 8, 8))
    between = level.grid.index_box(FINE.box((80, 32, 32), (16, 16, 16)))
    assert level.missing_chunks(*between).all()
    nuc = raw.aligned(INSIDE, (8, 8, 8))
    assert raw.available(nuc, core=nuc) == nuc


def test_raw_of_a_test_crop(bucket, source, tmp_path):
    use = PredictUse((16, 16, 16), Grid((4, 4, 4), (100, 0, 40), (20, 20, 20)), RawMargins())
    done = fetch_crop(7, request(classes=(), predict=[use]), tmp_path)
    assert done["classes"] == []
    copied = files_below(tmp_path)
    # Ten voxels of 8 nm are five of 16 nm: one chunk.
    chunks = {name for name in copied if name.startswith(f"{EM}/s2/") and "/." not in name}
    assert chunks == {f"{EM}/s2/0/0/0"}
    assert not any(name.startswith(CROP) for name in copied)


def write_n5(path, grid, voxels):
    """Write an n5 array, whose axes are x, y, z."""
    metadata = {
        "dimensions": voxels.shape[::-1], "blockSize": [12, 12, 12], "dataType": "uint8",
        "compression": {"type": "gzip"},
    }  # fmt: skip
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}}
    ts.open(spec | {"metadata": metadata}, create=True).result().T.write(voxels).result()
    scale, translate = list(grid.voxel_size), list(grid.translation)
    transform = {"axes": ["z", "y", "x"], "scale": scale, "translate": translate}
    known = json.loads((path / "attributes.json").read_text())
    write_metadata(path / "attributes.json", known | {"transform": transform})


def test_raw_may_be_n5(source, tmp_path):
    remote, local = tmp_path / "remote", tmp_path / "local"
    em = EM.replace(".zarr", ".n5")
    for n, step in enumerate((1, 2)):
        grid = FINE.at([v * step for v in FINE.voxel_size])
        write_n5(remote / em / f"s{n}", grid, RAW[::step, ::step, ::step])
    write_metadata(remote / em / "attributes.json", {})
    from_n5 = replace(request(root=str(source), padding=0), raw=str(remote / em))
    fetch_crop(7, from_n5, local)
    core = INSIDE.at((8, 8, 8))
    raw = Volume.open(local / em)
    grid = raw.aligned(core, (8, 8, 8))
    np.testing.assert_array_equal(
        raw.read_raw(grid, core=core), Volume.open(remote / em).read_raw(grid, core=core)
    )
    # Voxels 15 to 33, 14 to 32 and 16 to 34 in blocks of 12; x, y, z.
    blocks = {
        path.relative_to(local / em / "s1").as_posix()
        for path in (local / em / "s1").rglob("[0-9]")
        if path.is_file()
    }
    assert blocks == {f"{x}/{y}/{z}" for x in (1, 2) for y in (1, 2) for z in (1, 2)}
    assert fetch_crop(7, from_n5, local)["files"] == 0


def test_a_test_crop_outside_the_volume_is_named(bucket, tmp_path):
    use = PredictUse((4, 4, 4), Grid((4, 4, 4), (9000, 0, 0), (8, 8, 8)), RawMargins())
    with pytest.raises(InputError, match="crop 7 lies outside"):
        fetch_crop(7, request(classes=(), predict=[use]), tmp_path)


def test_neighbors_fetched_at_the_same_time_share_raw(bucket, source, tmp_path):
    extent = Grid((8, 8, 8), (102, 2, 42), (30, 30, 30))
    padded = RawMargins.fixed(64, (8, 8, 8))
    requests = [request(), request(classes=(), predict=[PredictUse((8, 8, 8), extent, padded)])]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: fetch_crop(7, one, tmp_path), requests))
    assert_copied(source, tmp_path)
    assert Volume.open(tmp_path / EM).read_raw(extent, core=extent).min() > 0


def test_folders_are_sources_too(source, tmp_path):
    fetch_crop(7, request(root=str(source)), tmp_path)
    assert_copied(source, tmp_path)


@pytest.mark.parametrize(("label", "levels"), [("nuc", {"s1"}), ("er", {"s0"})])
def test_teachers_with_finer_voxels_have_their_raw(source, tmp_path, label, levels):
    """`er` has voxels of 16 nm only, too coarse to train on at the teacher's 4 nm."""
    made = request(classes=[label], voxel_size=8 if label == "nuc" else 16, root=str(source))
    (use,) = made.train
    teacher = TeacherUse((4, 4, 4), RawMargins.fixed(32, (4, 4, 4)))
    fetch_crop(7, replace(made, train=(replace(use, teacher=teacher),)), tmp_path)
    assert {path.parent.name for path in (tmp_path / CROP / label).glob("*/.zarray")} == levels
    around = INSIDE.padded((8, 8, 8))
    found = Volume.open(tmp_path / EM).available(around, core=INSIDE)
    assert found == around
    expected = Volume.open(source / EM).read_raw(around)
    np.testing.assert_array_equal(Volume.open(tmp_path / EM).read_raw(around), expected)


def test_a_crop_without_labels_for_a_training_has_no_raw_for_its_teacher(source, tmp_path):
    made = request(classes=["er"], root=str(source))
    teacher = TeacherUse((4, 4, 4), RawMargins())
    made = replace(made, train=(replace(made.train[0], teacher=teacher),))
    assert fetch_crop(7, made, tmp_path)["files"] == 0


def test_composed_labels_have_the_level_at_which_their_crops_are_predicted():
    """A training of other classes at 4 nm composes `er`, which test crops ask for at 8 nm."""
    declared = [DeclaredLevel(f"s{i}", (v, v, v), (0, 0, 0)) for i, v in enumerate((4, 8, 16))]
    use = TrainUse((4, 4, 4), ("mito",), RawMargins(), {"er": ((8, 8, 8),)})
    levels = fetch._levels_read(declared, "er", use)
    assert [level.path for level in levels] == ["s0", "s1"]
