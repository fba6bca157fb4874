"""CPU time and score of tuning an instance label, on simulated predictions.

The cells of two crops touch everywhere; their boundaries and affinities are predicted with noise
and gaps. Prints one line of JSON: CPU-seconds, peak memory, the score at a threshold of 0.5, the
tuned score and settings.

    python benchmarks/tuning.py                                       # 16 M voxels, 2,000 objects
    python benchmarks/tuning.py --voxels 3_500_000 --objects 500 --targets boundary
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from cellmap_pipeline.channels import AFFINITY_SUFFIXES, BOUNDARY_SUFFIX
from cellmap_pipeline.scoring.rules.base import DistanceScale
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.validation.cases import LoadedCase
from cellmap_pipeline.validation.evaluators import Search
from cellmap_pipeline.validation.progress import TuningProgress
from cellmap_pipeline.validation.tuning import tune
from cellmap_pipeline.validation.validate import MAX_FRAGMENT_SETTINGS

LABEL, CROPS, VOXEL_SIZE = "cell", 2, (8.0, 8.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voxels", type=int, default=16_000_000, help="of all crops")
    parser.add_argument("--objects", type=int, default=2_000, help="in all crops")
    parser.add_argument("--noise", type=float, default=0.15, help="standard deviation, 0..1")
    parser.add_argument("--targets", nargs="+", default=["boundary", "affinities"])
    parser.add_argument("--rules", default="2026-07", choices=RULES)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    edge = round((arguments.voxels / CROPS) ** (1 / 3))
    n = arguments.objects // CROPS
    cases = [simulate(edge, n, arguments.noise, arguments.targets, i) for i in range(CROPS)]
    begin = time.process_time()
    with TuningProgress(LABEL) as progress:
        search = Search(LABEL, RULES[arguments.rules], arguments.workers, progress=progress)
        found = tune(search, cases, MAX_FRAGMENT_SETTINGS)
    result = {
        "voxels": CROPS * edge**3,
        "objects": sum(int(case.truth.max()) for case in cases),
        "cpu_seconds": round(time.process_time() - begin),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        "score_at_half": round(found["score_at_half"], 4),
        "score": round(found["score"], 4),
        "settings": found["settings"],
    }
    print(json.dumps(result))


def simulate(edge: int, objects: int, noise: float, targets: list[str], seed: int) -> LoadedCase:
    """Make a crop of Voronoi cells, and plausible predictions of them."""
    rng = np.random.default_rng(seed)
    away = np.ones((edge,) * 3, bool)
    points = np.unravel_index(rng.choice(away.size, objects, replace=False), away.shape)
    away[points] = False
    truth = np.zeros(away.shape, np.int32)
    truth[points] = np.arange(1, objects + 1)
    nearest = distance_transform_edt(away, return_distances=False, return_indices=True)
    truth = truth[tuple(nearest)]
    apart = [truth != np.roll(truth, 1, axis) for axis in range(3)]
    channels = {LABEL: np.full(truth.shape, 230, np.uint8)}
    if "boundary" in targets:
        boundary = np.logical_or.reduce([a | np.roll(a, -1, n) for n, a in enumerate(apart)])
        channels[LABEL + BOUNDARY_SUFFIX] = predicted(boundary, noise, rng)
    if "affinities" in targets:
        for suffix, mask in zip(AFFINITY_SUFFIXES, apart, strict=True):
            channels[LABEL + suffix] = 255 - predicted(mask, noise, rng)
    scale = DistanceScale.of(truth.shape, VOXEL_SIZE)
    return LoadedCase(channels, truth, None, VOXEL_SIZE, scale, [scale])


def predicted(mask: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Blur a mask, weaken it in places, and add fine noise, as the output of a network; uint8."""
    gaps = gaussian_filter(rng.standard_normal(mask.shape, np.float32), 3)
    strength = np.clip(0.8 + noise / gaps.std() * gaps, 0, 1)
    value = strength * gaussian_filter(mask.astype(np.float32), 0.7)
    value += noise / 2 * rng.standard_normal(mask.shape, np.float32)
    return (255 * value.clip(0, 1)).astype(np.uint8)


if __name__ == "__main__":
    main()
