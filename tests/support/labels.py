"""Segmentation of simulated predictions with mostly default settings."""

from cellmap_pipeline.channels import auxiliary_kinds
from cellmap_pipeline.segmentation.method_settings import complete
from cellmap_pipeline.segmentation.segment import segment as segment_completely


def segment(label, channels, voxel_size, settings, threads=1):
    """Segment a label in memory with the library's `segment` and completed settings."""
    settings = complete(label, settings, auxiliary_kinds(label, channels))
    return segment_completely(label, channels, voxel_size, settings, threads)
