"""Error of instance methods with and without affinities at a distance, on drawn objects that touch.

Tubes, sheets and nested shells, with simulated predictions of growing blur and noise. Prints a line
per object and blur: the adapted Rand error of each method at its best thresholds, from affinities
of nearest neighbors alone, and with six offsets of four voxels.

    PYTHONPATH=. python benchmarks/long_range.py
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from skimage.metrics import adapted_rand_error

from cellmap_pipeline.channels import long_range_offset_nm
from tests.support.labels import segment
from tests.support.simulated import predicted, sheets, shells, tubes

VOXEL_SIZE = (8.0, 8.0, 8.0)
OFFSETS = [(4, 0, 0), (0, 4, 0), (0, 0, 4), (0, 4, 4), (4, 0, 4), (4, 4, 0)]
# σ of the blur in usual ones, and of the noise.
QUALITIES = [(1.0, 0.1), (2.0, 0.15), (2.5, 0.2)]
SEARCHED: dict[str, dict[str, Sequence[float]]] = {
    "watershed_affinities": {
        "seed_threshold": (0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        "merge_threshold": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    },
    "mutex_watershed": {
        "affinity_threshold": (0.3, 0.5, 0.7, 0.9),
        "merge_threshold": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    },
}


def main() -> None:
    for draw, (blur, noise) in itertools.product((tubes, sheets, shells), QUALITIES):
        truth = draw()
        channels = predicted(truth, "cell", blur=blur, noise=noise, offsets=OFFSETS)
        nearest = {name: c for name, c in channels.items() if long_range_offset_nm(name) is None}
        errors = [
            f"{method} {_best_error(nearest, truth, method):.3f} -> "
            f"{_best_error(channels, truth, method):.3f}"
            for method in SEARCHED
        ]
        print(f"{draw.__name__}, blur {blur:g}: {', '.join(errors)}", flush=True)


def _best_error(channels: Mapping[str, Any], truth: np.ndarray, method: str) -> float:
    names = list(SEARCHED[method])
    return min(
        adapted_rand_error(
            truth,
            segment(
                "cell",
                channels,
                VOXEL_SIZE,
                {"method": method, **dict(zip(names, values, strict=True))},
            ),
            ignore_labels=(0,),
        )[0]
        for values in itertools.product(*SEARCHED[method].values())
    )


if __name__ == "__main__":
    main()
