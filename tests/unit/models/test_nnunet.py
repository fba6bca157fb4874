"""nnU-Net's networks, whose weights have the names of its checkpoints."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from cellmap_pipeline.models.build import build_model
from cellmap_pipeline.models.nnunet_plan import plan_stages

ISOTROPIC = (8, 8, 8)
SECTIONS = (45, 9.2, 9.2)


def on_meta(architecture, patch_size, voxel_size, **options):
    with torch.device("meta"):
        model = {"architecture": architecture, **options}
        return build_model(model, 1, 2, patch_size, voxel_size)


@pytest.mark.parametrize("architecture", ["nnunet_plain", "nnunet_resenc"])
def test_names_and_shapes_are_those_of_the_library(architecture):
    patch_size, voxel_size = (28, 256, 256), SECTIONS
    network = on_meta(architecture, patch_size, voxel_size)
    stages = plan_stages(patch_size, voxel_size)
    number = len(stages.strides)
    plain = architecture == "nnunet_plain"
    # As `arch_kwargs` in the planner's plans.
    settings = {
        "n_stages": number,
        "features_per_stage": [32, 64, 128, 256, 320, 320, 320],
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": stages.kernels,
        "strides": stages.strides,
        "n_conv_per_stage_decoder": [2 if plain else 1] * (number - 1),
        "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    with torch.device("meta"):
        if plain:
            library = PlainConvUNet(1, num_classes=2, n_conv_per_stage=[2] * 7, **settings)
        else:
            library = ResidualEncoderUNet(
                1, num_classes=2, n_blocks_per_stage=[1, 3, 4, 6, 6, 6, 6], **settings
            )
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in library.state_dict().items()}
    assert {name.split(".")[0] for name in shapes} == {"encoder", "decoder"}


@pytest.mark.parametrize("architecture", ["nnunet_plain", "nnunet_resenc"])
def test_without_deep_supervision_every_trained_weight_gets_a_gradient(architecture):
    model = {"architecture": architecture, "features": 4, "deep_supervision": False}
    network = build_model(model, 1, 2, (16, 16, 16), ISOTROPIC).train()
    network(torch.rand(1, 1, 16, 16, 16)).square().mean().backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert len(trained) < len(list(network.parameters()))


def test_blocks_begin_as_identities():
    model = {"architecture": "nnunet_resenc", "features": 4}
    network = build_model(model, 1, 2, (16, 16, 16), ISOTROPIC)
    last = [v for k, v in network.named_parameters() if k.endswith("conv2.norm.weight")]
    assert last and not any(weights.any() for weights in last)
