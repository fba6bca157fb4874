"""An HTTP server whose answers have no end, are slow, or break off."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BLOCK = bytes(1 << 16)
OK = b"HTTP/1.1 200 OK\r\n"
PAUSE_S = 0.05


def _body_without_end() -> Iterator[bytes]:
    yield OK + b"\r\n"
    while True:
        yield BLOCK


def _chunks_without_end() -> Iterator[bytes]:
    yield OK + b"Transfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK)


def _large_file() -> Iterator[bytes]:
    yield OK + b"Content-Length: 5497558138880\r\n\r\n"
    while True:
        yield BLOCK


def _headers_without_end() -> Iterator[bytes]:
    yield OK
    while True:
        yield b"x: 1\r\n" * 1000


def _long_header() -> Iterator[bytes]:
    yield OK + b"x: "
    while True:
        yield b"1" * 1000


def _continue_without_end() -> Iterator[bytes]:
    while True:
        yield b"HTTP/1.1 100 Continue\r\n\r\n" * 1000


def _slow_body() -> Iterator[bytes]:
    yield OK + b"Content-Length: 1000\r\n\r\n"
    while True:
        time.sleep(PAUSE_S)
        yield b"1"


def _slow_headers() -> Iterator[bytes]:
    yield OK + b"x: "
    while True:
        time.sleep(PAUSE_S)
        yield b"1"


def _silence() -> Iterator[bytes]:
    while True:
        time.sleep(PAUSE_S)
        yield b""


def _cut_off() -> Iterator[bytes]:
    yield OK + b"Content-Length: 1000\r\n\r\n" + b"1" * 999


def _cut_off_chunks() -> Iterator[bytes]:
    yield OK + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"1" * 999


def _other_protocol() -> Iterator[bytes]:
    yield b"220 smtp ready\r\n"


# Answers that are larger than they may be, and others, which are no file either.
TOO_LARGE: dict[str, Callable[[], Iterator[bytes]]] = {
    "body": _body_without_end,
    "chunks": _chunks_without_end,
    "file": _large_file,
    "continue": _continue_without_end,
}
BROKEN: dict[str, Callable[[], Iterator[bytes]]] = {
    "headers": _headers_without_end,
    "header": _long_header,
    "slow_body": _slow_body,
    "slow_headers": _slow_headers,
    "silence": _silence,
    "cut_off": _cut_off,
    "cut_off_chunks": _cut_off_chunks,
    "other_protocol": _other_protocol,
}


@contextmanager
def serve(answer: Callable[[str], Iterator[bytes]]) -> Iterator[str]:
    """Run a server; yield its URL.

    Parameters
    ----------
    answer
        Function of the request (its line and headers) that yields the bytes of the answer.
    """
    server = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def send(connection: socket.socket) -> None:
        with connection:
            request = connection.recv(1 << 16).decode()
            try:
                for part in answer(request):
                    if stopped.is_set():
                        return
                    connection.sendall(part)
            except OSError:
                return  # The client has left.

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # The server is closed.
            threading.Thread(target=send, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        stopped.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
