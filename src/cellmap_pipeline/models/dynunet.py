"""MONAI's DynUNet with the outputs that `models.build_model` promises."""

import torch
from monai.networks.nets.dynunet import DynUNet


class HalvingDynUNet(DynUNet):
    """DynUNet whose deep supervision comes at each level's own resolution.

    MONAI's own enlarges all levels to the full resolution and stacks them in one tensor, which
    costs a full-size copy of the logits per level.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits (n, c, z, y, x); with deep supervision, in training, from full to coarse."""
        logits: torch.Tensor = self.output_block(self.skip_layers(x))
        if not self.deep_supervision:
            return logits
        coarser = list(self.heads)
        # Kept, these would hold memory and forbid a copy of the network (EMA of its weights).
        self.heads[:] = [torch.empty(0)] * len(coarser)
        return [logits, *coarser] if self.training else logits
