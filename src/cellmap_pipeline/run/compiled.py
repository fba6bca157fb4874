"""Functions that are compiled when they are first called, and kept for later processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of numbers and arrays; it releases the GIL.

    The machine code is kept in `__pycache__` beside the source, or else in the user's cache folder.
    Where neither can be written, each process compiles the function again.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return njit(nogil=True)(function)
