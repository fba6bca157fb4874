"""A crop in Neuroglancer (https://github.com/google/neuroglancer), served from this machine.

The page, its state and the voxels come from one port of one process; nothing is uploaded, and
nothing comes from elsewhere.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import neuroglancer as ng
import numpy as np
from neuroglancer import server
from tornado.web import RequestHandler

from cellmap_pipeline.classes import is_instance, look_of
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.crop_layers import KINDS, CropLayer, CropLayers
from cellmap_pipeline.report.served_volumes import ServedVolume

RAW = "raw"
UNKNOWN = "#808080"
# Of raw, where its contrast is looked at: so many voxels along each axis in the crop's middle.
LOOKED_AT = 128
GREY = """#uicontrol invlerp contrast
void main() { emitGrayscale(contrast()); }
"""
TINTED = """#uicontrol vec3 colour color
#uicontrol invlerp probability(range=[0, 255])
void main() { emitRGBA(vec4(colour, probability())); }
"""
# Classes with tabs of their own; with more, no room is left.
TABS = 12
# That the longest side of a crop takes at first.
PIXELS = 360


@dataclass
class View:
    """A crop that is being served.

    Attributes
    ----------
    viewer
        Neuroglancer's, whose `state` follows what the user does.
    port
        Of this machine.
    notes
        What cannot be shown, and why.
    """

    viewer: ng.Viewer
    port: int
    notes: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The page."""
        return self.viewer.get_viewer_url()


class _Volumes(RequestHandler):
    """Hands out the volumes' files."""

    def initialize(self, volumes: Mapping[str, ServedVolume]) -> None:
        self.volumes = volumes

    def set_default_headers(self) -> None:
        # The page may have another name for this machine. Its address is a secret anyway.
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cache-Control", "no-cache")

    async def get(self, number: str, key: str) -> None:
        loop = asyncio.get_running_loop()
        volume = self.volumes.get(number)
        content = await loop.run_in_executor(None, volume.read, key) if volume else None
        if content is None:
            self.set_status(404)
        else:
            self.set_header("Content-Type", "application/octet-stream")
            self.write(content)


def serve(crop: CropLayers, address: str = "127.0.0.1", port: int = 0) -> View:
    """Serve a crop until `neuroglancer.stop`.

    Parameters
    ----------
    address, port
        To listen at; 0: a free port.

    Raises
    ------
    InputError
        A volume of the crop cannot be read, or the port is taken. Without its raw, a crop is shown
        all the same.
    """
    notes = []
    if not crop.of("labels") + crop.of("probability"):
        notes.append(f"nothing of crop {crop.crop} is made yet")
    volumes = {layer.name: Volume.open(layer.path) for layer in crop.layers}
    try:
        # A picture takes the finest level that is here.
        volumes = {RAW: replace(Volume.open(crop.raw), absent=[])} | volumes
    except InputError as error:
        notes.append(f"raw is not shown: {error}")
    ng.set_server_bind_address(address, port)
    try:
        # No credentials of the user's are for the page.
        viewer = ng.Viewer(allow_credentials=False)
    except OSError as error:
        raise InputError(
            f"port {port} of {address} cannot be used ({error.strerror}): choose another by --port"
        ) from None
    served = {str(i): ServedVolume(volume) for i, volume in enumerate(volumes.values())}
    # Like that of the page, the address of the volumes holds a secret.
    secret = rf"/volumes/{viewer.token}/(\d+)/(.*)"
    server.global_server.app.add_handlers(".*", [(secret, _Volumes, {"volumes": served})])
    base = f"{server.get_server_url()}/volumes/{viewer.token}"
    urls = {name: f"{base}/{i}/|zarr2:" for i, name in enumerate(volumes)}
    viewer.set_state(state_of(crop, volumes, urls))
    return View(viewer, server.global_server.port, notes)


def view(crop: CropLayers, address: str, port: int, browser: bool) -> None:
    """Serve a crop, open it in the browser, and wait for Ctrl-C."""
    served = serve(crop, address, port)
    for note in served.notes:
        print(f"note: {note}", file=sys.stderr)
    counts = {kind: len(crop.of(kind)) for kind in KINDS}
    what = ", ".join(f"{kind} of {count}" for kind, count in counts.items() if count)
    here = f"{getpass.getuser()}@{socket.gethostname()}"
    print(
        f"crop {crop.crop} of {crop.dataset}: {what}\n\n  {served.url}\n\n"
        "On another machine, open the same link there after:\n\n"
        f"  ssh -L {served.port}:localhost:{served.port} {here}\n\nCtrl-C ends.",
        flush=True,
    )
    if browser and "SSH_CONNECTION" not in os.environ:
        webbrowser.open(served.url)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()
    finally:
        ng.stop()


def state_of(
    crop: CropLayers, volumes: Mapping[str, Volume], urls: Mapping[str, str]
) -> ng.ViewerState:
    """What the viewer shows at first.

    A column each for truth, labels and probabilities, over raw: the first class in all of them.
    What has no tab stands in Neuroglancer's list of layers: further channels, and many classes.

    Parameters
    ----------
    volumes, urls
        By name of the layer, and of `RAW` where it is there.
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
    # Of voxels of `size`, so that a step of the mouse wheel is one of them.
    state.position = (np.array(middle.translation) / size)[::-1]
    extent = max(np.subtract(grid.upper, grid.lower)) / size.min()
    state.cross_section_scale = extent / PIXELS
    state.projection_scale = 2 * extent
    state.show_axis_lines = False
    if RAW in volumes:
        state.layers[RAW] = _raw_layer(volumes[RAW], grid, urls[RAW])
    tabs = list(dict.fromkeys(layer.label for layer in crop.layers))[:TABS]
    shown: set[str] = set()
    for layer in crop.layers:
        if layer.kind == "probability":
            made = _probability_layer(layer, urls[layer.name])
        else:
            made = _label_layer(layer, LabelVolume.open(layer.path).unknown, urls[layer.name])
        first = layer.label == tabs[0] and layer.kind not in shown
        shown |= {layer.kind} if first else set()
        # An archived layer has no tab, but stands in the list of layers.
        archived = layer.channel not in tabs
        state.layers.append(name=layer.name, layer=made, visible=first, archived=archived)
    columns = [[layer.name for layer in crop.of(kind)] for kind in KINDS if crop.of(kind)]
    raw = [RAW] * (RAW in volumes)
    layout = "xy" if len(columns) > 1 else "4panel"
    state.layout = ng.row_layout(
        [ng.LayerGroupViewer(layers=raw + names, layout=layout) for names in columns]
    )
    return state


def _raw_layer(raw: Volume, grid: Grid, url: str) -> ng.ImageLayer:
    # The frame that is drawn is the crop's.
    source = ng.LayerDataSource(url=url, subsources={"bounds": False})
    controls = {"contrast": {"range": _contrast(raw, grid)}}
    return ng.ImageLayer(source=source, shader=GREY, shader_controls=controls)


def _probability_layer(layer: CropLayer, url: str) -> ng.ImageLayer:
    controls = {"colour": look_of(layer.label).colour}
    return ng.ImageLayer(source=url, shader=TINTED, shader_controls=controls, opacity=0.7)


def _label_layer(layer: CropLayer, unknown: int | None, url: str) -> ng.SegmentationLayer:
    """Objects have colours of their own, as in figures; what has none, that of its class."""
    made = ng.SegmentationLayer(source=url, selected_alpha=0.4)
    if not is_instance(layer.label):
        made.segment_default_color = look_of(layer.label).colour
    if unknown is not None:
        made.segment_colors = {unknown: UNKNOWN}
    return made


def _contrast(raw: Volume, crop: Grid) -> list[float]:
    """The darkest and brightest hundredth of raw in the crop's middle, in the stored unit."""
    level = raw.level_for(crop.voxel_size)
    start, stop = (np.array(corner) for corner in level.grid.index_box(crop))
    middle = (start + stop) // 2
    low = np.clip(np.maximum(start, middle - LOOKED_AT // 2), 0, level.grid.shape)
    high = np.clip(np.minimum(stop, middle + LOOKED_AT // 2), 0, level.grid.shape)
    voxels = level.read(low, high)
    # 0 stands for what was not imaged, and for what was not fetched.
    voxels = voxels[voxels != 0]
    dark, bright = np.percentile(voxels, (0.5, 99.5)) if voxels.size else (0, 1)
    return [float(dark), float(bright)] if dark < bright else [0.0, float(bright)]
