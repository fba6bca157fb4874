"""How much of its GPUs a job used, as `nvidia-smi` sees it."""

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

# Seconds between two looks.
INTERVAL = 10.0
QUERY = ["--query-gpu=name,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]


@contextmanager
def watched(path: Path) -> Iterator[None]:
    """Write to `path` how busy the GPUs were, if the block used any.

    The file holds `gpus` (names), `busy_percent` (mean over looks and GPUs), `peak_memory_mb` (of
    the fullest one) and `looks`. Without `nvidia-smi`, or where the block uses no GPU, no file
    appears.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield
        return
    end = threading.Event()
    looks: list[list[tuple[str, float, float]]] = []

    def look_on() -> None:
        while not end.wait(INTERVAL):
            if _used():
                looks.append(_look(tool))

    thread = threading.Thread(target=look_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        if _used():
            looks.append(_look(tool))
        seen = [gpu for look in looks for gpu in look]
        if seen:
            found = {
                "gpus": [name for name, _, _ in looks[0]],
                "busy_percent": round(sum(busy for _, busy, _ in seen) / len(seen), 1),
                "peak_memory_mb": max(memory for _, _, memory in seen),
                "looks": len(looks),
            }
            path.write_text(json.dumps(found) + "\n")


def _used() -> bool:
    """Whether this process computes on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def _look(tool: str) -> list[tuple[str, float, float]]:
    """Name, busy percent and used MB of the GPUs that this job sees, as far as can be told."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = [tool, *QUERY, *(["--id", visible] if visible else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = []
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        name, busy, memory = (part.strip() for part in line.rsplit(",", 2))
        if busy.replace(".", "").isdigit() and memory.replace(".", "").isdigit():
            found.append((name, float(busy), float(memory)))
    return found
