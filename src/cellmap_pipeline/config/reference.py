"""JSON schemas and reference page of the configuration, generated from this package's models.

`python -m cellmap_pipeline.config.reference` writes them, in the project's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cellmap_pipeline.config.run import RunConfig
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.models.registry import ARCHITECTURES, FAMILIES, LOSSES, Option
from cellmap_pipeline.segmentation.method_settings import settings_reference

HEADS: dict[str, tuple[str, type[BaseModel]]] = {
    "config": ("The run: `config/config.yaml`", RunConfig),
    "training": ("A training: `config/training/{name}.yaml`", Training),
}


def documents() -> dict[Path, str]:
    """By path, relative to the project's folder, the text of each generated file."""
    generated = {
        Path(f"config/schemas/{name}.schema.json"): json.dumps(model.model_json_schema(), indent=1)
        + "\n"
        for name, (_, model) in HEADS.items()
    }
    return generated | {Path("docs/configuration.md"): _reference()}


def _reference() -> str:
    lines = [
        "# Configuration",
        "",
        "`python -m cellmap_pipeline.config.reference` generates this page from the models that",
        "check the configuration. `config/schemas/` has the same as JSON schemas.",
    ]
    for title, model in HEADS.values():
        lines += ["", f"## {title}", ""]
        if model is Training:
            lines += [
                "A changed value reruns the stages that the last column names, and the stages"
            ]
            lines += ["after them.", ""]
        lines += [*_header(model), *_rows(model)]
    lines += [
        "",
        "## Models",
        "",
        "`model: {architecture: NAME, …}` with these options and defaults.",
    ]
    lines += ["", "| architecture | options |", "| --- | --- |"]
    networks = ARCHITECTURES | {f"{family}:NAME": made for family, made in FAMILIES.items()}
    lines += [f"| `{name}` | {_options(made.options)} |" for name, made in networks.items()]
    lines += [
        "",
        "## Losses",
        "",
        "`loss: NAME`, or `loss: {NAME: WEIGHT, …}` for a weighted sum, or",
    ]
    lines += ["`loss: {NAME: {weight: WEIGHT, OPTION: …}, …}`.", ""]
    lines += ["| loss | options |", "| --- | --- |"]
    lines += [f"| `{name}` | {_options(made.options)} |" for name, made in LOSSES.items()]
    lines += ["", "## Post-processing", "", "`postprocess: {LABEL: {…}}`: these settings override"]
    lines += ["the ones that validation tuned.", "", *settings_reference()]
    return "\n".join(lines) + "\n"


def _options(options: Mapping[str, Option]) -> str:
    return ", ".join(f"`{key}: {json.dumps(option.default)}`" for key, option in options.items())


def _header(model: type[BaseModel]) -> list[str]:
    names = ["key", "default", "range", "meaning"] + ["affects"] * (model is Training)
    return [f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"]


def _rows(model: type[BaseModel]) -> Iterator[str]:
    schema = model.model_json_schema()
    yield from _table(schema, schema.get("$defs", {}), "")


def _table(
    schema: dict[str, Any],
    definitions: dict[str, Any],
    prefix: str,
    inherited: list[str] | None = None,
) -> Iterator[str]:
    """Yield a row per key; the keys of a section inherit what the section affects."""
    for key, value in schema["properties"].items():
        refs = [branch.get("$ref", "") for branch in [value, *value.get("anyOf", [])]]
        name = next(filter(None, refs), "").removeprefix("#/$defs/")
        groups = value.get("affects", inherited)
        last = f" {', '.join(groups)} |" if groups else ""
        if name in definitions and "properties" in definitions[name]:
            default = "null" if "default" in value and value["default"] is None else ""
            yield f"| **`{prefix}{key}`** | {default} | | {value.get('description', '')} |{last}"
            yield from _table(definitions[name], definitions, f"{prefix}{key}.", groups)
            continue
        default = json.dumps(value["default"]) if "default" in value else "required"
        if "default" not in value and key not in schema.get("required", []):
            default = "{}"
        meaning = value.get("description", "")
        yield f"| `{prefix}{key}` | {default} | {_range(value)} | {meaning} |{last}"


def _range(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(filter(None, (_range(branch) for branch in value["anyOf"])))
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    limits = [
        f"{sign} {value[key]:g}"
        for key, sign in (
            ("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤")
        )
        if key in value
    ]  # fmt: skip
    return " ".join([value.get("type", ""), *limits]).replace("array", "list").strip()


def main() -> None:
    """Write all generated files below the current folder."""
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
