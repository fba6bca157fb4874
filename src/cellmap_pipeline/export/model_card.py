"""The model card: README.md of an exported network, for its users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from cellmap_pipeline.channels import (
    BOUNDARY_SUFFIX,
    DISTANCE_SUFFIX,
    class_of,
    is_affinity,
    is_descriptor,
    long_range_offset_nm,
)
from cellmap_pipeline.export.cellmap_models import whole_voxel_size
from cellmap_pipeline.export.facts import ModelFacts
from cellmap_pipeline.export.forms import FORMS, INPUT_NAME, OUTPUT_NAME
from cellmap_pipeline.patches.normalization import BY_RANGE, INPUT_CENTER
from cellmap_pipeline.patches.targets import MAX_DISTANCE_VOXELS

CARD_FILE = "README.md"
TAGS = ("3d", "segmentation", "electron-microscopy", "cellmap")


def model_card(facts: ModelFacts) -> str:
    """Return the model card of a network, Markdown with the header that Hugging Face reads."""
    sections = {
        "": [f"{facts.summary}.", "", *_table(_properties(facts))],
        "Input": _input(facts),
        "Output": _output(facts),
        "Window": _window(facts),
        "Training data": _training_data(facts),
        "Validation": _validation(facts),
        "Use": _use(facts),
        "License": [facts.license or "No license is stated: ask the authors before you use it."],
    }
    lines = [*_header(facts), "", f"# {facts.name}", ""]
    for title, content in sections.items():
        lines += [f"## {title}", ""] if title else []
        lines += [*content, ""]
    return "\n".join(lines)


def _header(facts: ModelFacts) -> list[str]:
    # Identifiers of licenses are in lower case there.
    license = {"license": facts.license.lower()} if facts.license else {}
    content = {"library_name": "cellmap-models", **license, "tags": list(TAGS)}
    return ["---", *yaml.safe_dump(content, sort_keys=False).splitlines(), "---"]


def _properties(facts: ModelFacts) -> Iterable[tuple[str, ...]]:
    yield "", ""
    yield "authors", ", ".join(facts.authors) or "not stated"
    yield "architecture", f"{facts.architecture}, {facts.parameters:,} parameters"
    yield "voxel size (z, y, x)", facts.voxel_size_text
    yield "trained for", f"{facts.steps:,} steps, on patches of {_shape(facts.training.patch_size)}"
    yield "checkpoint", f"SHA-256 `{facts.checkpoint_sha256}`"
    yield "made with", "cellmap-pipeline"


def _input(facts: ModelFacts) -> list[str]:
    raw, norm = facts.raw, facts.raw.normalization
    center, scale = facts.input_scaling
    lines = [
        f"`{INPUT_NAME}`, float32 (n, 1, z, y, x): the intensities of raw as they are stored, here "
        f"{raw.dtype}, at {facts.voxel_size_text}. Do not normalize them: the network itself "
        f"normalizes an intensity v (`normalize: {facts.training.normalize}`):",
        "",
    ]
    if norm == BY_RANGE:
        return [*lines, f"    {scale:g} · (v / {raw.max_intensity:g} - {center:g})"]
    low, high, middle, width = (
        v * raw.max_intensity for v in (norm.low, norm.high, norm.center, norm.width)
    )
    middle -= (INPUT_CENTER - center) * width
    return [
        *lines,
        f"    {scale:g} · (clip(v, {low:.6g}, {high:.6g}) - {middle:.6g}) / {width:.6g}",
        "",
        f"These are the statistics of {facts.dataset}. Map raw of other contrast to it before, for "
        "example by its percentiles.",
    ]


def _output(facts: ModelFacts) -> list[str]:
    rows = [("channel", "name", "probability that a voxel …")]
    rows += [(str(i), f"`{name}`", _meaning(name)) for i, name in enumerate(facts.channels)]
    lines = [
        f"`{OUTPUT_NAME}`, float32 (n, {len(facts.channels)}, z, y, x) on the voxels of the input, "
        "0 to 1, after the sigmoid:",
        "",
        *_table(rows),
    ]
    if facts.training.atoms:
        lines += [
            "",
            "Classes are unions of disjoint parts, over which the network has one softmax: a class "
            "is never less probable than a class that it contains.",
        ]
    return lines


def _meaning(channel: str) -> str:
    label = class_of(channel)
    if channel == label:
        return f"belongs to {label}"
    if channel.endswith(BOUNDARY_SUFFIX):
        return f"lies at the boundary of an object of {label}"
    if channel.endswith(DISTANCE_SUFFIX):
        return (
            f"(no probability) depth in its object of {label}: 1 from {MAX_DISTANCE_VOXELS} voxels "
            "on, 0 outside"
        )
    if offset := long_range_offset_nm(channel):
        place = ", ".join(f"{0 - v:g}" for v in offset)
        return f"belongs to the same object of {label} as the voxel at ({place}) nm from it"
    if is_affinity(channel):
        return f"belongs to the same object of {label} as the voxel before it along {channel[-1]}"
    assert is_descriptor(channel)
    return f"(no probability) local shape descriptor of its object of {label}, scaled to 0 to 1"


def _window(facts: ModelFacts) -> list[str]:
    lines = [
        f"Windows of {_shape(facts.window)} voxels (z, y, x), of which `predict` trusts the outer "
        f"{_shape(facts.context)} voxels at each side less: it lets windows overlap by twice that, "
        f"and blends them (`{facts.training.inference.blending}`). The batch is free."
    ]
    if facts.averaged:
        lines += ["", f"The pipeline {facts.averaged}; this is one network in one pass."]
    if facts.free_axes:
        free = "; ".join(
            f"{axis} from {smallest} in steps of {step}"
            for axis, (smallest, step) in facts.free_axes.items()
        )
        lines += ["", f"torch.export and ONNX also take other windows: {free}."]
    else:
        lines += ["", "Other windows are not possible."]
    return lines


def _training_data(facts: ModelFacts) -> list[str]:
    names = sorted({name for counted in facts.crops.values() for name in counted})
    rows: list[tuple[str, ...]] = [("dataset", "training crops", "validation crops")]
    rows += [
        (name, *(str(facts.crops[usage].get(name, 0)) for usage in ("train", "validate")))
        for name in names
    ]
    return _table(rows)


def _validation(facts: ModelFacts) -> list[str]:
    if facts.scores is None:
        return ["It was not validated: no crops were held out, or they were not scored."]
    rows: list[tuple[str, ...]] = [("class", "score", "cross-fitted score", "validation crops")]
    rows += [_score_row(label, entry) for label, entry in facts.scores["classes"].items()]
    overall = facts.scores["overall_score"]
    return [
        f"Scores on the validation crops by the challenge's rules of {facts.scores['rules']}, with "
        "post-processing that was tuned on them; cross-fitted scores have settings that were tuned "
        f"on other crops. Overall: {overall:.3f}."
        + (" They are those of the training, of all its folds." if facts.is_fold else ""),
        "",
        *_table(rows),
    ]


def _score_row(label: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    fitted = entry.get("cross_fitted_score")
    crops = {crop for size in entry["voxel_sizes"] for crop in size["crops"]}
    shown = "" if fitted is None else f"{fitted:.3f}"
    return label, f"{entry['score']:.3f}", shown, str(len(crops))


def _use(facts: ModelFacts) -> list[str]:
    rows = [("file", "form", "largest difference from the checkpoint, on a CPU")]
    rows += [
        (f"`{FORMS[w.form].file}`", FORMS[w.form].program, f"{w.difference:.2g}")
        for w in facts.written
    ]
    lines = [*_table(rows)]
    if facts.file_of("torch-export"):
        lines += _code(
            "import torch",
            'network = torch.export.load("model.pt2").module()',
            "probabilities = network(raw)  # a float32 tensor (n, 1, z, y, x)",
        )
    if facts.file_of("onnx"):
        lines += _code(
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("model.onnx")',
            f'(probabilities,) = session.run(None, {{"{INPUT_NAME}": raw}})  # NumPy, float32',
        )
    if facts.file_of("torchscript"):
        if whole_voxel_size(facts) is None:
            flow = "cellmap-flow cannot open it: it takes voxel sizes in whole nm only."
        else:
            flow = (
                "cellmap-flow opens this folder as a model of the type `cellmap`, without input "
                "normalization of its own."
            )
        lines += ["", flow]
    return lines


def _code(*lines: str) -> list[str]:
    return ["", "```python", *lines, "```"]


def _shape(voxels: Iterable[int]) -> str:
    return " × ".join(map(str, voxels))


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    header, *body = rows
    lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *body)]
    return [f"| {line} |" for line in lines]
