"""A network small enough for tests."""

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.training.task import SegmentationTask


def tiny_task(**changes: object) -> SegmentationTask:
    """An untrained network for mito (instances) and pm at 8 nm, in evaluation mode."""
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
