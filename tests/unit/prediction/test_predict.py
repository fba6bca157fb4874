import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference

import cellmap_pipeline.prediction.predict as prediction
from cellmap_pipeline.channels import AFFINITY_SUFFIXES
from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.resampling import resample
from cellmap_pipeline.io.volumes import Volume, create, reopen
from cellmap_pipeline.prediction.output import PartialResult, _part_start, join_parts
from cellmap_pipeline.prediction.predict import predict_crop
from tests.support.networks import tiny_task

RAW_GRID = Grid((8, 8, 8), (40, 0, 80), (56, 60, 64))
# With few windows in y and x.
NARROW_GRID = RAW_GRID.box((0, 0, 0), (56, 36, 40))
NARROW_ROWS = [
    CropLabel(1, "d", "mito", NARROW_GRID),
    CropLabel(1, "d", "pm", Grid((16, 16, 16), (44, 4, 84), (28, 18, 20))),
]
RAW = np.random.default_rng(0).integers(0, 255, RAW_GRID.shape).astype(np.uint8)


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    made = tiny_task()
    with torch.no_grad():  # Move probabilities away from 0.5.
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


@pytest.fixture
def raw(tmp_path):
    create(tmp_path / "raw", RAW_GRID, "uint8", chunk=16).write(RAW).result()
    return Volume.open(tmp_path / "raw")


@pytest.fixture
def narrow_raw(tmp_path):
    voxels = RAW[tuple(map(slice, NARROW_GRID.shape))]
    create(tmp_path / "raw", NARROW_GRID, "uint8", chunk=16).write(voxels).result()
    return Volume.open(tmp_path / "raw")


def reference(task, overlap, blending):
    """Predict the whole raw volume with MONAI's own inferer."""
    image = torch.from_numpy(RAW.astype(np.float32) / 255)[None, None]
    with torch.inference_mode():
        return sliding_window_inference(
            image, 32, 1, lambda x: torch.sigmoid(task(x)), overlap=overlap, mode=blending
        )[0].numpy()


def read(path):
    return Volume.open(path).levels[0].array.read(order="C").result().astype(int)


@pytest.mark.parametrize(
    ("overlap", "blending", "memory"),
    [(0.5, "gaussian", 1 << 30), (0.5, "gaussian", 1), (0.0, "constant", 1),
     (0.25, "gaussian", 1 << 30)],
)  # fmt: skip
def test_prediction_agrees_with_monai_on_the_whole_volume(
    task, raw, tmp_path, monkeypatch, overlap, blending, memory
):
    monkeypatch.setattr(prediction, "MAX_SUMS_BYTES", memory)
    grids = {
        "mito": RAW_GRID,
        "pm": Grid((16, 16, 16), (44, 4, 84), (28, 30, 32)),
    }
    rows = [CropLabel(1, "d", label, grid) for label, grid in grids.items()]
    inference = Inference(overlap=overlap, blending=blending, batch=3)
    predict_crop([task], raw, rows, tmp_path / "crop1", inference)
    expected = reference(task, overlap, blending)
    for channel, index, grid in (
        ("mito", 0, RAW_GRID), ("mito_boundary", 1, RAW_GRID), ("pm", 2, grids["pm"])
    ):  # fmt: skip
        wanted = np.round(resample(expected[index], RAW_GRID, grid) * 255).astype(int)
        assert np.abs(read(tmp_path / "crop1" / channel) - wanted).max() <= 1
    assert expected.std() > 0.02


@pytest.mark.parametrize("voxel_size", [(8, 8, 8), (4, 8, 16), (3.48, 4, 4)], ids=str)
def test_the_result_does_not_depend_on_memory(task, raw, tmp_path, monkeypatch, voxel_size):
    grid = Grid(voxel_size, (100, 90, 150), (40, 30, 20))
    rows = [CropLabel(1, "d", "pm", grid)]
    inference = Inference()
    predict_crop([task], raw, rows, tmp_path / "whole", inference)
    monkeypatch.setattr(prediction, "MAX_SUMS_BYTES", 1)
    predict_crop([task], raw, rows, tmp_path / "blocks", inference)
    assert np.array_equal(read(tmp_path / "whole/pm"), read(tmp_path / "blocks/pm"))
    level = Volume.open(tmp_path / "whole/pm").levels[0]
    assert level.grid == grid
    attributes = Volume.open(tmp_path / "whole/pm/s0").attributes
    assert attributes["cellmap_pipeline"] == {"kind": "probability"}


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_any_crop_agrees_with_monai_on_its_raw(task, data):
    """Crops have any shape, position and voxel size, also at the edges of the volume."""
    shape = [data.draw(st.integers(40, 75), "raw") for _ in range(3)]
    voxel_size = [data.draw(st.sampled_from([8, 8, 8, 5.24, 16]), "voxels") for _ in range(3)]
    raw_grid = Grid(voxel_size, (40, 0, 80), shape)
    values = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    start = [data.draw(st.integers(0, n - 12), "start") for n in shape]
    size = [data.draw(st.integers(12, n - a), "size") for n, a in zip(shape, start, strict=True)]
    # On the raw's voxels, or finer or coarser per axis.
    ratio = [data.draw(st.sampled_from([1, 1, 0.5, 0.87, 2, 3.1]), "ratio") for _ in range(3)]
    box = raw_grid.box(start, size)
    grid = box.at([v * r for v, r in zip(voxel_size, ratio, strict=True)])
    overlap = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.6]), "overlap")
    blending = data.draw(st.sampled_from(["gaussian", "constant"]), "blending")
    inference = Inference(overlap=overlap, blending=blending, batch=4)
    trained = tiny_task(voxel_size=voxel_size)
    trained.network = task.network
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create(folder / "raw", raw_grid, "uint8", chunk=20).write(values).result()
        raw = Volume.open(folder / "raw")
        predict_crop([trained], raw, [CropLabel(1, "d", "pm", grid)], folder / "c", inference)
        found = read(folder / "c/pm")
        crop = raw.aligned(grid, voxel_size)
        context = inference.context_for((32, 32, 32))
        _, region = prediction._region(raw, crop, (32, 32, 32), context)
        image = torch.from_numpy(raw.read_raw(region, core=crop))[None, None]
    with torch.inference_mode():
        expected = sliding_window_inference(
            image, 32, 2, lambda x: torch.sigmoid(task(x)), overlap=overlap, mode=blending
        )[0, 2].numpy()  # fmt: skip
    wanted = np.round(resample(expected, region, grid) * 255).astype(int)
    assert found.shape == grid.shape
    assert np.abs(found - wanted).max() <= 1


def test_crop_may_be_smaller_than_the_window(task, raw, tmp_path):
    grid = RAW_GRID.box((20, 20, 20), (8, 8, 8))
    predict_crop([task], raw, [CropLabel(1, "d", "pm", grid)], tmp_path / "c", Inference())
    assert read(tmp_path / "c/pm").shape == (8, 8, 8)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", ["before", "after"])
def test_windows_without_raw_are_left_out_along_each_axis(task, raw, tmp_path, axis, side):
    """A crop may overhang raw by more than a window."""
    start, shape = [8, 8, 8], [32, 32, 32]
    start[axis] = -80 if side == "before" else RAW_GRID.shape[axis] - 20
    shape[axis] = 100
    row = CropLabel(1, "d", "pm", RAW_GRID.box(start, shape))
    predict_crop([task], raw, [row], tmp_path / "c", Inference(overlap=0))
    found = np.moveaxis(read(tmp_path / "c/pm"), axis, 0)
    found = found if side == "after" else found[::-1]
    # A window that holds raw reaches beyond it by less than its size.
    assert (found[:20] > 0).mean() > 0.99 and found[20].any() and not found[52:].any()
    parts = [tmp_path / f"part{i}" for i in range(3)]
    for i, part in enumerate(parts):
        predict_crop([task], raw, [row], part, Inference(overlap=0), part=(i, 3))
    join_parts(parts, tmp_path / "joined")
    assert np.array_equal(read(tmp_path / "joined/pm"), read(tmp_path / "c/pm"))


def test_raw_beyond_missing_chunks_does_not_matter(task, raw, tmp_path):
    grid = RAW_GRID.box((0, 0, 0), (32, 32, 32))
    rows = [CropLabel(1, "d", "pm", grid)]
    for chunk in (tmp_path / "raw/s0").glob("[23]/*/*"):
        chunk.unlink()
    predict_crop([task], Volume.open(tmp_path / "raw"), rows, tmp_path / "c", Inference())
    assert read(tmp_path / "c/pm").std() > 0
    (tmp_path / "raw/s0/1/1/1").unlink()
    with pytest.raises(InputError, match="chunks of raw are missing"):
        predict_crop([task], Volume.open(tmp_path / "raw"), rows, tmp_path / "d", Inference())
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("shape", "overlap"), [((9, 24, 12), 0.5), ((33, 20, 8), 0.25)], ids=str)
def test_raw_beyond_the_margins_does_not_matter(task, raw, tmp_path, shape, overlap):
    grid = RAW_GRID.box((12, 20, 24), shape)
    rows = [CropLabel(1, "d", "pm", grid)]
    inference = Inference(overlap=overlap)
    predict_crop([task], raw, rows, tmp_path / "one", inference)
    settings = task.training_settings.model_copy(update={"inference": inference})
    around = grid.padded(settings.prediction_margins.around(shape))
    inside = tuple(
        slice(max(0, a), b) for a, b in zip(*RAW_GRID.index_box(around, margin=1), strict=True)
    )
    changed = 255 - RAW
    changed[inside] = RAW[inside]
    assert (changed != RAW).any()
    reopen(tmp_path / "raw").write(changed).result()
    predict_crop([task], Volume.open(tmp_path / "raw"), rows, tmp_path / "other", inference)
    np.testing.assert_array_equal(read(tmp_path / "one/pm"), read(tmp_path / "other/pm"))


class Killed(Exception):
    """Simulates the end of the process."""


@pytest.mark.parametrize(
    ("layers", "overlap"),
    [(0, 0.5), (2, 0.5), (4, 0.5), pytest.param(7, 0.75, marks=pytest.mark.slow)],
)
def test_a_killed_prediction_resumes_where_it_stopped(
    task, narrow_raw, tmp_path, monkeypatch, layers, overlap
):
    monkeypatch.setattr(prediction, "_chunks", lambda grids, region: dict.fromkeys(grids, (4,) * 3))
    inference = Inference(window=[16, 32, 32], overlap=overlap, batch=2)
    windows = []
    forward = task.forward
    monkeypatch.setattr(task, "forward", lambda x: windows.append(len(x)) or forward(x))
    predict_crop([task], narrow_raw, NARROW_ROWS, tmp_path / "whole", inference)
    every = sum(windows)

    write, left = PartialResult.write, [layers]

    def write_until_killed(self, *arguments):
        write(self, *arguments)
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    monkeypatch.setattr(PartialResult, "write", write_until_killed)
    with pytest.raises(Killed):
        predict_crop([task], narrow_raw, NARROW_ROWS, tmp_path / "c", inference)
    assert not (tmp_path / "c").exists()
    # Simulate planes that were written but not recorded as done.
    array = Volume.open(tmp_path / "c.partial/pm").levels[0]
    reopen(tmp_path / "c.partial/pm")[array.grid.shape[0] - 1].write(7).result()

    monkeypatch.setattr(PartialResult, "write", write)
    windows.clear()
    predict_crop([task], narrow_raw, NARROW_ROWS, tmp_path / "c", inference)
    assert sum(windows) < every or layers == 0
    for channel in ("mito", "mito_boundary", "pm"):
        assert np.array_equal(read(tmp_path / "whole" / channel), read(tmp_path / "c" / channel))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "done.json", "mito", "mito_boundary", "pm"
    ]  # fmt: skip
    assert not (tmp_path / "c.partial").exists()


@pytest.mark.parametrize("where", ["c", "c.partial"])
def test_a_finished_prediction_is_not_recomputed(task, narrow_raw, tmp_path, monkeypatch, where):
    rows = [CropLabel(1, "d", "pm", NARROW_GRID)]
    predict_crop([task], narrow_raw, rows, tmp_path / "c", Inference())
    made = read(tmp_path / "c/pm")
    (tmp_path / "c").rename(tmp_path / where)
    (tmp_path / "c.partial").mkdir(exist_ok=True)  # As left by other settings.
    monkeypatch.setattr(prediction.Predictor, "run", lambda *_: pytest.fail("recomputed"))
    predict_crop([task], narrow_raw, rows, tmp_path / "c", Inference())
    assert np.array_equal(read(tmp_path / "c/pm"), made)
    assert not (tmp_path / "c.partial").exists()
    # Another version of results is recomputed.
    monkeypatch.setitem(prediction.RESULT_VERSION, "predict", 0)
    with pytest.raises(pytest.fail.Exception, match="recomputed"):
        predict_crop([task], narrow_raw, rows, tmp_path / "c", Inference())


def test_a_partial_result_of_another_network_is_discarded(task, narrow_raw, tmp_path, monkeypatch):
    rows = [CropLabel(1, "d", "pm", NARROW_GRID)]
    predict_crop([task], narrow_raw, rows, tmp_path / "whole", Inference())
    other = tiny_task()
    monkeypatch.setattr(PartialResult, "finish", lambda self: None)
    predict_crop([other], narrow_raw, rows, tmp_path / "c", Inference())
    note = tmp_path / "c.partial/done.json"
    assert json.loads(note.read_text())["done"] == {"pm": 56}
    note.write_text("[7]")
    monkeypatch.undo()
    predict_crop([task], narrow_raw, rows, tmp_path / "c", Inference())
    assert np.array_equal(read(tmp_path / "whole/pm"), read(tmp_path / "c/pm"))


class FailingNetwork(torch.nn.Module):
    """A network of three channels that returns zeros, but NaN from the `last` window on."""

    def __init__(self, last):
        super().__init__()
        self.left = last

    def forward(self, raw):
        self.left -= 1
        return torch.full((1, 3, *raw.shape[2:]), 0.0 if self.left else torch.nan)


def test_nan_ends_the_prediction(raw, tmp_path):
    """The layer with the window does not count as done."""
    failing = tiny_task()
    failing.network = FailingNetwork(27)
    message = (
        r"^d/crop1: the network returned values that are not finite \(NaN or infinity\) in the "
        r"window of \[32, 32, 32\] voxels at \[232.0, 224.0, 336.0\] nm: `precision: mixed` may "
    )
    rows = [CropLabel(1, "d", "pm", RAW_GRID)]
    with pytest.raises(InputError, match=message):
        predict_crop([failing], raw, rows, tmp_path / "c", Inference(overlap=0.5, batch=1))
    assert json.loads((tmp_path / "c.partial/done.json").read_text())["done"] == {"pm": 0}
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("sums_move", [True, False])
def test_sums_leave_a_gpu_that_is_too_small_for_one_window(
    narrow_raw, tmp_path, monkeypatch, sums_move
):
    made = tiny_task()
    network = made.network
    predict_crop([made], narrow_raw, NARROW_ROWS, tmp_path / "wanted", Inference())
    moved = []

    def move_to_host(rows):
        moved.append(rows)
        made.network = network
        return sums_move

    monkeypatch.setattr(prediction.RowSums, "move_to_host", move_to_host)
    made.network = FullGpu()
    arguments = [made], narrow_raw, NARROW_ROWS, tmp_path / "found", Inference(batch=2)
    if not sums_move:
        with pytest.raises(InputError, match="set a smaller `inference.window`"):
            predict_crop(*arguments)
        return
    predict_crop(*arguments)
    assert len(moved) == 1
    for channel in ("mito", "mito_boundary", "pm"):
        found, wanted = (read(tmp_path / name / channel) for name in ("found", "wanted"))
        assert np.abs(found - wanted).max() <= 1


class FullGpu(torch.nn.Module):
    """A network that always runs out of memory."""

    def forward(self, raw):
        raise torch.OutOfMemoryError("CUDA out of memory")


# Chunks of 32 planes are cut where fewer planes are left than half a chunk, or none at all.
@pytest.mark.parametrize(("n", "chunk"), [(2, 8), (4, 8), (9, 8), (2, 32), (4, 32), (5, 24)])
def test_joined_parts_equal_the_whole_crop(task, narrow_raw, tmp_path, monkeypatch, n, chunk):
    monkeypatch.setattr(
        prediction, "_chunks", lambda grids, region: dict.fromkeys(grids, (chunk,) * 3)
    )
    inference = Inference(window=[16, 32, 32], batch=2)
    predict_crop([task], narrow_raw, NARROW_ROWS, tmp_path / "whole", inference)
    parts = [tmp_path / f"part{i}" for i in range(n)]
    for i in reversed(range(n)):
        predict_crop([task], narrow_raw, NARROW_ROWS, parts[i], inference, part=(i, n))
    join_parts(parts, tmp_path / "joined")
    for channel in ("mito", "mito_boundary", "pm"):
        assert np.array_equal(
            read(tmp_path / "whole" / channel), read(tmp_path / "joined" / channel)
        )
    # A joined result has no progress file.
    (tmp_path / "whole/done.json").unlink()
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*"))
        for folder in (tmp_path / "whole", tmp_path / "joined")
    ]
    assert files[0] == files[1]
    last = (NARROW_GRID.shape[0] - 1) // chunk
    assert (tmp_path / f"joined/mito/s0/{last}").exists()
    assert not (parts[0] / f"mito/s0/{last}").exists()


@pytest.mark.parametrize(("planes", "chunk", "n"), [(24, 32, 4), (60, 32, 5), (90, 32, 10)])
def test_parts_cover_all_planes_in_order(planes, chunk, n):
    starts = [_part_start(planes, chunk, i, n) for i in range(n + 1)]
    assert starts == sorted(starts) and starts[0] == 0 and starts[-1] == planes
    assert all(start % chunk == 0 or start == planes for start in starts)


@pytest.mark.parametrize("count", [8, 48])
def test_symmetries_are_averaged(task, raw, tmp_path, monkeypatch, count):
    grid = RAW_GRID.box((0, 0, 0), (32, 32, 32))
    rows = [CropLabel(1, "d", "pm", grid)]
    inference = Inference(overlap=0, symmetries=count)
    image = torch.from_numpy(RAW[:32, :32, :32].astype(np.float32) / 255)
    total = torch.zeros(32, 32, 32)
    turns = [(0, 1, 2)] if count == 8 else list(itertools.permutations(range(3)))
    with torch.inference_mode():
        for axes in turns:
            for flips in itertools.product([0, 1], repeat=3):
                dims = [d for d in range(3) if flips[d]]
                result = torch.sigmoid(task(image.permute(axes).flip(dims)[None, None]))[0, 2]
                total += result.flip(dims).permute(list(np.argsort(axes)))
    # Without context around the crop, there is only the window over the crop itself.
    monkeypatch.setattr(prediction, "_region", lambda *_: (grid, grid))
    predict_crop([task], raw, rows, tmp_path / "d", inference)
    wanted = np.round(total.numpy() / count * 255)
    assert np.abs(read(tmp_path / "d/pm") - wanted).max() <= 1
    single = Inference(overlap=0)
    predict_crop([task], raw, rows, tmp_path / "single", single)
    assert np.abs(read(tmp_path / "single/pm") - wanted).max() > 1


def test_no_window_is_computed_twice(task, raw, tmp_path, monkeypatch):
    windows = []
    forward = task.forward
    monkeypatch.setattr(task, "forward", lambda x: windows.append(len(x)) or forward(x))
    monkeypatch.setattr(prediction, "MAX_SUMS_BYTES", 1)
    predict_crop([task], raw, [CropLabel(1, "d", "pm", RAW_GRID)], tmp_path / "c", Inference())
    starts = dense_patch_slices(RAW_GRID.shape, (32, 32, 32), (16, 16, 16))
    assert sum(windows) == len(starts)


def test_label_that_the_network_does_not_predict_is_refused(task, raw, tmp_path):
    rows = [CropLabel(1, "d", "er", RAW_GRID)]
    with pytest.raises(InputError, match="predicts mito, pm, not er"):
        predict_crop([task], raw, rows, tmp_path / "c", Inference())


def test_windows_may_reach_beyond_the_raw_that_is_present(tmp_path):
    grid = Grid((8, 8, 8), (0, 0, 0), (64, 64, 64))
    voxels = np.random.default_rng(0).integers(1, 255, grid.shape).astype(np.uint8)
    create(tmp_path / "raw", grid, "uint8", chunk=16).write(voxels).result()
    for chunk in (tmp_path / "raw/s0").glob("*/*/*"):
        # Voxels 16 to 48 stay.
        if not {"1", "2"}.issuperset(chunk.parts[-3:]):
            chunk.unlink()
    # The window of 32 voxels around this crop lies at 22 to 54.
    row = CropLabel(1, "d", "pm", grid.box((34, 34, 34), (8, 8, 8)))
    raw = Volume.open(tmp_path / "raw")
    predict_crop([tiny_task()], raw, [row], tmp_path / "crop1", Inference())
    (level,) = Volume.open(tmp_path / "crop1/pm").levels
    assert level.grid == row.grid and level.read((0, 0, 0), row.grid.shape).any()


def test_descriptors_are_stored_only_where_asked_for(narrow_raw, tmp_path):
    task = tiny_task(targets={"mito": ["boundary", "descriptors"]})
    rows = NARROW_ROWS[:1]
    predict_crop([task], narrow_raw, rows, tmp_path / "few", Inference())
    assert {path.name for path in (tmp_path / "few").iterdir() if path.is_dir()} == {
        "mito", "mito_boundary"
    }  # fmt: skip
    predict_crop([task], narrow_raw, rows, tmp_path / "all", Inference(store=["descriptors"]))
    stored = {path.name for path in (tmp_path / "all").iterdir() if path.is_dir()}
    assert stored == set(task.channels) - {"pm"}
    for channel in ("mito", "mito_boundary"):
        assert np.array_equal(read(tmp_path / "few" / channel), read(tmp_path / "all" / channel))


# Thin chunks, so that planes are written as soon as no later window changes them.
@pytest.mark.parametrize("voxel_size", [(4, 4, 4), (2, 8, 8)])
def test_affinities_are_stored_on_the_faces_of_other_voxels(
    narrow_raw, tmp_path, monkeypatch, voxel_size
):
    """A face lies half a voxel before a voxel, which is another length on a finer grid."""
    chunk = 1, 64, 64
    monkeypatch.setattr(prediction, "_chunks", lambda grids, region: dict.fromkeys(grids, chunk))
    torch.manual_seed(0)
    task = tiny_task(targets={"mito": ["affinities"]})
    fine = NARROW_GRID.at(voxel_size)
    for name, grid in (("own", NARROW_GRID), ("fine", fine)):
        row = CropLabel(1, "d", "mito", grid)
        predict_crop([task], narrow_raw, [row], tmp_path / name, Inference(window=[16, 32, 32]))
    shifts = (np.array(NARROW_GRID.voxel_size) - voxel_size) / 2
    for axis, suffix in enumerate(AFFINITY_SUFFIXES):
        faces = replace(fine, translation=tuple(fine.translation + shifts * (np.arange(3) == axis)))
        own = read(tmp_path / "own" / f"mito{suffix}")
        found = read(tmp_path / "fine" / f"mito{suffix}")
        assert np.abs(found - resample(own, NARROW_GRID, faces)).max() <= 1
        if shifts[axis]:
            assert np.abs(found - resample(own, NARROW_GRID, fine)).max() > 1
