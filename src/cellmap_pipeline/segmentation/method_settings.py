"""Check and complete the post-processing settings of a label."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.segmentation.methods import (
    METHODS,
    Method,
    SearchSpace,
    Settings,
    search_space,
)


def methods_for(label: str) -> tuple[str, ...]:
    """List the names of the methods that can make the final `label`."""
    return tuple(name for name, m in METHODS.items() if m.instances == is_instance(label))


def usable_methods(label: str, predicted: Collection[str]) -> list[str]:
    """List the names of the methods for `label` that need only predicted channels.

    Parameters
    ----------
    label
        Name of the label.
    predicted
        Kinds of auxiliary channels that are predicted (keys of `channels.AUXILIARY_SUFFIXES`).
    """
    return [name for name in methods_for(label) if METHODS[name].auxiliary in {None, *predicted}]


def defaults(name: str) -> Settings:
    """Return all settings of a method with their defaults, `method` first."""
    return {"method": name} | METHODS[name].settings_model().model_dump()


def fragment_settings(name: str) -> tuple[str, ...]:
    """List the settings that the fragments of a method depend on, `method` first."""
    fields = METHODS[name].settings_model.model_fields
    return ("method", *(key for key, field in fields.items() if field.json_schema_extra))


def check_settings(label: str, settings: Mapping[str, Any]) -> Settings:
    """Check post-processing settings for `label`.

    Parameters
    ----------
    label
        Name of the label.
    settings
        Settings by name. Without `method`, only settings that all methods share are allowed.

    Returns
    -------
    The settings as JSON-serializable values.

    Raises
    ------
    InputError
        A method or a setting is unknown, or a value has the wrong type or is out of range.
    """
    known = methods_for(label)
    if "method" in settings and settings["method"] not in known:
        raise InputError(
            f"postprocess.{label}: method: {settings['method']!r} is none of {', '.join(known)}"
        )
    chosen = [settings["method"]] if "method" in settings else list(known)
    checked: Settings = {}
    for key, value in settings.items():
        if key == "method":
            checked[key] = value
            continue
        owners = [name for name in known if key in METHODS[name].settings_model.model_fields]
        if not owners:
            names = dict.fromkeys(
                k for name in chosen for k in METHODS[name].settings_model.model_fields
            )
            raise InputError(
                f"postprocess.{label}: unknown key {key!r} (known: method, {', '.join(names)})"
            )
        if not set(chosen) <= set(owners):
            raise InputError(
                f"postprocess.{label}: {key} belongs to the method {', '.join(owners)}: "
                f"set `method: {owners[0]}` with it or leave it out"
            )
        field = METHODS[owners[0]].settings_model.model_fields[key]
        checked[key] = _validated(f"postprocess.{label}: {key}", field, value)
    return checked


def complete(label: str, settings: Mapping[str, Any], predicted: Collection[str]) -> Settings:
    """Check post-processing settings for `label`, and add the defaults of omitted ones.

    Parameters
    ----------
    label
        Name of the label.
    settings
        Settings by name, as for `check_settings`.
    predicted
        Kinds of auxiliary channels that are predicted (keys of `channels.AUXILIARY_SUFFIXES`). They
        determine the method if the settings name none.

    Raises
    ------
    InputError
        As for `check_settings`; or the method needs channels that are not predicted.
    """
    checked = check_settings(label, settings)
    usable = usable_methods(label, predicted)
    if "method" not in checked:
        with_channels = [name for name in usable if METHODS[name].auxiliary]
        checked["method"] = (with_channels or usable)[0]
    if checked["method"] not in usable:
        kind = METHODS[checked["method"]].auxiliary or ""
        channels = " and ".join(label + suffix for suffix in AUXILIARY_SUFFIXES[kind])
        raise InputError(
            f"postprocess.{label}: method: {checked['method']} needs predictions of {channels} in "
            f"addition to {label}; predict them (`targets: {{{label}: [{kind}]}}`) or choose one "
            f"of {', '.join(usable)}"
        )
    return defaults(checked["method"]) | checked


def search_spaces(
    label: str, predicted: Collection[str], voxel_size: Sequence[float]
) -> dict[str, SearchSpace]:
    """Return the values that tuning tries, by usable method (see `methods.search_space`)."""
    usable = usable_methods(label, predicted)
    return {name: search_space(METHODS[name], voxel_size) for name in usable}


def settings_reference() -> list[str]:
    """List the lines of a Markdown table of all methods and their settings."""
    lines = ["| method | setting | default | range | meaning |", "| --- | --- | --- | --- | --- |"]
    for method in METHODS.values():
        kind = "instances" if method.instances else "semantic"
        for name, field in method.settings_model.model_fields.items():
            bounds = _bounds(field)
            default = f"{field.default:g}" if bounds else str(field.default).lower()
            limits = f"{bounds[0]:g} to {bounds[1]:g}" if bounds else "true, false"
            row = f"`{method.name}` ({kind})", f"`{name}`", default, limits, field.description
            lines.append(f"| {' | '.join(map(str, row))} |")
    return lines


def find_method(settings: Settings) -> Method:
    """Find the method that complete settings name."""
    return METHODS[settings["method"]]


def _bounds(field: FieldInfo) -> tuple[Any, Any] | None:
    low = [bound.ge for bound in field.metadata if hasattr(bound, "ge")]
    high = [bound.le for bound in field.metadata if hasattr(bound, "le")]
    return (low[0], high[0]) if low and high else None


def _validated(key: str, field: FieldInfo, value: Any) -> Any:
    try:
        return TypeAdapter(field.rebuild_annotation()).validate_python(value)
    except ValidationError:
        bounds = _bounds(field)
        allowed = f"a number from {bounds[0]:g} to {bounds[1]:g}" if bounds else "true or false"
        raise InputError(f"{key} must be {allowed}, not {value!r}") from None
