"""The networks by name, one function each.

To add one, write its function here: its keyword-only arguments are its options in a training's
`model`, with their annotations as allowed values and their defaults. torch and MONAI are imported
inside the functions, so that a configuration can be checked without them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.models.nnunet_plan import plan_stages
from cellmap_pipeline.models.registry import (
    Count,
    Fraction,
    Levels,
    StrideRule,
    Switch,
    architecture,
    architecture_family,
    whole_number,
)

if TYPE_CHECKING:
    from torch.nn import Module

SixCounts = Annotated[tuple[Count, ...], Field(min_length=6, max_length=6)]


def _halvings(levels: str) -> StrideRule:
    """Return the stride of a network that halves the resolution between levels.

    The option of the name `levels` lists the levels.
    """

    def stride(
        options: Mapping[str, Any], _patch_size: Sequence[int], _voxel_size: Sequence[float]
    ) -> Shape:
        total = 2 ** (len(options[levels]) - 1)
        return total, total, total

    return stride


def _planned_stride(
    _options: Mapping[str, Any], patch_size: Sequence[int], voxel_size: Sequence[float]
) -> Shape:
    return plan_stages(patch_size, voxel_size).total_stride


@architecture("mednext", stride=16, encoder=("stem", "enc_stages", "down_blocks", "bottleneck"))
def mednext(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    size: Literal["S", "B", "M", "L"] = "B",
    kernel_size: Annotated[Literal[3, 5, 7], BeforeValidator(whole_number)] = 3,
    deep_supervision: Switch = False,
) -> "Module":
    """MedNeXt (Roy et al. 2023, arXiv 2303.09975) in the four published sizes."""
    from monai.networks.nets.mednext import create_mednext

    return create_mednext(
        size, 3, in_channels, out_channels, kernel_size, deep_supervision=deep_supervision
    )


@architecture(
    "monai_basic_unet3d", stride=16, encoder=("conv_0", "down_1", "down_2", "down_3", "down_4")
)
def monai_basic_unet3d(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    features: SixCounts = (32, 32, 64, 128, 256, 32),
    dropout: Fraction = 0.0,
) -> "Module":
    """MONAI's BasicUNet, after Falk et al. 2019 (doi 10.1038/s41592-018-0261-2)."""
    from monai.networks.nets.basic_unet import BasicUNet

    return BasicUNet(3, in_channels, out_channels, features, dropout=dropout)


@architecture("monai_unet", stride=_halvings("channels"))
def monai_unet(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    channels: Levels = (32, 64, 128, 256, 512),
    num_res_units: Count = 1,
    dropout: Fraction = 0.0,
) -> "Module":
    """MONAI's UNet of residual units (Kerfoot et al. 2019, doi 10.1007/978-3-030-12029-0_40)."""
    from monai.networks.nets.unet import UNet

    strides = [2] * (len(channels) - 1)
    return UNet(
        3,
        in_channels,
        out_channels,
        channels,
        strides,
        num_res_units=num_res_units,
        dropout=dropout,
    )


@architecture(
    "monai_segresnet", stride=_halvings("blocks_down"), encoder=("convInit", "down_layers")
)
def monai_segresnet(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    init_filters: Count = 16,
    blocks_down: Levels = (1, 2, 2, 4),
    dropout: Fraction = 0.0,
) -> "Module":
    """SegResNet (Myronenko 2018, arXiv 1810.11654) without its variational branch."""
    from monai.networks.nets.segresnet import SegResNet

    return SegResNet(
        3,
        init_filters,
        in_channels,
        out_channels,
        dropout_prob=dropout or None,
        blocks_down=blocks_down,
        blocks_up=(1,) * (len(blocks_down) - 1),
    )


@architecture("monai_segresnet_ds", stride=_halvings("blocks_down"), encoder=("encoder",))
def monai_segresnet_ds(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    init_filters: Count = 32,
    blocks_down: Levels = (1, 2, 2, 4, 4),
    deep_supervision: Switch = True,
) -> "Module":
    """SegResNet as in MONAI's Auto3DSeg, with deep supervision at every level of its decoder."""
    from monai.networks.nets.segresnet_ds import SegResNetDS

    return SegResNetDS(
        3,
        init_filters,
        in_channels,
        out_channels,
        norm="instance",
        blocks_down=blocks_down,
        dsdepth=len(blocks_down) - 1 if deep_supervision else 1,
    )


@architecture(
    "monai_dynunet",
    stride=_halvings("filters"),
    encoder=("input_block", "downsamples", "bottleneck"),
)
def monai_dynunet(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    filters: Levels = (32, 64, 128, 256, 320),
    res_block: Switch = False,
    deep_supervision: Switch = False,
) -> "Module":
    """The network of nnU-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z)."""
    from cellmap_pipeline.models.dynunet import HalvingDynUNet

    halvings = [2] * (len(filters) - 1)
    return HalvingDynUNet(
        3,
        in_channels,
        out_channels,
        [3] * len(filters),
        [1, *halvings],
        halvings,
        filters,
        deep_supervision=deep_supervision,
        deep_supr_num=len(filters) - 2 if deep_supervision else 1,
        res_block=res_block,
    )


@architecture("monai_attention_unet", stride=_halvings("channels"))
def monai_attention_unet(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    channels: Levels = (32, 64, 128, 256, 320),
    dropout: Fraction = 0.0,
) -> "Module":
    """Attention U-Net (Oktay et al. 2018, arXiv 1804.03999)."""
    from monai.networks.nets.attentionunet import AttentionUnet

    strides = [2] * (len(channels) - 1)
    return AttentionUnet(3, in_channels, out_channels, channels, strides, dropout=dropout)


@architecture("monai_swin_unetr", stride=32, encoder=("swinViT",))
def monai_swin_unetr(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    feature_size: Count = 48,
    dropout: Fraction = 0.0,
    use_checkpoint: Switch = False,
) -> "Module":
    """Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266)."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    return SwinUNETR(
        in_channels,
        out_channels,
        feature_size=feature_size,
        drop_rate=dropout,
        use_checkpoint=use_checkpoint,
    )


@architecture("monai_unetr", stride=16, fixed_size=True, encoder=("vit",))
def monai_unetr(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    feature_size: Count = 16,
    hidden_size: Count = 768,
    mlp_dim: Count = 3072,
    num_heads: Count = 12,
    dropout: Fraction = 0.0,
) -> "Module":
    """UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504)."""
    from monai.networks.nets.unetr import UNETR

    network = UNETR(
        in_channels,
        out_channels,
        patch_size,
        feature_size,
        hidden_size,
        mlp_dim,
        num_heads,
        dropout_rate=dropout,
    )
    for name, weight in network.named_parameters():
        # MONAI creates these and never uses them; DDP would wait for their gradients.
        if "cross_attn" in name:
            weight.requires_grad_(False)
    return network


@architecture("nnunet_plain", stride=_planned_stride, encoder=("encoder",))
def nnunet_plain(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    features: Count = 32,
    deep_supervision: Switch = True,
) -> "Module":
    """nnU-Net's own U-Net, with stages, strides and kernels by its rules (`nnunet_plan`)."""
    from cellmap_pipeline.models.nnunet import build_plain

    stages = plan_stages(patch_size, voxel_size)
    return build_plain(in_channels, out_channels, stages, features, deep_supervision)


@architecture("nnunet_resenc", stride=_planned_stride, encoder=("encoder",))
def nnunet_resenc(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    features: Count = 32,
    deep_supervision: Switch = True,
) -> "Module":
    """nnU-Net's U-Net with a residual encoder (Isensee et al. 2024, arXiv 2404.09556)."""
    from cellmap_pipeline.models.nnunet import build_residual

    stages = plan_stages(patch_size, voxel_size)
    return build_residual(in_channels, out_channels, stages, features, deep_supervision)


@architecture_family("pytc", stride=1)
def pytc(
    name: str,
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
    *,
    deep_supervision: Switch = False,
    settings: dict[str, Any] = {},  # noqa: B006 - only read
) -> "Module":
    """A network of PyTorch Connectomics; `settings` are its own keys below `model`."""
    from cellmap_pipeline.models.pytc import build_pytc

    return build_pytc(name, in_channels, out_channels, patch_size, deep_supervision, settings)
