"""Networks: their size, gradients, deep supervision and output."""

import copy

import pytest
import torch

from cellmap_pipeline.models.build import (
    build_model,
    total_stride,
)
from cellmap_pipeline.models.registry import architecture_names
from tests.support.networks import SMALL

VOXEL_NM = (8, 8, 8)
DEEP = ["mednext", "monai_segresnet_ds", "monai_dynunet", "nnunet_plain", "nnunet_resenc"]


def parameters_in_millions(model: dict) -> float:
    """Return the number of parameters (millions) without allocating any."""
    with torch.device("meta"):
        network = build_model(model, 1, 1, (64, 64, 64), VOXEL_NM)
    return sum(p.numel() for p in network.parameters()) / 1e6


@pytest.mark.parametrize(
    ("size", "kernel_size", "millions"),
    [("S", 3, 5.6), ("B", 3, 10.5), ("M", 3, 17.6), ("L", 3, 61.8)]
    # Those with kernel 5 are in table 1 of the paper.
    + [("S", 5, 5.9), ("B", 5, 11.0), ("M", 5, 18.3), ("L", 5, 63.0)],
)
def test_mednext_has_the_published_number_of_parameters(size, kernel_size, millions):
    model = {"architecture": "mednext", "size": size, "kernel_size": kernel_size}
    assert parameters_in_millions(model) == pytest.approx(millions, rel=0.02)


def test_default_size_of_mednext_is_b():
    assert parameters_in_millions({"architecture": "mednext"}) == pytest.approx(10.5, rel=0.02)


def test_unets_have_the_published_number_of_parameters():
    assert 5 < parameters_in_millions({"architecture": "monai_basic_unet3d"}) < 6
    assert parameters_in_millions({"architecture": "monai_unet"}) == pytest.approx(10, rel=0.05)


def test_every_architecture_is_tested():
    assert set(SMALL) | {"pytc:NAME"} == set(architecture_names())


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_gets_a_gradient(name):
    # DDP waits for the gradient of each weight that requires one.
    options, patch = SMALL[name]
    torch.manual_seed(0)
    network = build_model({"architecture": name, **options}, 1, 2, patch, VOXEL_NM).train()
    logits = network(torch.rand(1, 1, *patch))
    scales = [logits] if isinstance(logits, torch.Tensor) else logits
    sum(scale.square().mean() for scale in scales).backward()
    weights = [p for p in network.parameters() if p.requires_grad]
    assert all(w.grad is not None and w.grad.isfinite().all() for w in weights)
    assert any(w.grad.abs().sum() > 0 for w in weights)


@pytest.mark.parametrize("name", DEEP)
def test_deep_supervision_returns_scales_only_in_training(name):
    options, patch = SMALL[name]
    model = {"architecture": name, **options, "deep_supervision": True}
    network = build_model(model, 1, 2, patch, VOXEL_NM)
    raw = torch.rand(2, 1, *patch)
    scales = network.train()(raw)
    assert [tuple(s.shape) for s in scales] == [
        (2, 2, *(n >> level for n in patch)) for level in range(len(scales))
    ]
    assert len(scales) > 1
    twin = copy.deepcopy(network)  # as weight averaging does
    with torch.no_grad():
        assert torch.equal(network.eval()(raw), twin.eval()(raw))
        assert network(raw).shape == (2, 2, *patch)


@pytest.mark.parametrize("name", SMALL)
def test_shape_of_logits_and_total_stride(name):
    options, patch = SMALL[name]
    model = {"architecture": name, **options}
    torch.manual_seed(0)
    network = build_model(model, 1, 3, patch, VOXEL_NM).eval()
    sizes = []
    for module in network.modules():
        module.register_forward_hook(lambda _module, _in, out: sizes.append(_spatial_shape(out)))
    with torch.no_grad():
        logits = network(torch.rand(1, 1, *patch))
    assert logits.shape == (1, 3, *patch)
    assert logits.isfinite().all()
    coarsest = min((s for s in sizes if s), key=lambda s: s[0] * s[1] * s[2])
    stride = total_stride(model, patch, VOXEL_NM)
    assert coarsest == tuple(n // s for n, s in zip(patch, stride, strict=True))


def _spatial_shape(out):
    tensor = out[0] if isinstance(out, list | tuple) else out
    return tuple(tensor.shape[2:]) if isinstance(tensor, torch.Tensor) and tensor.ndim == 5 else ()


def test_one_voxel_at_the_coarsest_level_cannot_be_trained():
    # This is why check_patch_size refuses such a patch size.
    network = build_model(
        {"architecture": "monai_basic_unet3d"}, 1, 1, (32, 16, 16), VOXEL_NM
    ).train()
    network(torch.rand(1, 1, 32, 16, 16))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        network(torch.rand(1, 1, 16, 16, 16))
