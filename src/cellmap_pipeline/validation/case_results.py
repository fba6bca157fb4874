"""Results of a search, kept in a file as they are found: a search that was killed resumes."""

from __future__ import annotations

import hashlib
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.segmentation.methods import Settings
from cellmap_pipeline.validation.cases import LoadedCase

# Name of an evaluator, settings, index of a case.
Key = tuple[str, tuple[tuple[str, Any], ...], int]


def fingerprint_of_cases(cases: Iterable[LoadedCase]) -> str:
    """Hash all that the results of a search depend on in its cases."""
    found = hashlib.blake2b(digest_size=8)
    for case in cases:
        found.update(repr((case.voxel_size, case.scale, case.test_scales)).encode())
        known = {} if case.known is None else {"known": case.known}
        volumes = {"truth": case.truth, **known, **case.channels}
        for name, values in volumes.items():
            found.update(f"{name} {values.dtype} {values.shape}".encode())
            found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


class CaseResults:
    """Numbers by evaluator, settings and case.

    Parameters
    ----------
    path
        File to which each result is appended as a line of JSON, and from which those of a killed
        search are read; the last line may be incomplete. None keeps them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._found: dict[Key, NDArray[np.float64]] = {}
        self._path = path
        if path and path.exists():
            self._read(path)

    def get(self, evaluator: str, settings: Settings, i: int) -> NDArray[np.float64] | None:
        """Return the numbers of an evaluator for settings and case `i`, if they are known."""
        return self._found.get((evaluator, tuple(settings.items()), i))

    def add(self, evaluator: str, settings: Settings, i: int, numbers: NDArray[np.float64]) -> None:
        """Add the numbers of an evaluator for settings and case `i`."""
        self._found[evaluator, tuple(settings.items()), i] = numbers
        if self._path:
            packed = b64encode(zlib.compress(numbers.astype("<f8").tobytes(), 1)).decode()
            line = json.dumps([evaluator, settings, i, numbers.shape, packed])
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _read(self, path: Path) -> None:
        with path.open("rb+") as file:
            end = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                evaluator, settings, i, shape, packed = json.loads(line)
                values = np.frombuffer(zlib.decompress(b64decode(packed)), "<f8")
                self._found[evaluator, tuple(settings.items()), i] = values.reshape(shape)
                end += len(line)
            file.truncate(end)
