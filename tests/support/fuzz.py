"""What the fuzz tests share. A short form runs with all tests, a long one with `make test-fuzz`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
MAX_BYTES = 2**26
MAX_SECONDS = 10
# Written to /proc/self/clear_refs.
RESET_PEAK = "5"

# Examples of a small budget are the same in each run; those of a large one are not.
fuzzed: Callable[[Any], Any] = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,
    suppress_health_check=list(HealthCheck),
)

numbers = st.one_of(
    st.integers(-2, 20),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, 10**400, -(2**63), 1e308, 0.5, 4.0]),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
edits = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6)


def nested(stored: Any) -> st.SearchStrategy[Any]:
    """Draw JSON that is `stored` with one of its values, at any depth, replaced or left out."""
    places = list(_places(stored, ()))
    return st.builds(
        lambda place, value, drop: _replaced(stored, place, value, drop),
        st.sampled_from(places),
        values,
        st.integers(0, 4).map(lambda n: n == 0),
    )


def _places(stored: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    items = stored.items() if isinstance(stored, dict) else enumerate(stored)
    if isinstance(stored, dict | list):
        for key, value in list(items):
            yield from (
                _places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
            )


def _replaced(stored: Any, place: tuple[Any, ...], value: Any, drop: bool) -> Any:
    if not place:
        return value
    key, *rest = place
    copy = stored.copy()
    if rest:
        copy[key] = _replaced(stored[key], tuple(rest), value, drop)
    elif drop:
        del copy[key]
    else:
        copy[key] = value
    return copy


def edited(content: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Overwrite bytes at places modulo the length, and cut bytes off the end."""
    result = bytearray(content)
    for place, byte in changes:
        result[place % len(result)] = byte
    return bytes(result[: len(result) - cut])


@contextmanager
def bounded() -> Iterator[None]:
    """Assert that the block takes little memory and time."""
    start = time.process_time()
    # Not tracemalloc, which knows no memory of tensorstore, and whose end can crash its threads.
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = _peak_bytes()
    yield
    peak = _peak_bytes() - before
    assert peak < MAX_BYTES, f"{peak / 2**20:.0f} MiB"
    assert time.process_time() - start < MAX_SECONDS


def _peak_bytes() -> int:
    """Largest resident memory of this process since the last reset (man 5 proc)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(kib)
