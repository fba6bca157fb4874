"""MONAI's DynUNet with the outputs that `build.build_model` specifies."""

import torch
from monai.networks.nets.dynunet import DynUNet


class HalvingDynUNet(DynUNet):
    """DynUNet that returns deep supervision at each level's own resolution.

    MONAI's class upsamples all levels to the full resolution and stacks them in one tensor, which
    takes a full-size copy of the logits per level.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits (n, c, z, y, x); in training with deep supervision, from full to coarse."""
        logits: torch.Tensor = self.output_block(self.skip_layers(x))
        if not self.deep_supervision:
            return logits
        coarser = list(self.heads)
        # References to these would hold memory and prevent copies of the network (weight averages).
        self.heads[:] = [torch.empty(0)] * len(coarser)
        return [logits, *coarser] if self.training else logits
