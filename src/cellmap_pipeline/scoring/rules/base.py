"""Interface of the sets of rules by which the evaluator scores objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


class Rules(ABC):
    """A set of rules by which the evaluator scores objects.

    Attributes
    ----------
    name
        Name of the rules, the date since which the evaluator follows them.
    note
        What is not certain about them; printed beside scores.
    ids_collide
        Whether an unmatched predicted object that has the id of a true one joins its match.
    """

    name: ClassVar[str]
    note: ClassVar[str] = ""
    ids_collide: ClassVar[bool] = False

    @abstractmethod
    def object_scores(
        self, distances_nm: NDArray[np.float64], cap_nm: float, voxel_size: Sequence[float]
    ) -> NDArray[np.float64]:
        """Normalize the distances of objects.

        Parameters
        ----------
        distances_nm
            Hausdorff distances, at most `cap_nm`; NaN for objects, true or predicted, without a
            match.
        cap_nm
            The largest distance that is measured in the crop.
        voxel_size
            nm, z, y, x.

        Returns
        -------
        Scores from 0 to 1, where 1 is a perfect match.
        """
