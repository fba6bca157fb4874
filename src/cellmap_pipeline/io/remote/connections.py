"""Answers of HTTP servers, whose size and time are bounded while they are read.

Neither the length that a server states nor the end of its answer is trusted: bytes are counted as
they arrive. tensorstore cannot do that: it reads bodies whole, even after a request was canceled.
"""

from __future__ import annotations

import io
import time
from base64 import b64encode
from collections.abc import Mapping
from email.message import Message
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import socket
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from cellmap_pipeline.errors import InputError

CONNECT_TIMEOUT_S = 60
# Time for an answer, which bytes that arrive extend: one that comes slower than this is given up.
ANSWER_TIMEOUT_S = 180.0
MIN_BYTES_PER_S = 10_000
PART_BYTES = 1 << 18
# What headers and the framing of chunked bodies may add to a body of up to a number of bytes.
MAX_FRAMING_BYTES = 1 << 20
# Bodies of answers other than 200 explain errors; larger ones are not read.
MAX_EXPLANATION_BYTES = 1 << 14


class TooLargeError(Exception):
    """An answer is larger than it may be."""


class Answer(NamedTuple):
    """Status, headers and body of an HTTP answer."""

    status: int
    headers: Message
    body: bytes

    def header(self, name: str) -> str:
        """Return a header, or an empty text."""
        return str(self.headers.get(name, ""))


class Server:
    """An HTTP server and the idle connections to it, which threads share.

    The proxies are those of the environment (`https_proxy`, `no_proxy`, …).

    Parameters
    ----------
    url
        Scheme, host, port and, optionally, a path, which goes before the paths of all requests.

    Raises
    ------
    InputError
        The URL, or that of its proxy, is not one of an HTTP server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._parts = _split_url(url)
        self._proxy = _proxy_of(self._parts)
        self._idle: list[HTTPConnection] = []

    def get(self, path: str, headers: Mapping[str, str], max_bytes: int) -> Answer:
        """Send a GET request.

        Parameters
        ----------
        path
            Path on the server, quoted.
        headers
            Headers of the request.
        max_bytes
            Number of bytes that the body may have.

        Raises
        ------
        TooLargeError
            The body is larger than `max_bytes`.
        OSError, HTTPException
            The server does not answer, too slowly, or not with HTTP.
        """
        while True:
            try:
                connection, is_reused = self._idle.pop(), True
            except IndexError:
                connection, is_reused = self._connect(), False
            try:
                return self._ask(connection, path, headers, max_bytes)
            except ConnectionError:
                connection.close()
                # Servers close connections that were idle for some time.
                if not is_reused:
                    raise
            except BaseException:
                connection.close()
                raise

    def _connect(self) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        address, proxy = self._parts, self._proxy
        if proxy is None:
            return kind(address.hostname or "", address.port, timeout=CONNECT_TIMEOUT_S)
        connection = kind(proxy.hostname or "", proxy.port or 80, timeout=CONNECT_TIMEOUT_S)
        if kind is HTTPSConnection:
            connection.set_tunnel(address.hostname or "", address.port, _credentials_of(proxy))
        return connection

    def _ask(
        self, connection: HTTPConnection, path: str, headers: Mapping[str, str], max_bytes: int
    ) -> Answer:
        target = self._parts.path.rstrip("/") + path
        if self._proxy is not None and self._parts.scheme == "http":
            target = f"http://{self._parts.netloc}{target}"
            headers = {**headers, **_credentials_of(self._proxy)}
        if connection.sock is not None:
            connection.sock.settimeout(CONNECT_TIMEOUT_S)
        connection.response_class = partial(_BoundedResponse, max_bytes)  # type: ignore[assignment]
        connection.request("GET", target, headers=dict(headers))
        with connection.getresponse() as response:
            try:
                is_file = response.status == 200
                body = _read_body(response, max_bytes if is_file else MAX_EXPLANATION_BYTES)
            except TooLargeError:
                if is_file:
                    raise
                body = b""
            is_complete = response.length == 0 or response.isclosed()
        if is_complete and not response.will_close:
            self._idle.append(connection)
        else:
            connection.close()
        return Answer(response.status, response.headers, body)


class _BoundedReader(io.RawIOBase):
    """Bytes of an answer as they arrive, up to a number and a time."""

    def __init__(self, sock: socket, max_bytes: int) -> None:
        # Without this reference, the socket may be closed before the answer is read.
        self._file = sock.makefile("rb", buffering=0)
        self._sock = sock
        self._max_bytes = self._left = max_bytes
        self._deadline = time.monotonic() + ANSWER_TIMEOUT_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(f"it came at less than {MIN_BYTES_PER_S:,} bytes/s")
        # Bytes extend the deadline, but not the time that may pass without any.
        self._sock.settimeout(min(remaining, ANSWER_TIMEOUT_S))
        try:
            number = self._file.readinto(buffer) or 0
        except TimeoutError:
            raise TimeoutError(f"no answer for {ANSWER_TIMEOUT_S:g} s") from None
        self._left -= number
        if self._left < 0:
            raise TooLargeError(f"the answer has more than {self._max_bytes:,} bytes")
        self._deadline += number / MIN_BYTES_PER_S
        return number

    def close(self) -> None:
        self._file.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    """Response that is read by a `_BoundedReader`, its headers included."""

    def __init__(self, max_bytes: int, sock: socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        reader = _BoundedReader(sock, 2 * max_bytes + MAX_FRAMING_BYTES)
        self.fp = io.BufferedReader(reader)


def _read_body(response: HTTPResponse, max_bytes: int) -> bytes:
    """Read the body of a response.

    Raises
    ------
    TooLargeError, OSError, HTTPException
        As for `Server.get`.
    """
    if response.length is not None and response.length > max_bytes:
        raise TooLargeError(f"it has {response.length:,} bytes, but at most {max_bytes:,} expected")
    parts: list[bytes] = []
    size = 0
    # `read1` returns what has arrived, so the time is looked at even if little does.
    while part := response.read1(PART_BYTES):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise TooLargeError(f"it has more than the {max_bytes:,} bytes expected")
    if response.length:
        raise HTTPException(f"{response.length:,} bytes are missing at its end")
    return b"".join(parts)


def _split_url(url: str, where: str = "") -> SplitResult:
    try:
        parts = urlsplit(url)
        # Looking at the port raises for one that is not a number, or too large.
        is_server = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_server = False
    if not is_server:
        raise InputError(f"{where}{url!r} is not the URL of an HTTP server: correct it")
    return parts


def _proxy_of(address: SplitResult) -> SplitResult | None:
    """Proxy of the environment for a server."""
    proxies = getproxies()
    kind = address.scheme if proxies.get(address.scheme) else "all"
    url = proxies.get(kind)
    if not url or proxy_bypass(address.netloc):
        return None
    parts = _split_url(url if "://" in url else f"http://{url}", f"{kind}_proxy: ")
    if parts.scheme != "http":
        raise InputError(f"{kind}_proxy: {url!r} speaks {parts.scheme}, not http: correct it")
    return parts


def _credentials_of(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(user.encode()).decode()}"}
