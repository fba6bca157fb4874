"""GPU utilization of a job, measured with `nvidia-smi`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERVAL_S = 10.0
QUERY = ["--query-gpu=name,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]


@contextmanager
def record_gpu_use(path: Path) -> Iterator[None]:
    """Measure the use of the GPUs while the block runs, and write it to the JSON file `path`.

    The file holds `gpus` (names), `busy_percent` (mean over samples and GPUs), `peak_memory_mb` (of
    the fullest GPU) and `looks` (number of samples). Without `nvidia-smi`, or if the block uses no
    GPU, no file is written.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield
        return
    end = threading.Event()
    samples: list[list[tuple[str, float, float]]] = []

    def sample_repeatedly() -> None:
        while not end.wait(INTERVAL_S):
            if _uses_gpu():
                samples.append(_sample(tool))

    thread = threading.Thread(target=sample_repeatedly, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        if _uses_gpu():
            samples.append(_sample(tool))
        gpus = [gpu for sample in samples for gpu in sample]
        if gpus:
            use = {
                "gpus": [name for name, _, _ in samples[0]],
                "busy_percent": round(sum(busy for _, busy, _ in gpus) / len(gpus), 1),
                "peak_memory_mb": max(memory for _, _, memory in gpus),
                "looks": len(samples),
            }
            path.write_text(json.dumps(use) + "\n")


def _uses_gpu() -> bool:
    """Whether this process computes on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def _sample(tool: str) -> list[tuple[str, float, float]]:
    """Name, busy percent and used MB of each visible GPU that reports them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = [tool, *QUERY, *(["--id", visible] if visible else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    gpus = []
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        name, busy, memory = (part.strip() for part in line.rsplit(",", 2))
        if busy.replace(".", "").isdigit() and memory.replace(".", "").isdigit():
            gpus.append((name, float(busy), float(memory)))
    return gpus
