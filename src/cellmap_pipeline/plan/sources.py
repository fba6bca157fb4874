"""The sources of a label by name, and what `submission.select` chooses among them.

A source is a training, `NAME:parts` (the label is composed of parts that the training predicts),
or the name of external predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cellmap_pipeline.config.run import PARTS
from cellmap_pipeline.config.types import size_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import SAME_SIZE, size_ratio

# The name under which averages of several sources are validated.
AVERAGE = "average"


def origin(source: str) -> str:
    """The training or the external predictions that a source's name refers to."""
    return source.removesuffix(PARTS)


def named_sources(row: CropLabel, select: str | Mapping[str, Any]) -> list[str]:
    """The sources that `submission.select` names for a row; none where it leaves the choice open.

    Parameters
    ----------
    row
        A label of a test crop.
    select
        `submission.select` of the run's configuration.
    """
    if isinstance(select, str) or row.label not in select:
        return []
    choice = select[row.label]
    if isinstance(choice, Mapping):
        key = voxel_size_key(row, choice)
        if key is None:
            return []
        choice = choice[key]
    return [choice] if isinstance(choice, str) else list(choice)


def voxel_size_key(row: CropLabel, keys: Iterable[str]) -> str | None:
    """The key whose voxel size is nearest to the row's, if it counts as the same size."""
    ratios = {key: size_ratio(size_of(key), row.grid.voxel_size) for key in keys}
    nearest = min(ratios, key=lambda key: ratios[key])
    return nearest if ratios[nearest] <= SAME_SIZE else None


def format_voxel_size(voxel_size: Sequence[float]) -> str:
    """Format a voxel size (nm; z, y, x) as a key: "3.48 4 4"."""
    return " ".join(f"{v:g}" for v in voxel_size)
