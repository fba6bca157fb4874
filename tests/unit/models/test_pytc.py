"""Networks of PyTorch Connectomics, with stand-ins for its package."""

import sys
from pathlib import Path

import pytest
import torch

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import (
    build_model,
)
from cellmap_pipeline.models.pytc import FullResolutionFirst


@pytest.fixture
def connectomics(tmp_path, monkeypatch):
    """An empty folder that replaces an installed package `connectomics`."""
    for name in [m for m in sys.modules if m.partition(".")[0] == "connectomics"]:
        monkeypatch.delitem(sys.modules, name)
    package = tmp_path / "connectomics"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [m for m in sys.modules if m.partition(".")[0] == "connectomics"]:
        del sys.modules[name]


def build_rsunet(**options):
    return build_model({"architecture": "pytc:rsunet", **options}, 1, 2, (8, 8, 8), (8, 8, 8))


def test_missing_pytc_is_reported(monkeypatch):
    monkeypatch.setattr("cellmap_pipeline.models.pytc.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs PyTorch Connectomics; pip install git"):
        build_rsunet()


def test_other_package_named_connectomics_is_reported(connectomics: Path):
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
        build_model({"architecture": "pytc:no"}, 1, 2, (8, 8, 8), (8, 8, 8))


def test_scales_of_pytc_are_sorted():
    class Scales(torch.nn.Module):
        def forward(self, x):
            return {"output": x, "ds_1": x[..., ::4, ::4], "ds_2": x[..., ::2, ::2]}

    raw = torch.rand(1, 1, 8, 8, 8)
    network = FullResolutionFirst(Scales())
    assert [s.shape[-1] for s in network.train()(raw)] == [8, 4, 2]
    assert torch.equal(network.eval()(raw), raw)
