"""Files of servers that send too much, too slowly, or something else."""

import threading
import time

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.remote import connections, s3
from cellmap_pipeline.io.remote.connections import Server
from cellmap_pipeline.io.remote.s3 import S3Path
from cellmap_pipeline.io.storage import location
from tests.support import hostile_server
from tests.support.bucket import reach
from tests.support.fuzz import bounded

MAX_BYTES = 100_000
FILE = S3Path("cells", "a/b")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(s3, "RETRY_WAITS_S", (0.01,))
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT_S", 0.3)
    reach("http://127.0.0.1:1", monkeypatch)


def read_from(answer, monkeypatch):
    with hostile_server.serve(answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        return FILE.read(MAX_BYTES)


@pytest.mark.parametrize("kind", hostile_server.TOO_LARGE)
def test_a_file_is_read_up_to_its_bound(kind, monkeypatch):
    with bounded(), pytest.raises(InputError, match="s3://cells/a/b is not read further: .*bytes"):
        read_from(lambda request: hostile_server.TOO_LARGE[kind](), monkeypatch)


@pytest.mark.parametrize("kind", hostile_server.BROKEN)
def test_an_answer_ends(kind, monkeypatch):
    start = time.monotonic()
    with bounded(), pytest.raises(InputError, match="s3://cells/a/b cannot be read"):
        read_from(lambda request: hostile_server.BROKEN[kind](), monkeypatch)
    # Two attempts.
    assert time.monotonic() - start < 2 * connections.ANSWER_TIMEOUT_S + 5


def test_no_attempt_begins_after_the_time_of_a_file(monkeypatch):
    requests = []

    def answer(request):
        requests.append(request)
        yield b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"

    monkeypatch.setattr(s3, "RETRY_WAITS_S", (0.01,) * 1000)
    monkeypatch.setattr(s3, "MAX_FILE_S", 0.2)
    with pytest.raises(InputError, match="503"):
        read_from(answer, monkeypatch)
    assert 1 < len(requests) < 30


def test_bytes_that_arrive_give_no_more_time_for_silence(monkeypatch):
    def answer(request):
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"1" * 50_000
        time.sleep(4)

    # For what has arrived, it might take five seconds more.
    start = time.monotonic()
    with pytest.raises(InputError, match="no answer for 0.3 s"):
        read_from(answer, monkeypatch)
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("name", ["all_proxy", "http_proxy"])
def test_a_proxy_of_another_kind_is_named(name, monkeypatch):
    for other in ("all_proxy", "http_proxy", "https_proxy"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for url in ("socks5://cells.example:1", "https://cells.example"):
        monkeypatch.setenv(name, url)
        with pytest.raises(InputError, match=f"{name}: '{url}'"):
            Server("http://cells.example")


def test_a_redirect_is_reported(monkeypatch):
    def answer(request):
        yield b"HTTP/1.1 307 Elsewhere\r\nLocation: https://b.example/a\r\n"
        yield b"Content-Length: 0\r\n\r\n"

    with pytest.raises(InputError, match="it lies at https://b.example/a: set AWS_ENDPOINT_URL"):
        read_from(answer, monkeypatch)


def test_bytes_that_arrive_give_more_time(monkeypatch):
    monkeypatch.setattr(connections, "MIN_BYTES_PER_S", 100)

    def answer(request):
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        for _ in range(10):
            time.sleep(0.1)
            yield b"1" * 100

    assert read_from(answer, monkeypatch) == b"1" * 1000


@pytest.mark.parametrize("size", [MAX_BYTES, 0])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_file_of_the_largest_size_is_read(size, is_chunked, monkeypatch):
    body = b"7" * size

    def answer(request):
        if is_chunked:
            yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            yield (b"%x\r\n%b\r\n" % (size, body) if size else b"") + b"0\r\n\r\n"
        else:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)

    assert read_from(answer, monkeypatch) == body


def test_a_bucket_of_another_region_is_found(monkeypatch):
    hosts = []

    def answer(request):
        line = request.splitlines()[0]
        hosts.append(line.split("/")[1])
        if "/eu-west-1/" in line:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"
        else:
            yield b"HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-1\r\n"
            yield b"Content-Length: 0\r\n\r\n"

    monkeypatch.setattr(s3, "_bucket_regions", {})
    with hostile_server.serve(answer) as url:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.setattr(s3, "SERVER_URL", url + "/{region}")
        assert FILE.read(MAX_BYTES) == FILE.read(MAX_BYTES) == b"1"
    assert hosts == ["us-east-1", "eu-west-1", "eu-west-1"]


@pytest.mark.parametrize("region", ["evil.example/", "eu-west-1.evil", "..", "a" * 100])
def test_a_region_is_no_address(region, monkeypatch):
    def answer(request):
        yield f"HTTP/1.1 301 Moved\r\nx-amz-bucket-region: {region}\r\n\r\n".encode()

    with pytest.raises(InputError, match="HTTP status 301"):
        read_from(answer, monkeypatch)


@pytest.mark.parametrize("name", ["a b", "a?b#c", "a%2fb", "é"])
def test_names_are_quoted(name, monkeypatch):
    targets = []

    def answer(request):
        targets.append(request.split()[1])
        yield b"HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n"

    with hostile_server.serve(answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert S3Path("cells", name).read(MAX_BYTES) is None
    assert targets == ["/cells/" + s3.quote(name)]


def test_proxies_of_the_environment_are_used(monkeypatch):
    requests = []

    def answer(request):
        requests.append(request)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"

    with hostile_server.serve(answer) as url:
        monkeypatch.setenv("http_proxy", url.replace("//", "//me:secret@"))
        monkeypatch.setenv("https_proxy", url)
        assert Server("http://cells.example/s3").get("/a", {}, 1).body == b"1"
        with pytest.raises(OSError):
            Server("https://cells.example").get("/a", {}, 1)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert Server(url).get("/b", {}, 1).body == b"1"
    assert requests[0].startswith("GET http://cells.example/s3/a HTTP/1.1")
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in requests[0]
    assert requests[1].startswith("CONNECT cells.example:443 ")
    assert requests[2].startswith("GET /b HTTP/1.1")


@pytest.mark.parametrize(
    "url", ["ftp://a", "http://", "http://a:b", "http://a:99999", "a", "http://a:0"]
)
def test_an_endpoint_is_the_url_of_a_server(url):
    with pytest.raises(InputError, match="not the URL of an HTTP server"):
        Server(url)


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "s3://../a", "s3://a b/c", "s3://a\n/c"])
def test_a_bucket_has_a_plain_name(url):
    with pytest.raises(InputError, match="names no bucket"):
        location(url)


def test_a_long_explanation_of_an_error_is_left_out(monkeypatch):
    def answer(request):
        yield b"HTTP/1.1 403 No\r\n\r\n"
        while True:
            yield b"1" * 1000

    with pytest.raises(InputError, match=r"\(HTTP status 403\)"):
        read_from(answer, monkeypatch)


@pytest.mark.parametrize("status", ["200 OK", "404 None"])
def test_connections_are_used_again(status):
    connected = []

    def answer(request):
        connected.append(threading.get_ident())
        yield f"HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n".encode()
        time.sleep(0.05)
        yield b"1"
        time.sleep(0.1)  # The next request has come by now.
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2"

    with hostile_server.serve(answer) as url:
        server = Server(url)
        # The server closes the connection after two answers.
        bodies = [server.get("/a", {}, 1).body for _ in range(3)]
    assert bodies == [b"1", b"2", b"1"] and len(connected) == 2
