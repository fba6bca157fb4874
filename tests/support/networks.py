"""Networks small enough for tests."""

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.training.task import SegmentationTask

# Options that make each network small, and a patch size that it takes.
SMALL = {
    "mednext": ({"size": "S"}, (32, 16, 16)),
    "monai_basic_unet3d": ({"features": [4, 4, 8, 8, 8, 4]}, (32, 16, 16)),
    "monai_unet": ({"channels": [4, 8, 8]}, (16, 8, 4)),
    "monai_segresnet": ({"init_filters": 8, "blocks_down": [1, 1]}, (8, 8, 4)),
    "monai_segresnet_ds": ({"init_filters": 8, "blocks_down": [1, 1, 1]}, (16, 8, 8)),
    "monai_dynunet": ({"filters": [4, 8, 8, 8]}, (16, 16, 16)),
    "monai_attention_unet": ({"channels": [4, 8, 8]}, (8, 8, 16)),
    "monai_swin_unetr": ({"feature_size": 12}, (64, 32, 32)),
    "monai_unetr": (
        {"feature_size": 4, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2},
        (32, 16, 16),
    ),
    "nnunet_plain": ({"features": 4}, (16, 16, 12)),
    "nnunet_resenc": ({"features": 4}, (16, 16, 12)),
}


def tiny_task(**changes: object) -> SegmentationTask:
    """Return an untrained network for mito (instances) and pm at 8 nm, in evaluation mode."""
    settings = Training.model_validate(
        {
            "classes": ["mito", "pm"],
            "voxel_size": 8,
            "model": {"architecture": "monai_basic_unet3d", "features": [4, 4, 4, 4, 4, 4]},
            "patch_size": 32,
        }
        | changes
    )
    return SegmentationTask(training_settings(settings, TRAIN_KEYS)).eval()
