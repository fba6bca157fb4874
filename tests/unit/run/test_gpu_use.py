"""The record of a job's GPU use, with a stand-in for nvidia-smi."""

import json

import pytest
import torch

from cellmap_pipeline.run import gpu_use


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """An nvidia-smi that says how many times it was called as busy percent."""
    path = tmp_path / "bin/nvidia-smi"
    path.parent.mkdir()
    path.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        f"n=$(wc -l < {tmp_path}/calls)\n"
        'echo "NVIDIA A100-SXM4, 80GB, ${n}0, 1000"\n'
        'echo "NVIDIA A100-SXM4, 80GB, ${n}0, $((n * 1000))"\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    monkeypatch.setattr(gpu_use, "INTERVAL_S", 0.02)
    return tmp_path / "calls"


def test_use_of_two_gpus(tool, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with gpu_use.record_gpu_use(tmp_path / "gpu.json"):
        while not tool.exists():
            pass
    found = json.loads((tmp_path / "gpu.json").read_text())
    n = found["looks"]
    assert n >= 2
    assert found["gpus"] == ["NVIDIA A100-SXM4, 80GB"] * 2
    assert found["busy_percent"] == pytest.approx(10 * (n + 1) / 2, abs=0.1)
    assert found["peak_memory_mb"] == 1000 * n
    assert "--id 2,3" in tool.read_text()


def test_job_without_gpu_writes_no_file(tool, tmp_path):
    with gpu_use.record_gpu_use(tmp_path / "gpu.json"):
        pass
    assert not (tmp_path / "gpu.json").exists() and not tool.exists()


def test_machine_without_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu_use.record_gpu_use(tmp_path / "gpu.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_failed_job_writes_the_file_too(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="failed"), gpu_use.record_gpu_use(tmp_path / "gpu.json"):
        raise ValueError("failed")
    assert json.loads((tmp_path / "gpu.json").read_text())["looks"] >= 1
