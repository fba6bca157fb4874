import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import (
    architectures,
    build_model,
    check_model,
    check_patch_size,
    check_window,
    model_options,
    total_stride,
)
from cellmap_pipeline.models.pytc import FullResolutionFirst

# Each network as small as it goes, with a patch that it takes.
SMALL = {
    "mednext": ({"size": "S"}, (32, 16, 16)),
    "monai_basic_unet3d": ({"features": [4, 4, 8, 8, 8, 4]}, (32, 16, 16)),
    "monai_unet": ({"channels": [4, 8, 8]}, (16, 8, 4)),
    "monai_segresnet": ({"init_filters": 8, "blocks_down": [1, 1]}, (8, 8, 4)),
    "monai_segresnet_ds": ({"init_filters": 8, "blocks_down": [1, 1, 1]}, (16, 8, 8)),
    "monai_dynunet": ({"filters": [4, 8, 8, 8]}, (16, 16, 16)),
    "monai_attention_unet": ({"channels": [4, 8, 8]}, (8, 8, 16)),
    "monai_swin_unetr": ({"feature_size": 12}, (64, 32, 32)),
    "monai_unetr": (
        {"feature_size": 4, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2},
        (32, 16, 16),
    ),
}
DEEP = ["mednext", "monai_segresnet_ds", "monai_dynunet"]


def parameters(model: dict) -> float:
    """Millions of parameters, counted without making any."""
    with torch.device("meta"):
        network = build_model(model, 1, 1, (64, 64, 64))
    return sum(p.numel() for p in network.parameters()) / 1e6


@pytest.mark.parametrize(
    ("size", "kernel_size", "millions"),
    [("S", 3, 5.6), ("B", 3, 10.5), ("M", 3, 17.6), ("L", 3, 61.8)]
    # With kernel 5, table 1 of the paper.
    + [("S", 5, 5.9), ("B", 5, 11.0), ("M", 5, 18.3), ("L", 5, 63.0)],
)
def test_mednext_has_the_published_sizes(size, kernel_size, millions):
    model = {"architecture": "mednext", "size": size, "kernel_size": kernel_size}
    assert parameters(model) == pytest.approx(millions, rel=0.02)


def test_mednext_without_a_size_is_b():
    assert parameters({"architecture": "mednext"}) == pytest.approx(10.5, rel=0.02)


def test_unets_have_their_sizes():
    assert 5 < parameters({"architecture": "monai_basic_unet3d"}) < 6
    assert parameters({"architecture": "monai_unet"}) == pytest.approx(10, rel=0.05)


def test_every_network_has_a_small_form_here():
    assert set(SMALL) | {"pytc:NAME"} == set(architectures())


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_takes_part_in_training(name):
    # DDP waits for the gradient of each weight that wants one.
    options, patch = SMALL[name]
    torch.manual_seed(0)
    network = build_model({"architecture": name, **options}, 1, 2, patch).train()
    logits = network(torch.rand(1, 1, *patch))
    scales = [logits] if isinstance(logits, torch.Tensor) else logits
    sum(scale.square().mean() for scale in scales).backward()
    weights = [p for p in network.parameters() if p.requires_grad]
    assert all(w.grad is not None and w.grad.isfinite().all() for w in weights)
    assert any(w.grad.abs().sum() > 0 for w in weights)


@pytest.mark.parametrize("name", DEEP)
def test_deep_supervision_gives_full_resolution_first_and_only_in_training(name):
    options, patch = SMALL[name]
    model = {"architecture": name, **options, "deep_supervision": True}
    network = build_model(model, 1, 2, patch)
    raw = torch.rand(2, 1, *patch)
    scales = network.train()(raw)
    assert [tuple(s.shape) for s in scales] == [
        (2, 2, *(n >> level for n in patch)) for level in range(len(scales))
    ]
    assert len(scales) > 1
    twin = copy.deepcopy(network)  # as an average of the weights needs it
    with torch.no_grad():
        assert torch.equal(network.eval()(raw), twin.eval()(raw))
        assert network(raw).shape == (2, 2, *patch)


@pytest.mark.parametrize("name", SMALL)
def test_logits_have_the_shape_of_the_patch_and_the_total_stride_is_true(name):
    options, patch = SMALL[name]
    model = {"architecture": name, **options}
    torch.manual_seed(0)
    network = build_model(model, 1, 3, patch).eval()
    sizes = []
    for module in network.modules():
        module.register_forward_hook(lambda _module, _in, out: sizes.append(_spatial(out)))
    with torch.no_grad():
        logits = network(torch.rand(1, 1, *patch))
    assert logits.shape == (1, 3, *patch)
    assert logits.isfinite().all()
    coarsest = min((s for s in sizes if s), key=lambda s: s[0] * s[1] * s[2])
    assert coarsest == tuple(n // total_stride(model) for n in patch)


def _spatial(out):
    tensor = out[0] if isinstance(out, list | tuple) else out
    return tuple(tensor.shape[2:]) if isinstance(tensor, torch.Tensor) and tensor.ndim == 5 else ()


def test_checks_of_a_model_import_no_torch():
    code = (
        "import sys\n"
        "from cellmap_pipeline.models.build import check_model, check_patch_size\n"
        "check_patch_size(check_model({'architecture': 'monai_dynunet'}), (64, 64, 64))\n"
        "assert not {'torch', 'monai', 'zarr', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_checked_model_is_whole_plain_and_stable():
    assert check_model({"architecture": "mednext", "kernel_size": 5}) == {
        "architecture": "mednext",
        "size": "B",
        "kernel_size": 5,
        "deep_supervision": False,
    }
    assert check_model({"architecture": "monai_unet"})["channels"] == [32, 64, 128, 256, 512]
    for name in SMALL:
        complete = check_model({"architecture": name})
        assert check_model(complete) == complete == {"architecture": name, **model_options(name)}
        assert list(check_model(dict(reversed(complete.items())))) == list(complete)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "architecture must be one of mednext, .*not None"),
        ({"architecture": "unet"}, "no architecture 'unet'; choose one of mednext, monai_basic"),
        ({"architecture": "pytc:"}, "no architecture 'pytc:'"),
        ({"architecture": "pytc:NAME"}, "no architecture 'pytc:NAME'"),
        (
            {"architecture": "mednext", "kernl_size": 3},
            r"mednext has no option 'kernl_size'; it has size \(default B\), kernel_size",
        ),
        ({"architecture": "mednext", "size": "XL"}, "size of mednext must be one of S, B, M, L"),
        ({"architecture": "mednext", "kernel_size": 4}, "must be one of 3, 5, 7, not 4"),
        ({"architecture": "mednext", "kernel_size": 3.0}, "must be one of 3, 5, 7, not 3.0"),
        ({"architecture": "mednext", "deep_supervision": "yes"}, "must be true or false"),
        ({"architecture": "monai_basic_unet3d", "features": [8, 8]}, "a list of 6 positive"),
        ({"architecture": "monai_unet", "channels": [8]}, "a list of at least two positive"),
        ({"architecture": "monai_unet", "channels": 8}, "a list of at least two positive"),
        ({"architecture": "monai_unet", "dropout": 1}, "a number from 0 to below 1, not 1"),
        ({"architecture": "monai_unet", "num_res_units": True}, "a positive whole number"),
        ({"architecture": "pytc:rsunet", "settings": [1]}, "must be a mapping"),
    ],
)
def test_a_wrong_model_is_told_in_words(model, message):
    with pytest.raises(InputError, match=message):
        check_model(model)


def test_what_only_the_network_knows_is_told_in_words_too():
    model = {"architecture": "monai_segresnet", "init_filters": 12}
    with pytest.raises(InputError, match="monai_segresnet can't be built with .*12"):
        build_model(model, 1, 1, (64, 64, 64))


MEDNEXT = {"architecture": "mednext"}


@pytest.mark.parametrize(
    ("patch", "nearest"),
    [
        ([100, 128, 128], r"nearest are \[96, 128, 128\] and \[112, 128, 128\]"),
        ([16, 16, 16], r"nearest are \[32, 32, 32\]"),
        ([20, 16, 16], r"nearest are \[32, 32, 32\]"),
        ([0, 64, 64], r"nearest are \[16, 64, 64\]"),
        ([64, 64], "three multiples of 16"),
    ],
)
def test_patches_that_do_not_suit_are_refused_with_those_that_do(patch, nearest):
    with pytest.raises(InputError, match=nearest):
        check_patch_size(MEDNEXT, patch)


@given(st.lists(st.integers(1, 8).map(lambda n: 16 * n), min_size=3, max_size=3))
def test_whole_strides_suit_unless_one_voxel_is_left(patch):
    if patch == [16, 16, 16]:
        with pytest.raises(InputError):
            check_patch_size(MEDNEXT, patch)
    else:
        check_patch_size(MEDNEXT, patch)


def test_one_voxel_at_the_coarsest_level_could_not_be_trained():
    # Why check_patch_size refuses it.
    network = build_model({"architecture": "monai_basic_unet3d"}, 1, 1, (32, 16, 16)).train()
    network(torch.rand(1, 1, 32, 16, 16))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        network(torch.rand(1, 1, 16, 16, 16))


def test_windows_may_differ_from_the_patch_only_where_the_network_allows():
    check_window(MEDNEXT, (64, 64, 64), (32, 32, 32))
    with pytest.raises(InputError, match="window: .*multiples of 16"):
        check_window(MEDNEXT, (60, 64, 64), (32, 32, 32))
    unetr = {"architecture": "monai_unetr"}
    check_window(unetr, [32, 32, 32], (32, 32, 32))
    with pytest.raises(InputError, match=r"window: .*set window to \[32, 32, 32\]"):
        check_window(unetr, (64, 64, 64), (32, 32, 32))


@pytest.fixture
def connectomics(tmp_path, monkeypatch):
    """An empty folder that stands for an installed package `connectomics`."""
    for name in [m for m in sys.modules if m.partition(".")[0] == "connectomics"]:
        monkeypatch.delitem(sys.modules, name)
    package = tmp_path / "connectomics"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [m for m in sys.modules if m.partition(".")[0] == "connectomics"]:
        del sys.modules[name]


def build_rsunet(**options):
    return build_model({"architecture": "pytc:rsunet", **options}, 1, 2, (8, 8, 8))


def test_pytc_absent_is_told_in_words(monkeypatch):
    monkeypatch.setattr("cellmap_pipeline.models.pytc.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs PyTorch Connectomics; pip install git"):
        build_rsunet()


def test_the_other_connectomics_is_told_apart(connectomics: Path):
    (connectomics / "volume").mkdir()
    with pytest.raises(InputError, match="another package .*pip uninstall connectomics"):
        build_rsunet()


def test_pytc_builds_from_its_own_configuration(connectomics: Path):
    (connectomics / "models").mkdir()
    (connectomics / "config.py").write_text(
        "from dataclasses import dataclass, field\n"
        "@dataclass\nclass Arch:\n    type: str = ''\n"
        "@dataclass\nclass Loss:\n    deep_supervision: bool = False\n"
        "@dataclass\nclass Rsunet:\n    width: list = field(default_factory=list)\n"
        "@dataclass\nclass ModelConfig:\n"
        "    in_channels: int\n    out_channels: int\n    input_size: list\n    output_size: list\n"
        "    arch: Arch = field(default_factory=Arch)\n"
        "    loss: Loss = field(default_factory=Loss)\n"
        "    rsunet: Rsunet = field(default_factory=Rsunet)\n"
    )
    (connectomics / "models" / "build.py").write_text(
        "import torch\n"
        "def build_model(cfg):\n"
        "    m = cfg.model\n"
        "    if m.arch.type != 'rsunet':\n"
        "        raise ValueError('not found')\n"
        "    network = torch.nn.Conv3d(m.in_channels, m.out_channels, 1)\n"
        "    network.seen = m\n"
        "    return network\n"
    )
    network = build_rsunet(deep_supervision=True, settings={"rsunet": {"width": [4, 8]}}).network
    assert network.seen.rsunet.width == [4, 8]
    assert network.seen.loss.deep_supervision
    assert network.seen.input_size == [8, 8, 8]
    with pytest.raises(InputError, match="settings of pytc:rsunet.rsunet has no key 'depth'"):
        build_rsunet(settings={"rsunet": {"depth": 3}})
    with pytest.raises(InputError, match="can't build pytc:no: not found"):
        build_model({"architecture": "pytc:no"}, 1, 2, (8, 8, 8))


def test_scales_of_pytc_are_put_in_order():
    class Scales(torch.nn.Module):
        def forward(self, x):
            return {"output": x, "ds_1": x[..., ::4, ::4], "ds_2": x[..., ::2, ::2]}

    raw = torch.rand(1, 1, 8, 8, 8)
    network = FullResolutionFirst(Scales())
    assert [s.shape[-1] for s in network.train()(raw)] == [8, 4, 2]
    assert torch.equal(network.eval()(raw), raw)
