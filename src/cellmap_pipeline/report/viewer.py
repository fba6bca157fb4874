"""A view of a crop in Neuroglancer (https://github.com/google/neuroglancer), served locally.

The page, its state and the voxels are served from one port by one process. Nothing is uploaded, and
nothing is loaded from other servers.
"""

from __future__ import annotations

import asyncio
import getpass
import html
import logging
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import neuroglancer as ng
import numpy as np
from neuroglancer import server
from tornado.web import RequestHandler

from cellmap_pipeline.classes import is_instance, style_of
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import Encoding, LabelVolume
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.crop_layers import KINDS, CropLayer, CropLayers
from cellmap_pipeline.report.served_volumes import ServedVolume

log = logging.getLogger(__name__)

RAW = "raw"
UNKNOWN_COLOR = "#808080"
ABSENT_COLOR = "#000000"
# Edge of the box in the crop's middle from which the contrast of raw is estimated.
CONTRAST_BOX_VOXELS = 128
GRAY_SHADER = """#uicontrol invlerp contrast
void main() { emitGrayscale(contrast()); }
"""
TINTED_SHADER = """#uicontrol vec3 color color
#uicontrol invlerp probability(range=[0, 255])
void main() { emitRGBA(vec4(color, probability())); }
"""
# Number of classes whose layers have tabs; the page has no room for more.
MAX_TABS = 12
# Initial size of a crop's longest side.
CROP_PIXELS = 360


@dataclass
class ServedCrop:
    """A crop that is being served.

    Attributes
    ----------
    viewer
        Neuroglancer's viewer, whose `state` follows the user's actions.
    port
        Port on this machine.
    notes
        Messages about volumes that cannot be shown.
    """

    viewer: ng.Viewer
    port: int
    notes: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Address of the page."""
        return self.viewer.get_viewer_url()


class _VolumeHandler(RequestHandler):
    """Serves the files of volumes."""

    def initialize(self, volumes: Mapping[str, ServedVolume]) -> None:
        self.volumes = volumes

    def set_default_headers(self) -> None:
        # The page may address this machine by another name. Its address is secret anyway.
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cache-Control", "no-cache")

    async def get(self, number: str, key: str) -> None:
        loop = asyncio.get_running_loop()
        volume = self.volumes.get(number)
        try:
            content = await loop.run_in_executor(None, volume.read, key) if volume else None
        except InputError as error:
            # A broken chunk: the other ones are shown.
            log.warning("%s", error)
            content = None
        if content is None:
            self.set_status(404)
        else:
            self.set_header("Content-Type", "application/octet-stream")
            self.write(content)


def serve(crop: CropLayers, address: str = "127.0.0.1", port: int = 0) -> ServedCrop:
    """Serve a crop until `neuroglancer.stop` is called.

    If raw cannot be read, the other volumes are shown without it.

    Parameters
    ----------
    crop
        The crop's volumes.
    address
        Address to listen at.
    port
        Port to listen at; 0 for a free one.

    Raises
    ------
    InputError
        A volume of the crop cannot be read, or the port is in use.
    """
    notes = []
    if not crop.of_kind("labels") + crop.of_kind("probability"):
        notes.append(f"crop {crop.crop} has no results yet")
    volumes = {layer.name: Volume.open(layer.path) for layer in crop.layers}
    try:
        # Without a list of absent levels, the finest local level is shown.
        volumes = {RAW: replace(Volume.open(crop.raw), absent=[])} | volumes
    except InputError as error:
        notes.append(f"raw is not shown: {error}")
    ng.set_server_bind_address(address, port)
    try:
        # The page must not use credentials of the user.
        viewer = ng.Viewer(allow_credentials=False)
    except OSError as error:
        raise InputError(
            f"port {port} of {address} cannot be used ({error.strerror}): choose another "
            "with --port"
        ) from None
    if ":" in address:
        # Neuroglancer leaves out the brackets of an IPv6 address.
        url = server.get_server_url()
        server.global_server.server_url = url.replace(f"//{address}:", f"//[{address}]:")
    served = {str(i): ServedVolume(volume) for i, volume in enumerate(volumes.values())}
    # Like the page's address, that of the volumes contains a secret.
    secret = rf"/volumes/{viewer.token}/(\d+)/(.*)"
    server.global_server.app.add_handlers(".*", [(secret, _VolumeHandler, {"volumes": served})])
    base = f"{server.get_server_url()}/volumes/{viewer.token}"
    urls = {name: f"{base}/{i}/|zarr2:" for i, name in enumerate(volumes)}
    viewer.set_state(initial_state(crop, volumes, urls))
    return ServedCrop(viewer, server.global_server.port, notes)


def view(crop: CropLayers, address: str, port: int, browser: bool) -> None:
    """Serve a crop, open it in the browser if `browser`, and wait for Ctrl-C."""
    served = serve(crop, address, port)
    for note in served.notes:
        print(f"note: {note}", file=sys.stderr)
    counts = {kind: len(crop.of_kind(kind)) for kind in KINDS}
    contents = ", ".join(f"{kind} of {count}" for kind, count in counts.items() if count)
    login = f"{getpass.getuser()}@{socket.gethostname()}"
    print(
        f"crop {crop.crop} of {crop.dataset}: {contents}\n\n  {served.url}\n\n"
        "To view it on another machine, run this command there, and open the same link:\n\n"
        f"  ssh -L {served.port}:localhost:{served.port} {login}\n\nPress Ctrl-C to stop.",
        flush=True,
    )
    with private_page(served.url) as page:
        if browser and "SSH_CONNECTION" not in os.environ:
            webbrowser.open(page.as_uri())
        try:
            signal.pause()
        except KeyboardInterrupt:
            print()
        finally:
            ng.stop()


@contextmanager
def private_page(url: str) -> Iterator[Path]:
    """Yield the path of a page that only this user can read, and that leads to `url`.

    All users of a machine can read the command line of a browser, which therefore must not hold the
    secret in the URL.
    """
    with tempfile.TemporaryDirectory(prefix="cellmap-pipeline-") as folder:
        page = Path(folder) / "crop.html"
        page.touch(0o600)
        page.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(url)}">'
            f'<a href="{html.escape(url)}">crop</a>\n'
        )
        yield page


def initial_state(
    crop: CropLayers, volumes: Mapping[str, Volume], urls: Mapping[str, str]
) -> ng.ViewerState:
    """Create the viewer's initial state.

    It has a column each for ground truth, labels and probabilities, over raw, and shows the first
    class in all of them. Layers without a tab (auxiliary channels, and classes after the first
    `MAX_TABS`) are available from Neuroglancer's list of layers.

    Parameters
    ----------
    crop
        The crop's volumes.
    volumes
        Opened volumes by name of the layer, and by `RAW` if raw is available.
    urls
        Addresses of the volumes by the same names.
    """
    state = ng.ViewerState()
    state.title = f"crop {crop.crop} of {crop.dataset}"
    grid = min(
        (volumes[layer.name].levels[0].grid for layer in crop.layers),
        key=lambda grid: grid.voxel_size,
    )
    size = np.array(grid.voxel_size)
    state.dimensions = ng.CoordinateSpace(names=list("xyz"), units="nm", scales=size[::-1])
    middle = grid.box([n // 2 for n in grid.shape], (1, 1, 1))
    # In units of `size`, so that a step of the mouse wheel is one voxel.
    state.position = (np.array(middle.translation) / size)[::-1]
    extent = max(np.subtract(grid.upper, grid.lower)) / size.min()
    state.cross_section_scale = extent / CROP_PIXELS
    state.projection_scale = 2 * extent
    state.show_axis_lines = False
    if RAW in volumes:
        state.layers[RAW] = _raw_layer(volumes[RAW], grid, urls[RAW])
    tabs = list(dict.fromkeys(layer.label for layer in crop.layers))[:MAX_TABS]
    shown: set[str] = set()
    for layer in crop.layers:
        if layer.kind == "probability":
            ng_layer = _probability_layer(layer, urls[layer.name])
        else:
            ng_layer = _label_layer(layer, LabelVolume.open(layer.path).encoding, urls[layer.name])
        is_first = layer.label == tabs[0] and layer.kind not in shown
        shown |= {layer.kind} if is_first else set()
        # An archived layer has no tab, but is in the list of layers.
        archived = layer.channel not in tabs
        state.layers.append(name=layer.name, layer=ng_layer, visible=is_first, archived=archived)
    columns = [[layer.name for layer in crop.of_kind(kind)] for kind in KINDS if crop.of_kind(kind)]
    raw = [RAW] * (RAW in volumes)
    layout = "xy" if len(columns) > 1 else "4panel"
    state.layout = ng.row_layout(
        [ng.LayerGroupViewer(layers=raw + names, layout=layout) for names in columns]
    )
    return state


def _raw_layer(raw: Volume, grid: Grid, url: str) -> ng.ImageLayer:
    # The frame is drawn around the crop, not around all of raw.
    source = ng.LayerDataSource(url=url, subsources={"bounds": False})
    controls = {"contrast": {"range": _contrast(raw, grid)}}
    return ng.ImageLayer(source=source, shader=GRAY_SHADER, shader_controls=controls)


def _probability_layer(layer: CropLayer, url: str) -> ng.ImageLayer:
    controls = {"color": style_of(layer.label).color}
    return ng.ImageLayer(source=url, shader=TINTED_SHADER, shader_controls=controls, opacity=0.7)


def _label_layer(layer: CropLayer, encoding: Encoding, url: str) -> ng.SegmentationLayer:
    """Create a layer in which objects have different colors, semantic labels that of their class.

    As in figures.
    """
    ng_layer = ng.SegmentationLayer(source=url, selected_alpha=0.4)
    if not is_instance(layer.label):
        ng_layer.segment_default_color = style_of(layer.label).color
    colors = {}
    if encoding.unknown is not None:
        colors[encoding.unknown] = UNKNOWN_COLOR
    if encoding.absent:
        colors[encoding.absent] = ABSENT_COLOR
    ng_layer.segment_colors = colors
    return ng_layer


def _contrast(raw: Volume, crop: Grid) -> list[float]:
    """Percentiles 0.5 and 99.5 of raw in the crop's middle, in the stored unit."""
    level = raw.level_for(crop.voxel_size)
    start, stop = (np.array(corner) for corner in level.grid.index_box(crop))
    middle = (start + stop) // 2
    low = np.clip(np.maximum(start, middle - CONTRAST_BOX_VOXELS // 2), 0, level.grid.shape)
    high = np.clip(np.minimum(stop, middle + CONTRAST_BOX_VOXELS // 2), 0, level.grid.shape)
    voxels = level.read(low, high)
    # Voxels that were not imaged or not fetched are 0.
    voxels = voxels[voxels != 0]
    dark, bright = np.percentile(voxels, (0.5, 99.5)) if voxels.size else (0, 1)
    return [float(dark), float(bright)] if dark < bright else [0.0, float(bright)]
