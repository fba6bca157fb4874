"""Files and downloads that have no end."""

import os
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io import files
from cellmap_pipeline.io.files import local_copy
from cellmap_pipeline.io.regular_files import read_regular_file
from cellmap_pipeline.io.storage import read_json
from cellmap_pipeline.io.tables import read_csv_text
from cellmap_pipeline.io.yaml_files import read_yaml


@pytest.fixture
def pipe(tmp_path):
    """A named pipe that nothing writes to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


READERS = {
    "bytes": read_regular_file,
    "table": lambda path: read_csv_text(path, "test_crops:", "give another file"),
    "yaml": read_yaml,
    "metadata": read_json,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_pipes_and_devices_are_no_files(pipe, read):
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path} is a device or a pipe"):
            read(path)


def test_a_file_has_a_largest_size(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"0123456789")
    assert read_regular_file(path, 10) == b"0123456789"
    with pytest.raises(InputError, match="table.csv is larger than 9 bytes, too large for a table"):
        read_regular_file(path, 9)
    handles = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(IsADirectoryError, match=str(tmp_path)):
            read_regular_file(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == handles


@contextmanager
def served(send):
    """Serve what `send` writes to a connection, at the URL that is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(ConnectionError):
                send(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/table.csv"
    finally:
        server.shutdown()
        server.server_close()


def trickle(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"a")
        time.sleep(0.05)


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"a" * 65536)


def truncated(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"a,b\n")


@pytest.mark.parametrize(
    ("send", "message"),
    [
        (trickle, "was not complete after 0.3 s"),
        (endless, "is larger than 1,000,000 bytes"),
        (truncated, "96 bytes are missing at its end"),
    ],
)
def test_downloads_have_an_end(tmp_path, monkeypatch, send, message):
    monkeypatch.setattr(files, "MAX_DOWNLOAD_S", 0.3)
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 1_000_000)
    copy = tmp_path / "copy.csv"
    begin = time.monotonic()
    with served(send) as url, pytest.raises(InputError, match=f"cannot be downloaded.*{message}"):
        local_copy(url, copy, "fetch.crops", lambda text, name: None)
    assert time.monotonic() - begin < 5
    assert not copy.exists()


def test_a_download_is_kept_whole(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n")
    copy = local_copy(
        (tmp_path / "table.csv").as_uri(), tmp_path / "copy.csv", "key", lambda text, name: None
    )
    assert copy.read_text() == "a,b\n"
