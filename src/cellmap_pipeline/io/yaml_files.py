"""Configuration files in YAML or JSON that hold only data, no code.

They are read before Snakemake reads them, and while it parses the workflow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cellmap_pipeline.errors import InputError

# A configuration with thousands of crops takes a tenth of each limit.
MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
# Snakemake evaluates a configuration with this key as a template that may contain Python.
TEMPLATE_KEY = "__use_yte__"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the keys and values in the file at `path`.

    Raises
    ------
    InputError
        The file is missing, cannot be read, or is not UTF-8, YAML, or a mapping; a key is defined
        twice; aliases make it far larger than it looks; or it contains code.
    """
    text = _text(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = _from_yaml(text, path)
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
        # The path may name any file, so read no more than needed to reject it.
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{path} is larger than {MAX_BYTES:,} bytes, too large for a configuration: is it "
            "another file?"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} line {line} is not UTF-8 text: save the file with the encoding UTF-8"
        ) from None


def _from_yaml(text: str, path: Path) -> Any:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, path)
        return loader.construct_document(node)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is not YAML{_place(error)}: {_why(error)}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply: write plain keys and values") from None


def _count(node: yaml.Node, counts: dict[int, int | None], path: Path) -> int:
    """Count the values of a node with all aliases expanded.

    `counts` holds the results of nodes seen before, and None for those being counted.
    """
    if id(node) in counts:
        known = counts[id(node)]
        if known is None:
            raise InputError(f"{path} line {_line(node)}: an alias (`*name`) refers to itself")
        return known
    counts[id(node)] = None
    total = 1
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(
                    f"{path} line {_line(key)}: a list or map cannot be a key: write text"
                )
            if key.value in keys:
                raise InputError(
                    f"{path} line {_line(key)}: the key {key.value!r} is defined twice: remove "
                    "one of the two"
                )
            keys.add(key.value)
            total += _count(value, counts, path)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(value, counts, path) for value in node.value)
    if total > MAX_VALUES:
        raise InputError(
            f"{path} line {_line(node)}: with its aliases (`*name`) written out it holds more than "
            f"{MAX_VALUES:,} values: write plain keys and values"
        )
    counts[id(node)] = total
    return total


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" in line {mark.line + 1}" if mark else ""


def _why(error: Exception) -> str:
    why = " ".join(str(getattr(error, "problem", None) or error).split())
    if r"'\t'" in why:
        return "it is indented with a tab: indent with spaces instead"
    if "could not determine a constructor" in why:
        return f"{why}: write plain values, without `!`"
    return f"{why}: correct it; text with `:`, `#`, `@` or `%` goes into quotes"
