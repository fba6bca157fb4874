"""Time and memory of computing the official score, by each set of rules.

Prints one line of JSON. For volumes in memory it contains `seconds` by rules and volume: `256`,
256³ with 39 true and 183 predicted objects; `600`, 600 objects in 256³; `512`, the first objects in
a larger volume of 512³. `cpu_times_first_rules` is the CPU time by the other rules, in units of
that by the first ones. If the official toolbox is installed, it contains its `official_seconds` for
`256`, how many `times_faster` the first rules are (`cpu_times_faster` in CPU time), and whether the
results are the `same`; if they are not, the exit code is 1. For a whole 1000³ crop read from a
submission.zip, in a new process, it contains `crops` by kind of label and rules: `seconds`,
`cpu_seconds`, `peak_gb` (VmHWM of the whole process) and `counts`.

    python benchmarks/scoring.py [--without-official] [--side 1000]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import toolbox_manifest
from cellmap_pipeline.geometry import Grid

VOXEL_SIZE = (8.0, 8.0, 8.0)
# The first are those that the official toolbox is compared with.
RULES = ("2026-06-30", "2026-07")
REPEATS = 3
# Kind of objects in a whole crop, by label.
LABELS = {"mito": "scattered", "cell": "dense", "er": "semantic"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without-official", action="store_true")
    parser.add_argument("--side", type=int, default=1000, help="edge of the whole crop, voxels")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, label, side, rules = arguments.measure
        print(json.dumps(score_crop(Path(folder), label, int(side), rules)))
        return
    result = small_volumes(official=not arguments.without_official)
    crops: dict[str, Any] = {}
    for label, kind in LABELS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_crop(Path(folder), label, arguments.side)
            crops[kind] = {
                rules: measure(Path(folder), label, arguments.side, rules)
                for rules in (RULES if kind != "semantic" else RULES[:1])
            }
    result |= {"crops": crops, "side": arguments.side, "cpus": os.cpu_count()}
    print(json.dumps(result))
    if not result.get("same", True):
        sys.exit(1)


def small_volumes(official: bool) -> dict[str, Any]:
    """Measure the scoring of volumes in memory."""
    pred, truth = scattered(256, 39, (8, 26), 144)
    margin = [(128, 128)] * 3
    volumes = {
        "256": (pred, truth),
        "600": scattered(256, 600, (3, 12), 600),
        "512": (np.pad(pred, margin), np.pad(truth, margin)),
    }
    scorers = {rules: scorer(rules) for rules in RULES}
    scorers[RULES[0]](pred[:64, :64, :64], truth[:64, :64, :64], VOXEL_SIZE)
    runs = {
        # By turns, so that other work on the machine slows all rules.
        name: [{rules: timed(s, *volume) for rules, s in scorers.items()} for _ in range(REPEATS)]
        for name, volume in volumes.items()
    }

    def least(rules: str, name: str, measure: str) -> float:
        return min(getattr(run[rules], measure) for run in runs[name])

    result: dict[str, Any] = {
        "objects": [int(truth.max()), len(unique(pred))],
        "seconds": {r: {name: round(least(r, name, "seconds"), 3) for name in runs} for r in RULES},
        "cpu_times_first_rules": {
            r: {
                name: round(least(r, name, "cpu_seconds") / least(RULES[0], name, "cpu_seconds"), 3)
                for name in runs
            }
            for r in RULES[1:]
        },
    }
    if official and importlib.util.find_spec("cellmap_segmentation_challenge"):
        theirs = timed(official_scorer(), pred, truth)
        ours, expected = runs["256"][0][RULES[0]].score, theirs.score
        same = all(abs(ours[k] - v) < 1e-9 for k, v in expected.items() if k != "status")
        result |= {
            "official_seconds": round(theirs.seconds, 3),
            "times_faster": round(theirs.seconds / least(RULES[0], "256", "seconds"), 1),
            "cpu_times_faster": round(
                theirs.cpu_seconds / least(RULES[0], "256", "cpu_seconds"), 1
            ),
            "same": same and ours["status"] == expected["status"],
        }
    return result


def scorer(name: str) -> Any:
    """Return this package's function, with rules by their name."""
    from cellmap_pipeline.scoring.instances import score_instance
    from cellmap_pipeline.scoring.rules.registry import rules_named

    return partial(score_instance, rules=rules_named(name))


class Timed(NamedTuple):
    """A score of a volume, and the wall and CPU time that it took."""

    seconds: float
    cpu_seconds: float
    score: dict[str, Any]


def timed(score: Any, pred: NDArray[Any], truth: NDArray[Any]) -> Timed:
    begin, cpu = time.perf_counter(), time.process_time()
    result = score(pred, truth, VOXEL_SIZE)
    return Timed(time.perf_counter() - begin, time.process_time() - cpu, result)


def official_scorer() -> Any:
    """Return the toolbox's function, without its progress bars and a download of its manifest."""
    os.environ |= {"TQDM_DISABLE": "1", "CSC_TEST_CROP_MANIFEST_URL": str(toolbox_manifest())}
    from cellmap_segmentation_challenge.utils import eval_utils

    return eval_utils.score_instance


def unique(volume: NDArray[Any]) -> NDArray[Any]:
    found = np.unique(volume)
    return found[found != 0]


def scattered(
    side: int, n: int, radii: tuple[float, float], stray: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Create prediction and ground truth: ellipsoids, slightly changed, and stray ones."""
    rng = np.random.default_rng(0)
    truth, pred = np.zeros((2, side, side, side), np.uint16)
    # On a jittered lattice, which keeps them apart from each other, like organelles.
    per_axis = int(np.ceil(n ** (1 / 3)))
    lattice = np.argwhere(np.ones((per_axis,) * 3))
    places = (rng.permutation(lattice)[:n] + 0.5) * side / per_axis
    for i, place in enumerate(places + rng.normal(0, side / per_axis / 12, (n, 3))):
        radius = np.minimum(rng.uniform(*radii, 3), 0.45 * side / per_axis)
        draw(truth, place, radius, i + 1)
        moved = place + rng.normal(0, 0.06, 3) * radius
        draw(pred, moved, radius * rng.uniform(0.9, 1.1, 3), i + 1)
    made = 0
    while made < stray:
        made += draw(
            pred, rng.uniform(0, side, 3), rng.uniform(1.5, 4, 3), n + made + 1, alone=True
        )
    return pred, truth


def draw(volume: NDArray[Any], place: Any, radius: Any, value: int, alone: bool = False) -> bool:
    """Draw an ellipsoid into a volume; if `alone`, only if no object is nearby."""
    low = np.maximum(np.floor(place - radius - 1), 0).astype(int)
    high = np.minimum(np.ceil(place + radius + 2), volume.shape).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes = [
        ((np.arange(a, b) - c) / r) ** 2
        for a, b, c, r in zip(low, high, place, radius, strict=True)
    ]
    inside = axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 1
    if not inside.any() or (alone and volume[box].any()):
        return False
    volume[box][inside] = value
    return True


def dense(side: int, n: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Create prediction and ground truth: cells that fill the volume, with moved borders."""
    rng = np.random.default_rng(0)
    fine = 8
    grid = np.indices((side // fine,) * 3).reshape(3, -1).T
    places = rng.uniform(0, side // fine, (n, 3))
    volumes = []
    for centres in (places + rng.normal(0, 1, places.shape), places):
        cells = (cKDTree(centres).query(grid)[1] + 1).astype(np.uint8)
        cells = cells.reshape((side // fine,) * 3)
        for axis in range(3):
            cells = cells.repeat(fine, axis)
        volumes.append(cells)
    return volumes[0], volumes[1]


def write_crop(folder: Path, label: str, side: int) -> None:
    """Write a submission and its ground truth, of one label."""
    import zarr
    from numcodecs import Zstd

    kind = LABELS[label]
    if kind == "dense":
        volumes: tuple[NDArray[Any], ...] = dense(side, 30)
    else:
        volumes = scattered(side, side * 2, (side / 100, side / 20), side * 3)
    if kind == "semantic":
        volumes = tuple((volume != 0).astype(np.uint8) for volume in volumes)
    for path, volume in zip((folder / "s", folder / "truth"), volumes, strict=True):
        zarr.open_group(str(path / "crop1"), mode="w")
        array = zarr.open(
            str(path / "crop1" / label), mode="w", shape=volume.shape, dtype=volume.dtype,
            chunks=(64,) * 3, compressor=Zstd(3), write_empty_chunks=False,
        )  # fmt: skip
        array.attrs.update(voxel_size=VOXEL_SIZE, translation=(0, 0, 0))
        array[:] = volume
    with zipfile.ZipFile(folder / "s.zip", "w") as archive:
        for file in sorted(path for path in (folder / "s").rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(folder / "s"))


def measure(folder: Path, label: str, side: int, rules: str) -> dict[str, Any]:
    """Score in a new process."""
    command = [sys.executable, __file__, "--measure", str(folder), label, str(side), rules]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def score_crop(folder: Path, label: str, side: int, rules: str) -> dict[str, Any]:
    from cellmap_pipeline.scoring.submission import score_submission

    rows = [CropLabel(1, "d", label, Grid(VOXEL_SIZE, (0, 0, 0), (side,) * 3))]
    begin, cpu = time.perf_counter(), time.process_time()
    scores = score_submission(folder / "s.zip", folder / "truth", rows, rules=rules)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_gb": peak_gb(),
        "counts": {name: scores["crop1"][label][name] for name in ("tp", "fp", "fn")},
    }


def peak_gb() -> float:
    """Return this process's peak memory, GB; that of `resource` would include its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(kilobytes) / 2**20, 2)


if __name__ == "__main__":
    main()
