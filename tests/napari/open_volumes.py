"""Open volumes in napari, without a window, and print what its layers show.

Run by the Python of napari's environment: open_volumes.py FOLDER…
"""

import json
import sys

import numpy as np
from napari.components import ViewerModel
from npe2 import PluginManager


def describe(path):
    """Return a JSON-serializable description of the only layer of a volume."""
    (layer,) = ViewerModel().open(path, plugin="napari-ome-zarr")
    levels = list(layer.data) if layer.multiscale else [layer.data]
    return {
        "kind": type(layer).__name__,
        "name": layer.name,
        "dtype": str(levels[0].dtype),
        "scale": layer.scale.tolist(),
        "translate": layer.translate.tolist(),
        "shapes": [list(level.shape) for level in levels],
        "voxels": np.asarray(levels[0]).tolist(),
    }


PluginManager.instance().discover()
print(json.dumps([describe(path) for path in sys.argv[1:]]))
