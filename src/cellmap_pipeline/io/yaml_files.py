"""Configuration files in YAML or JSON that hold only data, no code.

They are read before Snakemake reads them, and while it parses the workflow.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.regular_files import read_regular_file

# A configuration with thousands of crops takes a tenth of each limit.
MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
# Snakemake evaluates a configuration with this key as a template that may contain Python.
TEMPLATE_KEY = "__use_yte__"


class _Loader(yaml.SafeLoader):
    """Loader that refuses keys that are defined twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"the key {key.value!r} is defined twice: remove one of the two"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the keys and values in the file at `path`.

    Raises
    ------
    InputError
        The file is missing, cannot be read, or is not UTF-8, YAML, or a mapping; a key is defined
        twice; aliases make it far larger than it looks; or it contains code.
    """
    values = _parse(_text(path), path)
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold keys and values: docs/configuration.md lists them")
    if TEMPLATE_KEY in values:
        raise InputError(
            f"{path}: `{TEMPLATE_KEY}` makes it a template, which may run Python: leave it out, "
            "and write plain values"
        )
    return values


def _text(path: Path) -> str:
    if not path.exists():
        lack = "is a broken link" if path.is_symlink() else "does not exist"
        raise InputError(f"{path} {lack} (looked in {Path.cwd()})")
    try:
        content = read_regular_file(path, MAX_BYTES, "a configuration")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} line {line} is not UTF-8 text: save the file with the encoding UTF-8"
        ) from None


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # It may be YAML.
    try:
        values = yaml.load(text, _Loader)
        # Encoded piece by piece, since aliases may stand for any number of values.
        pieces = json.JSONEncoder(default=str).iterencode(values)
        is_large = next(islice(pieces, MAX_VALUES, None), None) is not None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{path} is not YAML{line}: {_remedy(error)}") from None
    if is_large:
        raise InputError(
            f"{path}: with its aliases (`*name`) written out it holds more than {MAX_VALUES:,} "
            "values: write plain keys and values"
        )
    return values


def _remedy(error: Exception) -> str:
    why = " ".join(str(getattr(error, "problem", None) or error).split())
    if r"'\t'" in why:
        return "it is indented with a tab: indent with spaces instead"
    if "could not determine a constructor" in why:
        return f"{why}: write plain values, without `!`"
    if "twice" in why:
        return why
    return f"{why}: correct it; text with `:`, `#`, `@` or `%` goes into quotes"
