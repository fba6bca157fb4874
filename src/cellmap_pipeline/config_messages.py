"""What is wrong with a configuration, in words: a line per key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

from pydantic import BaseModel, ValidationError

from cellmap_pipeline.errors import InputError

# How a value that is not allowed is shown: shortened.
SHOWN = Repr()
SHOWN.maxstring = SHOWN.maxother = 80


def validated(
    model: type[Any], values: Mapping[Any, Any], source: str, others: Mapping[str, type[BaseModel]]
) -> Any:
    """A `model` of `values`.

    Parameters
    ----------
    source : what errors call them.
    others : further models by where their keys belong, for keys that stand in the wrong file.

    Raises
    ------
    InputError
        Unknown key, wrong type, value out of range: all that is wrong, a line each.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise InputError("\n".join(_messages(error, model, source, others))) from None


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The nearest of the known words as a question, or nothing."""
    close = [k for k in known if k.casefold() == word.casefold()]
    close = close or difflib.get_close_matches(word, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _messages(
    error: ValidationError,
    model: type[BaseModel],
    source: str,
    others: Mapping[str, type[BaseModel]],
) -> list[str]:
    messages: dict[str, str] = {}
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if not _is_branch(part))
        problem = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            problem = "unknown key" + _remedy(item["loc"], model, others)
        elif item["type"] == "missing":
            problem = "is missing"
        elif "input" in item and item["loc"]:
            problem += f", not {SHOWN.repr(item['input'])}"
        if key in messages:
            problem = (
                messages[key] if problem in messages[key] else f"{messages[key]}; or {problem}"
            )
        messages[key] = problem
    return [f"{source}: {k}: {m}" if k else f"{source}: {m}" for k, m in messages.items()]


def _is_branch(part: int | str) -> bool:
    """Whether pydantic put this into the location to tell the branches of a union apart."""
    return isinstance(part, str) and bool(re.search(r"[\[(]", part) or part in {"str", "dict"})


def _remedy(
    location: tuple[int | str, ...], model: type[BaseModel], others: Mapping[str, type[BaseModel]]
) -> str:
    key = str(location[-1])
    if len(location) == 1:
        for where, other in others.items():
            if key in other.model_fields:
                return f" here: it belongs into {where}"
    known = _keys(model, location)
    return did_you_mean(key, known) or (f" (known: {', '.join(known)})" if known else "")


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        model = kind
    return list(model.model_fields)
