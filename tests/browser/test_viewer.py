"""The viewer in a real browser: its layers, and the positions of voxels."""

import re
import signal
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.request import urlopen

import neuroglancer as ng
import numpy as np
import pytest
import zarr
from chromium import errors, is_blank, pixels

from cellmap_pipeline.config.load import read_run
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.report.crop_layers import CropLayer, CropLayers, find_layers
from cellmap_pipeline.report.viewer import RAW, serve
from cellmap_pipeline.segmentation.final_labels import segment_crop
from tests.support.runs import wait_until

pytestmark = pytest.mark.browser

# Grids that share neither voxels nor corners: some are shifted by half a voxel of another.
GRIDS = {
    "raw": Grid((4, 4, 4), (1000, 2000, 3000), (96, 96, 96)),
    "mito ground truth": Grid((8, 8, 8), (1066, 2062, 3062), (24, 24, 24)),
    "mito labels": Grid((8, 8, 8), (1062, 2062, 3062), (24, 24, 24)),
    "pm labels": Grid((3.48, 4, 4), (1070.44, 2062, 3064), (40, 40, 40)),
    "mito (net)": Grid((16, 16, 16), (1064, 2064, 3060), (12, 12, 12)),
}
BOXES = {
    "raw": (30, 40, 50, 8), "mito ground truth": (5, 9, 13, 3), "mito labels": (7, 3, 11, 4),
    "pm labels": (11, 17, 6, 7), "mito (net)": (2, 5, 4, 2),
}  # fmt: skip


@pytest.fixture(autouse=True)
def stop_server():
    yield
    ng.stop()


@pytest.fixture(scope="module")
def drawn_crop(tmp_path_factory):
    """A crop whose volumes each contain one box of voxels."""
    folder = tmp_path_factory.mktemp("known")
    layers = []
    for name, grid in GRIDS.items():
        *start, n = BOXES[name]
        box = tuple(slice(a, a + n) for a in start)
        path = folder / name.replace(" ", "_")
        if name == "mito ground truth":
            # Like the challenge's ground truth: a single array whose chunk keys have dots.
            array = zarr.open(str(path), "w", shape=grid.shape, chunks=10, dtype="<u8")
            array[box] = 3
            array.attrs.update(voxel_size=grid.voxel_size, translation=grid.translation)
        else:
            voxels = np.zeros(grid.shape, np.uint8)
            voxels[box] = {"raw": 200, "mito (net)": 255}.get(name, 1)
            create(path, grid, "uint8", chunk=(7, 16, 16)).write(voxels).result()
        if name != "raw":
            channel, source = name.split(maxsplit=1)
            kind = {"ground truth": "truth", "labels": "labels"}.get(source, "probability")
            layers.append(CropLayer(kind, channel, source, path))
    return CropLayers(1, "drawn", folder / "raw", layers)


def bright_extent(picture, axis):
    """Return the first and last pixel along an axis that is colored or bright."""
    bright = picture.max(axis=2) - picture.min(axis=2) > 20
    bright |= picture.min(axis=2) > 180
    along = np.flatnonzero(bright.any(axis=1 - axis))
    return along[0], along[-1]


@pytest.mark.parametrize("name", GRIDS)
def test_voxels_are_shown_at_their_position(browser, drawn_crop, name):
    view = serve(drawn_crop)
    browser.get(view.url)
    *start, n = BOXES[name]
    box = GRIDS[name].box(start, (n, n, n))
    # Off-center, so that swapped sides are noticed.
    center = np.array(box.lower) * 0.4 + np.array(box.upper) * 0.6
    pixel = 0.5  # nm
    with view.viewer.txn() as state:
        size = state.dimensions.scales * 1e9
        state.position = center[::-1] / size
        state.cross_section_scale = pixel / size.min()
        state.show_scale_bar = state.show_default_annotations = False
        for layer in state.layers:
            layer.visible = layer.name == name
    # Axes shown downwards and to the right; in Neuroglancer's y–z view, z points to the left.
    for layout, axes in (("xy", (1, 2)), ("xz", (0, 2)), ("yz", (1, 0))):
        with view.viewer.txn() as state:
            state.layout = ng.LayerGroupViewer(layers=[name], layout=layout)
        picture = pixels(view.viewer.screenshot((500, 400)).screenshot.image)
        for across, axis in enumerate(axes):
            first, last = bright_extent(picture, across)
            middle = picture.shape[across] / 2
            off = np.array([first, last + 1]) - middle
            off = -off[::-1] if (layout, axis) == ("yz", 0) else off
            found = off * pixel + center[axis]
            assert found == pytest.approx([box.lower[axis], box.upper[axis]], abs=pixel), layout
    assert errors(browser) == []


class OpenFiles(SimpleHTTPRequestHandler):
    """A web server of files, which pages of other servers may read."""

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def files(tmp_path):
    """Address and folder of a web server."""
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(OpenFiles, directory=str(tmp_path))
    ) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path
        server.shutdown()


def test_neuroglancer_reads_the_files_as_they_are(browser, files):
    address, folder = files
    grid = Grid((8, 4, 4), (1000, 2000, 3000), (40, 50, 60))
    probability = np.zeros(grid.shape, np.uint8)
    start, n = (11, 17, 6), 12
    probability[tuple(slice(a, a + n) for a in start)] = 255
    create(folder / "predicted/mito", grid, "uint8").write(probability).result()
    row = CropLabel(1, "d", "mito", grid)
    settings = {"min_size_nm3": 0, "smooth_nm": 0}
    segment_crop(row, [[folder / "predicted/mito"]], {}, settings, folder / "labels/mito")
    box = grid.box(start, (n, n, n))
    center = np.array(box.lower) * 0.4 + np.array(box.upper) * 0.6
    viewer = ng.Viewer()
    browser.get(viewer.get_viewer_url())
    with viewer.txn() as state:
        state.dimensions = ng.CoordinateSpace(names=list("xyz"), units="nm", scales=[4, 4, 8])
        state.layers["mito"] = ng.SegmentationLayer(source=f"zarr://{address}/labels/mito")
        state.position = center[::-1] / [4, 4, 8]
        state.cross_section_scale = 0.5 / 4
        state.show_scale_bar = state.show_default_annotations = state.show_axis_lines = False
        state.layout = "xy"
    picture = pixels(viewer.screenshot((500, 400)).screenshot.image)
    for across, axis in enumerate((1, 2)):
        first, last = bright_extent(picture, across)
        found = (np.array([first, last + 1]) - picture.shape[across] / 2) * 0.5 + center[axis]
        assert found == pytest.approx([box.lower[axis], box.upper[axis]], abs=0.5)
    assert errors(browser) == []


def test_layers_of_a_finished_run(browser, finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    crop = find_layers(read_run(finished.folder / "config/config.yaml"), 5)
    view = serve(crop)
    browser.get(view.url)
    view.viewer.screenshot()
    state = view.viewer.state
    assert view.notes == []
    assert [layer.name for layer in state.layers] == [
        RAW,
        *("nuc ground truth", "nuc labels", "nuc (tiny)", "nuc_boundary (tiny)"),
        *("mito ground truth", "mito labels", "mito (tiny)"),
        *(f"mito_affinity_{offset} (tiny)" for offset in ("0_0_32nm", "x", "y", "z")),
        *("pm ground truth", "pm labels", "pm (tiny)"),
    ]
    assert not is_blank(browser.get_screenshot_as_png())
    assert errors(browser) == []


def test_view_command(browser, finished):
    command = [sys.executable, "-m", "cellmap_pipeline.cli", "view", "5", "--no-browser"]
    process = subprocess.Popen(command, cwd=finished.folder, stdout=subprocess.PIPE, text=True)
    output = ""
    while "Ctrl-C" not in output:
        output += process.stdout.readline()
        assert process.poll() is None, output
    url = re.search(r"http://127\.0\.0\.1:(\d+)/v/\w+/", output)
    assert f"ssh -L {url[1]}:localhost:{url[1]} " in output
    browser.get(url[0])
    assert wait_until(lambda: "crop 5 of demo_cell-1" in browser.title)
    with urlopen(url[0].replace("127.0.0.1", "localhost")) as page:
        assert page.status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
