"""A description for bioimage.io, with example tensors and a cover, validated without network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.export.facts import ModelFacts
from cellmap_pipeline.export.forms import INPUT_NAME, OUTPUT_NAME
from cellmap_pipeline.export.model_card import CARD_FILE, TAGS

FORMAT_VERSION = "0.5.4"
DESCRIPTION_FILE = "bioimageio.yaml"
TEST_INPUT_FILE, TEST_OUTPUT_FILE, COVER_FILE = "test_input.npy", "test_output.npy", "cover.png"
BIOIMAGEIO_FILES = (DESCRIPTION_FILE, TEST_INPUT_FILE, TEST_OUTPUT_FILE, COVER_FILE)
AXES = "zyx"


def check_describable(forms: Sequence[str]) -> None:
    """Check that a form is exported that bioimage.io can describe.

    Raises
    ------
    InputError
        None is.
    """
    if "torchscript" not in forms and "onnx" not in forms:
        raise InputError(
            "the form bioimageio describes TorchScript and ONNX, of which neither is exported: "
            "add torchscript or onnx to --forms"
        )


def write_bioimageio(
    facts: ModelFacts, folder: Path, raw: NDArray[np.float32], probabilities: NDArray[np.float32]
) -> None:
    """Describe the exported network in a folder for bioimage.io, and validate the description.

    Parameters
    ----------
    facts
        The network, exported to TorchScript, ONNX or both.
    folder
        Folder with its files and its model card.
    raw
        An example of stored raw (z, y, x).
    probabilities
        What the checkpoint predicts for it (c, z, y, x).

    Raises
    ------
    InputError
        `bioimageio.spec` refuses the description.
    """
    np.save(folder / TEST_INPUT_FILE, raw[None, None])
    np.save(folder / TEST_OUTPUT_FILE, probabilities[None])
    imageio.imwrite(folder / COVER_FILE, _cover(facts, raw, probabilities))
    file = folder / DESCRIPTION_FILE
    content = _description(facts, folder)
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    _validate(file)


def _validate(file: Path) -> None:
    """Check a description and the files that it names; all of them are local.

    Raises
    ------
    InputError
        `bioimageio.spec` refuses it.
    """
    from bioimageio.spec import InvalidDescr, load_description, settings

    settings.log_warnings = False
    found = load_description(file, perform_io_checks=True)
    if isinstance(found, InvalidDescr):
        errors = [
            f"{'.'.join(map(str, error.loc))}: {error.msg}"
            for detail in found.validation_summary.details
            for error in detail.errors
        ]
        raise InputError(
            f"bioimageio.spec refuses the description of this network ({'; '.join(errors)}): "
            "correct --license or --authors if they are named, else leave bioimageio out of --forms"
        )


def _description(facts: ModelFacts, folder: Path) -> dict[str, Any]:
    name = re.sub(r"[^\w+\- ()]", "_", facts.name, flags=re.ASCII)
    required: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": f"CellMap segmentation {name}",
        "description": facts.summary,
        "authors": [{"name": author} for author in facts.authors],
        "documentation": CARD_FILE,
        "covers": [COVER_FILE],
        "tags": list(TAGS),
    }
    return (
        required
        | ({"license": facts.license} if facts.license else {})
        | {
            "inputs": [_input(facts)],
            "outputs": [_output(facts)],
            "weights": _weights(facts, folder),
        }
    )


def _input(facts: ModelFacts) -> dict[str, Any]:
    return {
        "id": INPUT_NAME,
        "description": f"raw as it is stored, {facts.raw.dtype}; it is normalized inside",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": [INPUT_NAME]},
            *(_space(facts, axis) | {"size": size} for axis, size in enumerate(facts.window)),
        ],
        "test_tensor": {"source": TEST_INPUT_FILE},
        "data": {"type": "float32", "range": [0.0, facts.raw.max_intensity]},
    }


def _output(facts: ModelFacts) -> dict[str, Any]:
    return {
        "id": OUTPUT_NAME,
        "description": "probabilities of the channels",
        "axes": [
            {"type": "batch"},
            {
                "type": "channel",
                # Lengths in the names of affinities may have signs and points.
                "channel_names": [re.sub(r"\W", "_", name) for name in facts.channels],
            },
            *(_output_axis(facts, axis) for axis in range(3)),
        ],
        "test_tensor": {"source": TEST_OUTPUT_FILE},
        "data": {"type": "float32", "range": [0.0, 1.0]},
    }


def _output_axis(facts: ModelFacts, axis: int) -> dict[str, Any]:
    size = {"size": {"tensor_id": INPUT_NAME, "axis_id": AXES[axis]}}
    halo = {"halo": facts.context[axis]} if facts.context[axis] else {}
    return _space(facts, axis) | size | halo


def _space(facts: ModelFacts, axis: int) -> dict[str, Any]:
    return {
        "type": "space",
        "id": AXES[axis],
        "unit": "nanometer",
        "scale": float(facts.training.voxel_size[axis]),
    }


def _weights(facts: ModelFacts, folder: Path) -> dict[str, Any]:
    weights: dict[str, Any] = {}
    if script := facts.file_of("torchscript"):
        version = torch.__version__.partition("+")[0]
        weights["torchscript"] = {"source": script, "pytorch_version": version}
    if graph := facts.file_of("onnx"):
        # All weights but one must name others that they are converted from.
        parent = {"parent": "torchscript"} if weights else {}
        weights["onnx"] = {"source": graph, "opset_version": _opset(folder / graph)} | parent
    return weights


def _opset(file: Path) -> int:
    import onnx

    domains = onnx.load(file, load_external_data=False).opset_import
    return int(next(entry.version for entry in domains if entry.domain in ("", "ai.onnx")))


def _cover(
    facts: ModelFacts, raw: NDArray[np.float32], probabilities: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Draw the middle section of raw and, beside it, of the class that fills most of it.

    Returns
    -------
    (y, 2 y) uint8.
    """
    middle = raw.shape[0] // 2
    classes = [i for i, name in enumerate(facts.channels) if name in facts.training.classes]
    sections = probabilities[classes, middle]
    shown = sections[sections.mean((1, 2)).argmax()]
    low, high = raw[middle].min(), raw[middle].max()
    gray = (raw[middle] - low) / ((high - low) or 1)
    return np.hstack([_square(gray), _square(shown)])


def _square(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pad values (y, x) in 0..1 with black to a square of uint8."""
    side = max(values.shape)
    square = np.zeros((side, side), np.uint8)
    square[: values.shape[0], : values.shape[1]] = np.rint(values * 255)
    return square
