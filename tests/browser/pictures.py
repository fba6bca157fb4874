"""Take the picture of the viewer for the docs, from a finished demo (`make images`)."""

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
    """Open a crop of the run in the working directory and save a screenshot of the browser."""
    view = serve(find_layers(read_run(Path("config/config.yaml")), crop))
    with TemporaryDirectory() as profile, started(Path(profile)) as browser:
        browser.get(view.url)
        # Returns when everything visible is loaded.
        view.viewer.screenshot()
        png = browser.get_screenshot_as_png()
    ng.stop()
    Image.open(io.BytesIO(png)).convert("RGB").save(picture, quality=85)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
