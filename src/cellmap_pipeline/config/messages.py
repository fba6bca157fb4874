"""Messages for an invalid configuration: a line per key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cellmap_pipeline.errors import InputError, did_you_mean

SHORT_REPR = Repr()
SHORT_REPR.maxstring = SHORT_REPR.maxother = 80


def validated(
    model: type[Any], values: Mapping[Any, Any], source: str, others: Mapping[str, type[BaseModel]]
) -> Any:
    """Make a `model` of `values`.

    Parameters
    ----------
    model
        A pydantic model.
    values
        Its values, as read from YAML.
    source
        How errors refer to them.
    others
        Models of other files by the file's name, to recognize keys in the wrong file.

    Raises
    ------
    InputError
        A key is unknown, or a value has the wrong type or is out of range; a line per problem.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise InputError("\n".join(_messages(error, model, values, source, others))) from None


def _messages(
    error: ValidationError,
    model: type[BaseModel],
    values: Mapping[Any, Any],
    source: str,
    others: Mapping[str, type[BaseModel]],
) -> list[str]:
    problems: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    items = error.errors()
    for item in items:
        if _is_of_another_branch(item, items):
            continue
        key = _key(item["loc"], values)
        kind, value = item["type"], item["input"]
        if kind == "extra_forbidden":
            problem = "unknown key" + _remedy(item["loc"], model, others)
        elif kind == "missing":
            problem = "is missing"
        elif kind == "value_error":
            problem = item["msg"].removeprefix("Value error, ").removeprefix(f"{key}: ")
        elif kind == "too_short":
            problem = "is empty: name at least one"
        elif kind == "too_long":
            problem = "holds {actual_length} values, but takes {max_length}".format(**item["ctx"])
        elif value is None:
            field = model.model_fields.get(key)
            needed = field is not None and field.is_required()
            problem = "has no value: give one" + ("" if needed else ", or leave it out")
        else:
            problem = re.sub(r" or instance of .*|, unable to parse .*", "", item["msg"])
            shown[key] = f", not {SHORT_REPR.repr(value)}"
        problems.setdefault(key, []).append(problem)
    return [
        f"{source}: {key + ': ' if key else ''}{'; or '.join(dict.fromkeys(of_key))}"
        + shown.get(key, "")
        for key, of_key in problems.items()
    ]


def _key(location: tuple[int | str, ...], values: Any) -> str:
    """Name the key of a problem as the file has it, where one value may stand for three axes."""
    parts = []
    for part in location:
        if _is_branch(part):
            continue
        if isinstance(values, str | int | float):
            break
        parts.append(str(part))
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
    return ".".join(parts)


def _is_branch(part: int | str) -> bool:
    """Whether this part of a location is pydantic's name for a branch of a union."""
    return isinstance(part, str) and bool(
        re.search(r"[\[(]|^constrained-", part) or part in {"str", "dict"}
    )


def _is_of_another_branch(item: ErrorDetails, items: Sequence[ErrorDetails]) -> bool:
    """Whether this is an error of a union's branch for another type of value."""
    union = _missed_union(item)
    return union is not None and any(
        other["loc"][: len(union)] == union and _missed_union(other) != union for other in items
    )


def _missed_union(item: ErrorDetails) -> tuple[int | str, ...] | None:
    """Location of the union of which a branch takes no values of this type at all."""
    *union, last = item["loc"] or ("",)
    kinds = ("_type", "_parsing", "literal_error")
    is_missed = item["type"].endswith(kinds) and last != "[key]" and _is_branch(last)
    return tuple(union) if is_missed else None


def _remedy(
    location: tuple[int | str, ...], model: type[BaseModel], others: Mapping[str, type[BaseModel]]
) -> str:
    key = str(location[-1])
    if len(location) == 1:
        for where, other in others.items():
            if key in other.model_fields:
                return f" here: it belongs in {where}"
            for name, field in other.model_fields.items():
                section = field.annotation
                if not (isinstance(section, type) and issubclass(section, BaseModel)):
                    continue
                if key in section.model_fields:
                    return f" here: it belongs in {where}, as `{name}: {{{key}: …}}`"
    known = _keys(model, location)
    return did_you_mean(key, known) or (f" (known: {', '.join(known)})" if known else "")


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        # A section that may be left out is a union with None.
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return [field.alias or name for name, field in model.model_fields.items()]
