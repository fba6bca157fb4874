"""The exported network: one module, from stored raw to the probabilities that `predict` stores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cellmap_pipeline.patches.normalization import Normalization
from cellmap_pipeline.training.task import SegmentationTask, network_input, to_probabilities


class ExportedModel(nn.Module):
    """A trained network with the normalization of its input, its hierarchy and the sigmoid.

    Parameters
    ----------
    task
        The trained network.
    channels
        Names of the channels to return, in this order.
    normalization
        Normalization of the raw volume that it is exported for.
    max_intensity
        The stored value that counts as 1 (`io.volumes.max_intensity`).
    """

    channels: Tensor

    def __init__(
        self,
        task: SegmentationTask,
        channels: Sequence[str],
        normalization: Normalization,
        max_intensity: float,
    ) -> None:
        super().__init__()
        self.network = task.network
        self.class_logits = task.class_logits
        self.input_scaling = task.normalization
        self.normalization = normalization
        self.max_intensity = max_intensity
        indices = torch.tensor([task.channels.index(name) for name in channels])
        self.register_buffer("channels", indices, persistent=False)
        self.eval()

    def forward(self, raw: Tensor) -> Tensor:
        """Return probabilities (n, c, z, y, x) of raw (n, 1, z, y, x), both float32.

        Raw has the intensities that are stored, such as 0 to 255.
        """
        standardized = self.normalization.standardize(raw / self.max_intensity)
        outputs = self.network(network_input(standardized, self.input_scaling))
        return to_probabilities(self.class_logits(outputs).index_select(1, self.channels))
