"""Small training patches of one crop."""

from types import SimpleNamespace

import numpy as np
import torch

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.patches.batches import BatchBuilder
from cellmap_pipeline.patches.loader import make_loaders
from cellmap_pipeline.patches.normalization import BY_RANGE
from tests.support.transforms import UNCHANGED_RAW

RAW_GRID = Grid((8, 8, 8), (0, 0, 0), (64, 64, 64))
CROP_GRID = RAW_GRID.box((10, 12, 14), (40, 44, 48))


def training(**changes):
    """Return small training settings with changed keys."""
    values = {
        "classes": ["mito", "pm"],
        "voxel_size": 8,
        "model": {"architecture": "monai_basic_unet3d"},
        "patch_size": 32,
        "augment": UNCHANGED_RAW,
        "num_workers": 1,
        "iterations_per_epoch": 3,
    }
    return Training.model_validate(values | changes)


def simple_reader(side, positions, annotated=(), dataset="a"):
    """Return a reader of a cubic crop that reads one voxel, which holds its own `crop`.

    `positions` has voxels (n, 3) of each class that occurs; `annotated` adds classes that do not.
    """
    crop = SimpleNamespace(
        grid=Grid((8, 8, 8), (0, 0, 0), (side,) * 3),
        annotated=[*positions, *annotated],
        present_classes=list(positions),
        positions=lambda label: np.array(positions[label], np.int32).reshape(-1, 3),
        dataset=dataset,
        normalization=BY_RANGE,
    )
    nothing = np.zeros(1, np.uint8), np.zeros(1, np.uint8), np.zeros((1, 1), np.uint8)
    return SimpleNamespace(crop=crop, read=lambda start, shape: nothing)


class Patches:
    """Patches of the training loader, by index, as batches of one."""

    def __init__(self, crops, made):
        self.train, self.tiles = make_loaders({"train": crops, "validate": crops}, made)
        self.build = BatchBuilder(
            torch.device("cpu"), made.patch_size, made.voxel_size, made.channels,
            made.descriptor_sigmas_nm,
        )  # fmt: skip

    def __getitem__(self, index):
        raw, target = self.build([self.train.read(index)])
        return raw[0, 0].clone(), target[0].clone()

    def of_whole_crop(self):
        """Return the targets of the crop, from the only validation tile that covers it."""
        _, target = self.build([self.tiles.read(0)])
        return target[0, :, 4:44, 2:46, :].clone()
