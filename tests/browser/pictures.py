"""The picture of the viewer in the docs, of a finished demo: for `make images`."""

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import neuroglancer as ng
from chromium import started
from PIL import Image

from cellmap_pipeline.config.load import read_run
from cellmap_pipeline.report.crop_layers import find_layers
from cellmap_pipeline.report.viewer import serve


def main(crop: int, picture: Path) -> None:
    """Open a crop of the run in this folder and save what the browser shows."""
    view = serve(find_layers(read_run(Path("config/config.yaml")), crop))
    with TemporaryDirectory() as profile, started(Path(profile)) as browser:
        browser.get(view.url)
        # It answers when all that can be seen is there.
        view.viewer.screenshot()
        png = browser.get_screenshot_as_png()
    ng.stop()
    Image.open(io.BytesIO(png)).convert("RGB").save(picture, quality=85)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
