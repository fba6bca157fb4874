"""A local S3 bucket behind a proxy that counts, cuts off and corrupts its responses."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

NAME = "cells"
SLOW = 6


class Bucket:
    """The bucket `NAME`, filled from folders.

    Attributes
    ----------
    cut
        Share of responses whose connection ends in the middle of the body.
    spoil
        Number of further requests of a key whose response is corrupted.
    busy
        Number of further requests of a key that are answered with status 503.
    slow
        Number of further requests of a key that are answered after `SLOW` s.
    denied
        Keys whose requests are always answered with status 403.
    requests
        Number of requests of each key.
    cuts
        Number of responses that were cut off.
    """

    def __init__(self, server: str) -> None:
        self.cut = 0.0
        self.spoil: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self.slow: Counter[str] = Counter()
        self.denied: set[str] = set()
        self.requests: Counter[str] = Counter()
        self.cuts = 0
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self._client = boto3.client(
            "s3", endpoint_url=server, region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip

    def fill(self, folder: Path) -> None:
        """Make the bucket hold the files of `folder`, for everyone to read, and nothing else."""
        listed = self._client.list_buckets()["Buckets"]
        if NAME in [bucket["Name"] for bucket in listed]:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=NAME):
                for item in page.get("Contents", ()):
                    self._client.delete_object(Bucket=NAME, Key=item["Key"])
        else:
            self._client.create_bucket(Bucket=NAME)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = path.relative_to(folder).as_posix()
                body = path.read_bytes()
                self._client.put_object(Bucket=NAME, Key=key, Body=body, ACL="public-read")

    def reset(self) -> None:
        """End all disturbances and reset the counters."""
        self.cut, self.cuts = 0.0, 0
        for settings in (self.spoil, self.busy, self.slow, self.denied, self.requests):
            settings.clear()

    def answer(self, key: str, status: int, body: bytes) -> tuple[int, bytes, int]:
        """Return the status and body to send, and the number of bytes that are sent."""
        with self._lock:
            self.requests[key] += 1
            slow = self._due(self.slow, key)
            if key in self.denied:
                status = 403
            elif self._due(self.busy, key):
                status = 503
            elif body and self._due(self.spoil, key):
                body = bytes([body[0] ^ 255]) + body[1:]
            cut = bool(body) and self._random.random() < self.cut
            self.cuts += cut
        if slow:
            time.sleep(SLOW)
        return status, body, len(body) // 2 if cut else len(body)

    @staticmethod
    def _due(times: Counter[str], key: str) -> bool:
        """Return whether `key` has times left, and use up one of them."""
        left = times[key]
        times[key] = max(0, left - 1)
        return left > 0


@contextmanager
def serve() -> Iterator[tuple[Bucket, str]]:
    """Run the server; yield the bucket and the URL of the proxy in front of it."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    bucket = Bucket(f"http://{host}:{port}")

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.path.partition("?")[0].removeprefix(f"/{NAME}/")
            upstream = http.client.HTTPConnection(host, port)
            upstream.request(self.command, self.path, headers=dict(self.headers))
            answer = upstream.getresponse()
            status, body, n = bucket.answer(key, answer.status, answer.read())
            upstream.close()
            self.send_response(status)
            for header in ("ETag", "Last-Modified", "Content-Type"):
                if answer.getheader(header):
                    self.send_header(header, answer.getheader(header))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:n])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield bucket, f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        moto.stop()


def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect all S3 clients of this process and its children to the server at `url`."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
