"""Connected components."""

import numpy as np
import pytest

from cellmap_pipeline.scoring.objects import label_components


@pytest.mark.parametrize("shape", [(1, 3, 1), (1, 2, 1), (2, 3, 1), (1, 1, 1), (3, 4, 5)])
def test_components_of_bool_are_those_of_bytes(shape):
    """cc3d fails for some small arrays of bool."""
    for seed in range(20):
        mask = np.random.default_rng(seed).random(shape) < 0.6
        assert np.array_equal(label_components(mask), label_components(mask.astype(np.uint8)))
