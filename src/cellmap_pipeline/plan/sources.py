"""Names of the sources of a label, and what `submission.select` says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cellmap_pipeline.config.run import PARTS
from cellmap_pipeline.config.types import size_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import SAME_SIZE, apart

# The source of labels of which several predictions are averaged.
AVERAGE = "average"


def origin(source: str) -> str:
    """The training, or the predictions made elsewhere, of a source's name."""
    return source.removesuffix(PARTS)


def named_sources(row: CropLabel, select: str | Mapping[str, Any]) -> list[str]:
    """What `submission.select` names for a row, where it is a map that does."""
    if isinstance(select, str) or row.label not in select:
        return []
    choice = select[row.label]
    if isinstance(choice, Mapping):
        key = key_of(row, choice)
        if key is None:
            return []
        choice = choice[key]
    return [choice] if isinstance(choice, str) else list(choice)


def key_of(row: CropLabel, keys: Iterable[str]) -> str | None:
    """Of voxel sizes as keys, the one that a row takes: the nearest that counts as the same."""
    away = {key: apart(size_of(key), row.grid.voxel_size) for key in keys}
    near = min(away, key=lambda key: away[key])
    return near if away[near] <= SAME_SIZE else None


def in_words(voxel_size: Sequence[float]) -> str:
    """A voxel size as a key: "3.48 4 4"."""
    return " ".join(f"{v:g}" for v in voxel_size)
