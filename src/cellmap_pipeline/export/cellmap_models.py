"""`metadata.json` in the form of cellmap-models, by which its tools and cellmap-flow open a folder.

cellmap-models (`model_export`) loads `model.pt2`, `model.ts` and `model.onnx` of a folder with this
file; cellmap-flow predicts with `model.ts`. Shapes are those of space alone, since cellmap-flow
multiplies them with voxel sizes.
"""

from __future__ import annotations

from typing import Any

from cellmap_pipeline.export.facts import ModelFacts

METADATA_FILE = "metadata.json"
FORMAT_VERSION = "1"


def cellmap_models_metadata(facts: ModelFacts) -> dict[str, Any]:
    """Return the content of `metadata.json`, JSON-serializable.

    Voxel sizes are None unless they are whole nm, the only ones that the format has.
    """
    window = list(facts.window)
    voxel_size = whole_voxel_size(facts)
    return {
        "model_name": facts.name,
        "model_type": facts.architecture,
        "framework": "torch",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": len(facts.channels),
        "iteration": facts.steps,
        "input_voxel_size": voxel_size,
        "output_voxel_size": voxel_size,
        "channels_names": list(facts.channels),
        "input_shape": window,
        "output_shape": window,
        "inference_input_shape": window,
        "inference_output_shape": window,
        "author": ", ".join(facts.authors) or None,
        "description": f"{facts.summary}. Raw is normalized inside: pass the stored intensities.",
        "version": "1.0.0",
        "format_version": FORMAT_VERSION,
    }


def whole_voxel_size(facts: ModelFacts) -> list[int] | None:
    """Return the voxel size (z, y, x) in whole nm, or None if it has fractions."""
    sizes = facts.training.voxel_size
    return [int(v) for v in sizes] if all(v == int(v) for v in sizes) else None
