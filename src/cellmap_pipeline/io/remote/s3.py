"""Keys of S3 buckets, used like paths."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from http.client import HTTPException
from ssl import SSLCertVerificationError
from typing import Any
from urllib.parse import quote, urlsplit

import tensorstore as ts

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.remote.connections import Answer, Server, TooLargeError

# For the requests of tensorstore that fail; it backs off exponentially.
REQUEST_RETRIES = {"max_retries": 8, "initial_delay": "200ms", "max_delay": "10s"}
# Waits before a file is requested again, and the time after which it is not.
RETRY_WAITS_S = (0.2, 0.4, 0.8, 1.6, 3, 6, 10, 10, 15, 30, 60)
MAX_FILE_S = 600
# Metadata that are read at the same time.
CONCURRENT_READS = 8
# Statuses of servers that are busy, or fail for a moment.
TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}
SERVER_URL = "https://s3.{region}.amazonaws.com"
DEFAULT_REGION = "us-east-1"
REGION = re.compile(r"[a-z0-9-]{1,40}")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MAX_ADDRESS_LETTERS = 200
MD5 = re.compile(r'"([0-9a-f]{32})"')

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class S3Path:
    """A key of an S3 bucket, used like a `pathlib.Path`.

    Requests are signed if AWS_ACCESS_KEY_ID or AWS_PROFILE is set in the environment, and
    anonymous otherwise. AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL select another server, AWS_REGION
    or AWS_DEFAULT_REGION its region.

    Attributes
    ----------
    bucket
        Name of the bucket.
    key
        Key in the bucket, without slashes at its ends.
    """

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> S3Path:
        """The key without its last part."""
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    @property
    def parents(self) -> list[S3Path]:
        """The keys above this one, nearest first."""
        return [self.parent, *self.parent.parents] if self.key else []

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket and the parts of the key."""
        return (self.bucket, *self.key.split("/"))

    @property
    def spec(self) -> dict[str, Any]:
        """Specification of the key-value store for tensorstore."""
        spec: dict[str, Any] = {
            "driver": "s3",
            "bucket": self.bucket,
            "path": f"{self.key}/" if self.key else "",
            "aws_credentials": {"type": "default" if _is_signed() else "anonymous"},
            "s3_request_retries": REQUEST_RETRIES,
        }
        endpoint, region = _endpoint(), _region()
        if endpoint:
            spec |= {"endpoint": endpoint, "aws_region": region or DEFAULT_REGION}
        elif region:
            spec["aws_region"] = region
        return spec

    @cached_property
    def _store(self) -> ts.KvStore:
        try:
            return ts.KvStore.open(self.spec).result()
        except ValueError as error:
            raise InputError(f"{self} cannot be opened ({error}): check the address") from None

    def read(self, max_bytes: int) -> bytes | None:
        """Read the file at this key; None if there is none.

        Its MD5 is verified where the server reports it. What fails for a moment is requested again.

        Parameters
        ----------
        max_bytes
            Number of bytes that it may have. No more are received.

        Raises
        ------
        InputError
            The bucket does not answer, denies access, or holds a larger file.
        """
        deadline = time.monotonic() + MAX_FILE_S
        previous: bytes | None = None
        for wait in (*RETRY_WAITS_S, None):
            try:
                answer = _request(self.bucket, self.key, max_bytes)
            except TooLargeError as error:
                raise InputError(
                    f"{self} is not read further: {error}, by the metadata of its volume. Take "
                    "another source, or report it to who wrote it"
                ) from None
            except SSLCertVerificationError as error:
                problem = f"{error}. SSL_CERT_FILE may name the certificates to trust"
                break
            except (OSError, HTTPException) as error:
                problem = str(error) or type(error).__name__
            else:
                # An ETag of 32 digits is not always an MD5 (not for encrypted objects), so the same
                # content twice is accepted, too.
                if answer.status == 200 and (answer.body == previous or _matches_md5(answer)):
                    return answer.body
                if answer.status == 404:
                    return None
                if answer.status == 200:
                    previous, problem = answer.body, "its content does not match its MD5"
                else:
                    problem = _explanation(answer)
                    if answer.status not in TRANSIENT_STATUSES:
                        break
            if wait is None or time.monotonic() > deadline:
                break
            log.warning("%s: %s; retrying in %g s", self, problem, wait)
            time.sleep(wait)
        raise InputError(
            f"{self} cannot be read ({problem}): check the address, the network and, where the "
            "bucket is not public, AWS_PROFILE; files fetched so far are kept"
        )

    def read_below(self, names: Sequence[str], max_bytes: int) -> list[bytes | None]:
        """Read the files of keys below this one, in concurrent requests; see `read`."""
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            return list(pool.map(lambda name: (self / name).read(max_bytes), names))

    def present(self, names: Sequence[str]) -> list[bool]:
        """Check, in concurrent requests, which keys below this one exist.

        Raises
        ------
        InputError
            The bucket does not answer, or denies listing its keys.
        """
        # The range ends before the next possible name, so it holds the name alone.
        requests = [self._store.list(ts.KvStore.KeyRange(name, name + "\0")) for name in names]
        try:
            return [bool(answer.result()) for answer in requests]
        except ValueError as error:
            raise InputError(
                f"{self} cannot be listed ({error}): check the address, the network and, where "
                "the bucket is not public, AWS_PROFILE"
            ) from None


def _is_signed() -> bool:
    return any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"))


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


# Regions of buckets that a server named.
_bucket_regions: dict[str, str] = {}
_server = cache(Server)
# A forked process has connections of its own.
os.register_at_fork(after_in_child=_server.cache_clear)


def _request(bucket: str, key: str, max_bytes: int) -> Answer:
    """Request a key once, or twice if the bucket lies in another region than assumed."""
    path = quote(f"/{bucket}/{key}")
    region = _bucket_regions.get(bucket) or _region() or DEFAULT_REGION
    answer = _request_in(region, path, max_bytes)
    named = answer.header("x-amz-bucket-region")
    if answer.status in (200, 404) or named == region or not REGION.fullmatch(named):
        return answer
    _bucket_regions[bucket] = named
    return _request_in(named, path, max_bytes)


def _request_in(region: str, path: str, max_bytes: int) -> Answer:
    server = _server(_endpoint() or SERVER_URL.format(region=region))
    headers = _signature(server.url.rstrip("/") + path, region) if _is_signed() else {}
    return server.get(path, headers, max_bytes)


def _signature(url: str, region: str) -> dict[str, str]:
    """Headers that sign a GET request.

    Raises
    ------
    InputError
        The environment names credentials that there are not.
    """
    # Few buckets take signatures.
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError

    request = AWSRequest("GET", url)
    try:
        S3SigV4Auth(_credentials(), "s3", region).add_auth(request)
    except BotoCoreError as error:
        raise InputError(f"{urlsplit(url).netloc}: {error}: check AWS_PROFILE") from None
    return dict(request.headers.items())


@cache
def _credentials() -> Any:
    """Credentials of the environment, which are renewed as they expire."""
    from botocore.session import Session

    return Session().get_credentials()


def _matches_md5(answer: Answer) -> bool:
    md5 = MD5.fullmatch(answer.header("etag"))
    return not md5 or hashlib.md5(answer.body).hexdigest() == md5[1]


def _explanation(answer: Answer) -> str:
    """Status of a failed request with the code in its body, such as AccessDenied."""
    code = re.search(rb"<Code>([A-Za-z]{1,80})</Code>", answer.body)
    text = f"HTTP status {answer.status}{', ' + code[1].decode() if code else ''}"
    if address := answer.header("location"):
        text += f"; it lies at {address[:MAX_ADDRESS_LETTERS]}: set AWS_ENDPOINT_URL"
    return text
