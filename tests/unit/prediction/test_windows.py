"""Positions and weights of windows, layers, and sums."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.prediction.window_sums import RowSums, WindowSums
from cellmap_pipeline.prediction.windows import Windows, plan_layers

sizes = st.integers(2, 6)


@settings(deadline=None, max_examples=50)
@given(
    shape=st.tuples(*[st.integers(6, 14)] * 3),
    window=st.tuples(sizes, sizes, sizes),
    overlap=st.sampled_from([0, 0.25, 0.5, 0.75]),
    blending=st.sampled_from(["gaussian", "constant"]),
)
def test_windows_agree_with_monai_and_their_weights_sum_to_one(shape, window, overlap, blending):
    windows = Windows(shape, window, overlap, blending)
    step = [max(1, int(w * (1 - overlap))) for w in window]
    corners = [
        (z, y, x)
        for z in windows.starts[0]
        for y in windows.starts[1]
        for x in windows.starts[2]
    ]  # fmt: skip
    assert corners == sorted(
        tuple(axis.start for axis in box) for box in dense_patch_slices(shape, window, step)
    )
    total = np.zeros(shape)
    for corner in corners:
        box = tuple(slice(a, a + n) for a, n in zip(corner, window, strict=True))
        total[box] += windows.weights(corner).numpy()
    assert np.abs(total - 1).max() < 1e-5


@given(
    planes=st.integers(9, 80),
    ratio=st.sampled_from([0.5, 0.87, 1, 2, 3.3]),
    shift=st.floats(-3, 5),
    overlap=st.sampled_from([0, 0.5, 0.75]),
    cut=st.floats(0, 1),
)
def test_every_plane_is_finished_once_by_the_last_window_over_it(
    planes, ratio, shift, overlap, cut
):
    region = Grid((8, 8, 8), (0, 0, 0), (planes, 9, 9))
    windows = Windows(region.shape, (9, 9, 9), overlap, "constant")
    n = max(1, int((planes - 6) / ratio))
    grid = Grid((8 * ratio, 8, 8), (8 * (shift + ratio / 2), 0, 0), (n, 9, 9))
    chunk = 4
    begin = int(cut * n) // chunk * chunk
    layers = plan_layers(windows, region, {"a": grid}, {"a": chunk}, {"a": (begin, n)}, (0, planes))
    finished = [layer.finished["a"] for layer in layers if "a" in layer.finished]
    assert [first for first, _ in finished] == [begin, *[last for _, last in finished]][:-1]
    if begin < n:
        assert finished[-1][1] == n
    assert all(last % chunk == 0 for _, last in finished[:-1])
    starts = [layer.start for layer in layers]
    assert starts == sorted(set(starts))
    for layer in layers:
        first, last = layer.finished.get("a", (0, 0))
        later = [s for s in windows.starts[0] if s > layer.start]
        if last:
            part = grid.box((first, 0, 0), (last - first, 9, 9))
            low, high = region.index_box(part)
            # All windows over these planes have been predicted, and no later one covers them.
            needed = [s for s in windows.starts[0] if s < min(high[0], planes) and s + 9 > low[0]]
            assert set(needed) <= set(starts)
            assert not later or later[0] >= min(high[0], planes)


@pytest.mark.parametrize(
    ("part", "starts", "finished"),
    [
        ((0, 60), [20, 30], [(0, 28), (28, 60)]),
        ((0, 12), [20], [(0, 12)]),
        ((32, 60), [30], [(32, 60)]),
        ((48, 60), [30], [(48, 60)]),
        ((60, 60), [], []),
    ],
)
def test_layers_without_raw_are_left_out(part, starts, finished):
    """Planes that no window with raw reaches are finished by the first or the last of these."""
    region = Grid((8, 8, 8), (0, 0, 0), (60, 10, 10))
    windows = Windows(region.shape, (10, 10, 10), 0, "constant")
    layers = plan_layers(windows, region, {"a": region}, {"a": 4}, {"a": part}, (20, 40))
    assert [layer.start for layer in layers] == starts
    assert [layer.finished["a"] for layer in layers if layer.finished] == finished


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_sums_do_not_depend_on_order_and_memory(data):
    shape = (40, 70, 66)
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(data.draw(st.integers(1, 6))):
        start = [data.draw(st.integers(0, n - 5)) for n in shape]
        size = [data.draw(st.integers(1, n - s)) for n, s in zip(shape, start, strict=True)]
        boxes.append((start, rng.integers(0, 9000, (2, *size)).astype(np.uint16)))
    wanted = np.zeros((2, *shape), np.uint16)
    for start, values in boxes:
        box = tuple(slice(s, s + n) for s, n in zip(start, values.shape[1:], strict=True))
        wanted[(slice(None), *box)] += values
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as helpers:
        sums = WindowSums(2, Path(folder), max_bytes=data.draw(st.sampled_from([1, 1 << 30])))
        for start, values in data.draw(st.permutations(boxes)):
            sums.add(start, values, helpers)
        assert np.array_equal(sums.read(1, (0, 0, 0), shape), wanted[1])
        sums.free_below(33)
        assert not sums.read(0, (0, 0, 0), (32, 70, 66)).any()
        assert np.array_equal(sums.read(0, (32, 3, 4), shape), wanted[0, 32:, 3:, 4:])


def test_chunks_beyond_the_memory_are_files_that_are_removed(tmp_path):
    sums = WindowSums(1, tmp_path, max_bytes=1)
    with ThreadPoolExecutor(1) as helpers:
        sums.add((0, 0, 0), np.ones((1, 64, 64, 64), np.uint16), helpers)
    assert len(list(tmp_path.iterdir())) == 1
    sums.free_below(64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_an_interior_window_weighs_most_in_its_middle(overlap):
    windows = Windows((40, 40, 40), (8, 8, 8), overlap, "gaussian")
    weight = windows.weights(tuple(axis[2] for axis in windows.starts))
    assert weight.shape == (8, 8, 8)
    assert weight[4, 4, 4] == pytest.approx(weight.max())
    assert (weight.max() - weight.min() < 1e-6) == (overlap == 0)


def zeros_in_small_memory(shape, *, dtype, device=None):
    if device is not None:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return torch.empty(shape, dtype=dtype).zero_()


@pytest.mark.parametrize("small_gpu", [False, True])
def test_row_sums_equal_the_sums_of_all_windows(monkeypatch, caplog, small_gpu):
    """Also where the GPU's memory, here that of torch's device without data, is too small."""
    device = torch.device("meta" if small_gpu else "cpu")
    if small_gpu:
        monkeypatch.setattr(torch, "zeros", zeros_in_small_memory)
    check_row_sums(device, caplog, small_gpu)


def test_row_sums_that_cannot_be_shifted_move(monkeypatch):
    shift, moved = RowSums._shift, []

    def shift_once(rows, channel, number):
        if channel == 1 and not moved:
            raise torch.OutOfMemoryError("CUDA out of memory")
        shift(rows, channel, number)

    monkeypatch.setattr(RowSums, "_shift", shift_once)
    monkeypatch.setattr(RowSums, "move_to_host", lambda rows: moved.append(rows))
    check_row_sums(torch.device("cpu"))
    assert len(moved) == 1


def check_row_sums(device, caplog=None, small_gpu=False):
    rng = np.random.default_rng(0)
    wanted = np.zeros((2, 4, 14, 17), np.uint16)
    rows = RowSums(2, (4, 6, 5), [3, 6, 15], device)
    if caplog is not None:
        assert ("the host's memory holds them" in caplog.text) == small_gpu
    parts = []
    for y, step in ((0, 3), (3, 5), (8, 6)):
        for x in (3, 6, 15):
            values = rng.integers(0, 20000, (2, 4, 6, 5)).astype(np.uint16)
            wanted[:, :, y : y + 6, x - 3 : x + 2] += values
            rows.add(x, torch.from_numpy(values.view(np.int16)))
        parts.append(rows.advance(step))
    assert wanted.max() > 1 << 15
    found = np.concatenate([part.numpy() for part in parts], axis=2)
    assert np.array_equal(found.view(np.uint16), wanted)
