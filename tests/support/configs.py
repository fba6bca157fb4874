"""The smallest training file."""

import yaml

from cellmap_pipeline.config.load import load_training

TRAINING = {
    "classes": ["mito", "pm"],
    "voxel_size": 8,
    "model": {"architecture": "monai_basic_unet3d"},
    "patch_size": 64,
}


def training(folder, **changes):
    """Write and load a training file with changed keys; None removes a key."""
    values = {key: value for key, value in (TRAINING | changes).items() if value is not None}
    (folder / "a.yaml").write_text(yaml.safe_dump(values))
    return load_training("a", [folder])
