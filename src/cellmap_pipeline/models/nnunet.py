"""nnU-Net's networks, from its authors' package, with the outputs that `build_model` specifies.

Names of submodules are those of the package, so that nnU-Net's checkpoints fit.
"""

from __future__ import annotations

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from cellmap_pipeline.models.nnunet_plan import Stages

MAX_FEATURES = 320
PLAIN_CONVOLUTIONS_PER_STAGE = 2
RESIDUAL_BLOCKS_OF_FIRST_STAGES, RESIDUAL_BLOCKS_OF_OTHERS = (1, 3, 4), 6

Logits = torch.Tensor | list[torch.Tensor]


class PlainUNet(PlainConvUNet):
    """nnU-Net's U-Net that returns the coarser logits in training only."""

    def forward(self, x: torch.Tensor) -> Logits:
        """Return logits (n, c, z, y, x); in training with deep supervision, from full to coarse."""
        return _of_mode(super().forward(x), self.training)


class ResidualUNet(ResidualEncoderUNet):
    """nnU-Net's U-Net with a residual encoder that returns the coarser logits in training only."""

    def forward(self, x: torch.Tensor) -> Logits:
        """Return logits (n, c, z, y, x); in training with deep supervision, from full to coarse."""
        return _of_mode(super().forward(x), self.training)


def build_plain(
    in_channels: int, out_channels: int, stages: Stages, features: int, deep_supervision: bool
) -> PlainUNet:
    """Build nnU-Net's U-Net, initialized as nnU-Net does.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the raw patch and of the logits.
    stages
        Strides and kernels.
    features
        Channels of the first stage; each further one has twice as many, up to `MAX_FEATURES`.
    deep_supervision
        Whether the network also returns coarser logits in training.
    """
    number = len(stages.strides)
    network = PlainUNet(
        **_common_arguments(in_channels, out_channels, stages, features, deep_supervision),
        n_conv_per_stage=[PLAIN_CONVOLUTIONS_PER_STAGE] * number,
        n_conv_per_stage_decoder=[PLAIN_CONVOLUTIONS_PER_STAGE] * (number - 1),
    )
    _prepare(network, deep_supervision)
    return network


def build_residual(
    in_channels: int, out_channels: int, stages: Stages, features: int, deep_supervision: bool
) -> ResidualUNet:
    """Build nnU-Net's U-Net with a residual encoder; arguments as for `build_plain`."""
    number = len(stages.strides)
    first = list(RESIDUAL_BLOCKS_OF_FIRST_STAGES[:number])
    network = ResidualUNet(
        **_common_arguments(in_channels, out_channels, stages, features, deep_supervision),
        n_blocks_per_stage=[*first, *[RESIDUAL_BLOCKS_OF_OTHERS] * (number - len(first))],
        n_conv_per_stage_decoder=[1] * (number - 1),
    )
    _prepare(network, deep_supervision)
    return network


def _common_arguments(
    in_channels: int, out_channels: int, stages: Stages, features: int, deep_supervision: bool
) -> dict[str, Any]:
    number = len(stages.strides)
    return {
        "input_channels": in_channels,
        "num_classes": out_channels,
        "n_stages": number,
        "features_per_stage": [min(MAX_FEATURES, features * 2**level) for level in range(number)],
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": stages.kernels,
        "strides": stages.strides,
        "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": deep_supervision,
    }


def _prepare(network: PlainUNet | ResidualUNet, deep_supervision: bool) -> None:
    """Initialize the weights, and freeze those that nothing reads."""
    network.apply(network.initialize)
    if not deep_supervision:
        # Checkpoints have these layers all the same; DDP would wait for their gradients.
        network.decoder.seg_layers[:-1].requires_grad_(False)


def _of_mode(logits: Logits, training: bool) -> Logits:
    return logits if training or isinstance(logits, torch.Tensor) else logits[0]
