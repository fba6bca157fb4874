"""The configuration's JSON schemas and reference, made from the models in this package.

`python -m cellmap_pipeline.config.reference` in the project's folder writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cellmap_pipeline.config.run import RunConfig
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.models.build import architectures
from cellmap_pipeline.segmentation.methods import settings_reference

HEADS: dict[str, tuple[str, type[BaseModel]]] = {
    "config": ("The run: `config/config.yaml`", RunConfig),
    "training": ("A training: `config/training/{name}.yaml`", Training),
}


def documents() -> dict[Path, str]:
    """Path, from the project's folder, and text of each file that is made here."""
    made = {
        Path(f"config/schemas/{name}.schema.json"): json.dumps(model.model_json_schema(), indent=1)
        + "\n"
        for name, (_, model) in HEADS.items()
    }
    return made | {Path("docs/configuration.md"): _reference()}


def _reference() -> str:
    lines = [
        "# Configuration",
        "",
        "Made by `python -m cellmap_pipeline.config.reference` from the models that check it; the",
        "same as JSON schemas are in `config/schemas/`.",
    ]
    for title, model in HEADS.values():
        lines += ["", f"## {title}", "", "| key | default | range | meaning |"]
        lines += ["| --- | --- | --- | --- |", *_rows(model)]
    lines += [
        "",
        "## Models",
        "",
        "`model: {architecture: NAME, …}` with these options and defaults.",
    ]
    lines += ["", "| architecture | options |", "| --- | --- |"]
    for name, made in architectures().items():
        options = ", ".join(
            f"`{key}: {json.dumps(default)}`" for key, (_, default) in made.options.items()
        )
        lines.append(f"| `{name}` | {options} |")
    lines += ["", "## Post-processing", "", "`postprocess: {LABEL: {…}}`: what is set here goes"]
    lines += ["before what validation found best.", "", *settings_reference()]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel]) -> Iterator[str]:
    schema = model.model_json_schema()
    yield from _table(schema, schema.get("$defs", {}), "")


def _table(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in schema["properties"].items():
        refs = [branch.get("$ref", "") for branch in [value, *value.get("anyOf", [])]]
        name = next(filter(None, refs), "").removeprefix("#/$defs/")
        if name in definitions and "properties" in definitions[name]:
            default = "null" if "default" in value and value["default"] is None else ""
            yield f"| **`{prefix}{key}`** | {default} | | {value.get('description', '')} |"
            yield from _table(definitions[name], definitions, f"{prefix}{key}.")
            continue
        default = json.dumps(value["default"]) if "default" in value else "required"
        if "default" not in value and key not in schema.get("required", []):
            default = "{}"
        yield f"| `{prefix}{key}` | {default} | {_range(value)} | {value.get('description', '')} |"


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
    """Write the files into the current folder."""
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
