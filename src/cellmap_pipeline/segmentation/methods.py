"""Settings of the post-processing: names, ranges, defaults, and the grid that tuning searches.

Read while the workflow is planned, so nothing here imports more than the standard library. What
the settings do is in `segmentation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellmap_pipeline.channels import FURTHER
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.errors import InputError

Settings = dict[str, Any]


@dataclass(frozen=True)
class Number:
    """A setting that is a number from `low` to `high`."""

    default: float
    low: float
    high: float
    meaning: str


@dataclass(frozen=True)
class Switch:
    """A setting that is true or false."""

    default: bool
    meaning: str


_COMMON: dict[str, Number | Switch] = {
    "threshold": Number(0.5, 0, 1, "probability from which on a voxel counts as inside"),
    "smooth_nm": Number(0.0, 0, 1000, "σ of a Gaussian that smooths the probabilities first, nm"),
    "fill_holes": Switch(False, "fill what an object encloses"),
}
_SIZE = "what is smaller is removed, nm³"
# Of methods that look for ridges between objects.
_RIDGES: dict[str, Number | Switch] = {
    "min_size_nm3": Number(5e3, 0, 1e15, _SIZE + " (see `merge_small`)"),
    "seed_threshold": Number(
        0.3, 0, 1, "seeds lie where the probability of a boundary is below this"
    ),
    "merge_threshold": Number(
        0.4, 0, 1, "fragments merge whose shared faces have a lower mean boundary probability"
    ),
    "merge_small": Switch(
        True, "what is too small joins the neighbour behind the weakest boundary, if it has one"
    ),
}
_SPECIFIC: dict[str, dict[str, Number | Switch]] = {
    "threshold": {"min_size_nm3": Number(0.0, 0, 1e15, _SIZE)},
    "connected_components": {"min_size_nm3": Number(5e3, 0, 1e15, _SIZE)},
    "watershed_distance": {
        "min_size_nm3": Number(5e3, 0, 1e15, _SIZE),
        "neck": Number(
            0.7, 0, 1, "objects part where they get narrower than this share of the thinner one"
        ),
    },
    "watershed_boundary": _RIDGES,
    "watershed_learned_distance": _RIDGES,
    "watershed_affinities": _RIDGES,
    "mutex_watershed": {
        "min_size_nm3": _RIDGES["min_size_nm3"],
        "affinity_threshold": Number(
            0.5, 0, 1, "neighbours with a higher affinity attract one another, others repel"
        ),
        "merge_threshold": _RIDGES["merge_threshold"],
        "merge_small": _RIDGES["merge_small"],
    },
}
# What a method takes of the further channels (`classes.FURTHER`).
NEEDS = {
    "watershed_boundary": "boundary",
    "watershed_learned_distance": "distance",
    "watershed_affinities": "affinities",
    "mutex_watershed": "affinities",
}
SEMANTIC_METHODS = ("threshold",)
INSTANCE_METHODS = ("connected_components", "watershed_distance", *NEEDS)

# What the first, slow half of a segmentation depends on; the rest merges and sifts its fragments.
FRAGMENT_SETTINGS = (
    "method", "threshold", "smooth_nm", "seed_threshold", "affinity_threshold"
)  # fmt: skip


def methods(label: str) -> tuple[str, ...]:
    """Methods that make the final `label`."""
    return INSTANCE_METHODS if is_instance(label) else SEMANTIC_METHODS


def settings_of(method: str) -> dict[str, Number | Switch]:
    """The settings of a method by name."""
    return _COMMON | _SPECIFIC[method]


def defaults(method: str) -> Settings:
    """All settings of a method at their defaults, `method` first."""
    return {"method": method} | {name: s.default for name, s in settings_of(method).items()}


def check_settings(label: str, settings: Mapping[str, Any]) -> Settings:
    """Check settings for `label`; without `method`, only what all its methods know is allowed.

    Returns
    -------
    The settings given, as builtins. Numbers may come as text: YAML reads 1e6 as such.

    Raises
    ------
    InputError
        Unknown method or key, wrong type, value out of range.
    """
    known = methods(label)
    if "method" in settings and settings["method"] not in known:
        raise InputError(
            f"postprocess.{label}: method: {settings['method']!r} is none of {', '.join(known)}"
        )
    chosen = [settings["method"]] if "method" in settings else known
    checked: Settings = {}
    for key, value in settings.items():
        if key == "method":
            checked[key] = value
            continue
        owners = [method for method in known if key in settings_of(method)]
        if not owners:
            names = dict.fromkeys(name for method in chosen for name in settings_of(method))
            raise InputError(
                f"postprocess.{label}: unknown key {key!r} (known: method, {', '.join(names)})"
            )
        if not set(chosen) <= set(owners):
            raise InputError(
                f"postprocess.{label}: {key} belongs to the method {', '.join(owners)}: "
                f"set `method: {owners[0]}` with it or leave it out"
            )
        checked[key] = _checked(f"postprocess.{label}: {key}", settings_of(owners[0])[key], value)
    return checked


def complete(label: str, settings: Mapping[str, Any], predicted: Collection[str]) -> Settings:
    """All settings for `label`: those given, and defaults for the rest.

    Parameters
    ----------
    predicted
        What is predicted besides where the objects are (keys of `classes.FURTHER`). It decides the
        method where none is given.

    Raises
    ------
    InputError
        As `check_settings`; or the method needs what is not predicted.
    """
    checked = check_settings(label, settings)
    usable = usable_methods(label, predicted)
    if "method" not in checked:
        ridges = [method for method in usable if method in NEEDS]
        checked["method"] = ridges[0] if ridges else usable[0]
    if checked["method"] not in usable:
        kind = NEEDS[checked["method"]]
        channels = " and ".join(label + suffix for suffix in FURTHER[kind])
        raise InputError(
            f"postprocess.{label}: method: {checked['method']} needs a prediction of {channels} "
            f"beside that of {label}; give one (`targets: {{{label}: [{kind}]}}`) or choose one of "
            f"{', '.join(usable)}"
        )
    return defaults(checked["method"]) | checked


def usable_methods(label: str, predicted: Collection[str]) -> list[str]:
    """Methods for `label` that need no more than what is predicted (as for `complete`)."""
    return [m for m in methods(label) if m not in NEEDS or NEEDS[m] in predicted]


def candidates(
    label: str, predicted: Collection[str], voxel_size: Sequence[float]
) -> dict[str, dict[str, list[Any]]]:
    """What tuning tries: per method and setting the values, in ascending order.

    Lengths and volumes are in steps of about one voxel, since finer ones change nothing. The
    settings that cost least to vary come last.
    """
    # Of few objects an extreme threshold may leave skeletons that score well by chance.
    twentieths = range(4, 17) if is_instance(label) else range(1, 20)
    volume = math.prod(voxel_size)
    edge = volume ** (1 / 3)
    common = {
        "threshold": [round(0.05 * k, 2) for k in twentieths],
        "smooth_nm": [round(edge * k, 3) for k in (0.0, 0.5, 1, 1.5, 2)],
    }
    last = {
        "min_size_nm3": [0.0, *(float(f"{volume * 2**k:.4g}") for k in range(2, 19))],
        "fill_holes": [False, True],
    }
    merging: dict[str, list[Any]] = {
        "merge_threshold": [0.0, *(round(0.05 * k, 2) for k in range(2, 15))],
        "merge_small": [False, True],
    }
    seeds = {"seed_threshold": [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7]}
    ridges = seeds | merging
    specific: dict[str, dict[str, list[Any]]] = {
        "threshold": {},
        "connected_components": {},
        "watershed_distance": {"neck": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]},
        "watershed_boundary": ridges,
        "watershed_learned_distance": ridges,
        "watershed_affinities": ridges,
        "mutex_watershed": {"affinity_threshold": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]} | merging,
    }
    return {m: common | specific[m] | last for m in usable_methods(label, predicted)}


def settings_reference() -> list[str]:
    """The lines of a Markdown table of all methods and settings."""
    lines = ["| method | setting | default | range | meaning |", "| --- | --- | --- | --- | --- |"]
    for kind, known in (("semantic", SEMANTIC_METHODS), ("instances", INSTANCE_METHODS)):
        for method in known:
            for name, setting in settings_of(method).items():
                if isinstance(setting, Switch):
                    default, limits = str(setting.default).lower(), "true, false"
                else:
                    default, limits = f"{setting.default:g}", f"{setting.low:g} to {setting.high:g}"
                row = f"`{method}` ({kind})", f"`{name}`", default, limits, setting.meaning
                lines.append(f"| {' | '.join(row)} |")
    return lines


def _checked(where: str, setting: Number | Switch, value: Any) -> Any:
    if isinstance(setting, Switch):
        if not isinstance(value, bool):
            raise InputError(f"{where} must be true or false, not {value!r}")
        return value
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not setting.low <= number <= setting.high:
        raise InputError(
            f"{where} must be a number from {setting.low:g} to {setting.high:g}, not {value!r}"
        )
    return number
