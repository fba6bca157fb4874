"""The networks by name, one function each.

To add one, write its function here: its keyword-only arguments are its options in a training's
`model`, with their annotations as allowed values and their defaults. torch and MONAI are imported
inside the functions, so that a configuration can be checked without them.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cellmap_pipeline.models.registry import (
    Count,
    Fraction,
    Levels,
    Switch,
    architecture,
    architecture_family,
    whole_number,
)

if TYPE_CHECKING:
    from torch.nn import Module

Size = tuple[int, int, int]
SixCounts = Annotated[tuple[Count, ...], Field(min_length=6, max_length=6)]


def _halvings(levels: str) -> Callable[[Mapping[str, Any]], int]:
    """Return the stride of a network that halves the resolution between levels.

    The option of the name `levels` lists the levels.
    """
    return lambda options: 2 ** (len(options[levels]) - 1)


@architecture("mednext", stride=16)
def mednext(
    in_channels: int,
    out_channels: int,
    patch_size: Size,
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


@architecture("monai_basic_unet3d", stride=16)
def monai_basic_unet3d(
    in_channels: int,
    out_channels: int,
    patch_size: Size,
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
    patch_size: Size,
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


@architecture("monai_segresnet", stride=_halvings("blocks_down"))
def monai_segresnet(
    in_channels: int,
    out_channels: int,
    patch_size: Size,
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


@architecture("monai_segresnet_ds", stride=_halvings("blocks_down"))
def monai_segresnet_ds(
    in_channels: int,
    out_channels: int,
    patch_size: Size,
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


@architecture("monai_dynunet", stride=_halvings("filters"))
def monai_dynunet(
    in_channels: int,
    out_channels: int,
    patch_size: Size,
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
    patch_size: Size,
    *,
    channels: Levels = (32, 64, 128, 256, 320),
    dropout: Fraction = 0.0,
) -> "Module":
    """Attention U-Net (Oktay et al. 2018, arXiv 1804.03999)."""
    from monai.networks.nets.attentionunet import AttentionUnet

    strides = [2] * (len(channels) - 1)
    return AttentionUnet(3, in_channels, out_channels, channels, strides, dropout=dropout)


@architecture("monai_swin_unetr", stride=32)
def monai_swin_unetr(
    in_channels: int,
    out_channels: int,
    patch_size: Size,
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


@architecture("monai_unetr", stride=16, fixed_size=True)
def monai_unetr(
    in_channels: int,
    out_channels: int,
    patch_size: Size,
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


@architecture_family("pytc", stride=1)
def pytc(
    name: str,
    in_channels: int,
    out_channels: int,
    patch_size: Size,
    *,
    deep_supervision: Switch = False,
    settings: dict[str, Any] = {},  # noqa: B006 - only read
) -> "Module":
    """A network of PyTorch Connectomics; `settings` are its own keys below `model`."""
    from cellmap_pipeline.models.pytc import build_pytc

    return build_pytc(name, in_channels, out_channels, patch_size, deep_supervision, settings)
