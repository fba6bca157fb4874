"""The viewer's link, without a browser."""

import stat

import neuroglancer as ng
import pytest

from cellmap_pipeline.cli import main
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.report.crop_layers import CropLayer, CropLayers
from cellmap_pipeline.report.viewer import private_page, serve


def test_the_link_is_in_a_file_of_the_user_alone():
    url = "http://127.0.0.1:4567/v/0123abc/?a=1&b=2"
    with private_page(url) as page:
        assert "0123abc" not in page.as_uri()
        assert 'url=http://127.0.0.1:4567/v/0123abc/?a=1&amp;b=2"' in page.read_text()
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    assert not page.parent.exists()


@pytest.mark.parametrize("port", ["80000", "-1", "http"])
def test_a_port_out_of_range_is_refused(port, capsys):
    with pytest.raises(SystemExit):
        main(["view", "1", "--port", port])
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize(("address", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_links_have_an_address_that_browsers_read(tmp_path, address, host):
    create(tmp_path / "mito", Grid((8, 8, 8), (0, 0, 0), (4, 4, 4)), "uint8")
    layer = CropLayer("labels", "mito", "labels", tmp_path / "mito")
    crop = CropLayers(1, "d", tmp_path / "raw", [layer])
    try:
        served = serve(crop, address)
        url, port = served.url, served.port
    finally:
        ng.stop()
    assert url.startswith(f"http://{host}:{port}/v/")
