"""Fragments of validation cases, found once for all settings and evaluators that need them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from cellmap_pipeline.segmentation.fragments import Fragments, find_fragments
from cellmap_pipeline.segmentation.landscapes import smooth
from cellmap_pipeline.segmentation.method_settings import fragment_settings
from cellmap_pipeline.segmentation.methods import Settings
from cellmap_pipeline.validation.cases import LoadedCase


class SmoothedChannels(Mapping[str, NDArray[Any]]):
    """The channels of a case, each smoothed when it is first read.

    Many settings share a smoothing, which takes longer than many of the steps after it.
    """

    def __init__(self, case: LoadedCase, sigma_nm: float) -> None:
        self._case, self._sigma_nm = case, sigma_nm
        self._smoothed: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._smoothed:
            case = self._case
            self._smoothed[name] = smooth(case.channels[name], case.voxel_size, self._sigma_nm)
        return self._smoothed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._case.channels)

    def __len__(self) -> int:
        return len(self._case.channels)


class CaseFragments:
    """Finds fragments in cases, and keeps the last ones.

    Parameters
    ----------
    label
        Name of the label.
    cases
        Cases with the label's probabilities.
    max_kept_voxels
        Voxels of the fragments that are kept, 4 bytes each; more if threads work on more of them.
    """

    # Per case: that of the best settings so far, and that of their neighbors.
    SMOOTHINGS_KEPT = 2

    def __init__(self, label: str, cases: Sequence[LoadedCase], max_kept_voxels: int) -> None:
        self._label, self._cases, self._max_kept_voxels = label, cases, max_kept_voxels
        self._lock = Lock()
        self._smoothed: OrderedDict[tuple[int, float], SmoothedChannels] = OrderedDict()
        self._fragments: OrderedDict[tuple[Any, ...], Fragments] = OrderedDict()

    def find(self, settings: Settings, i: int) -> Fragments:
        """Return the fragments that settings find in case `i`."""
        key = (i, *(settings[name] for name in fragment_settings(settings["method"])))
        with self._lock:
            if key in self._fragments:
                self._fragments.move_to_end(key)
                return self._fragments[key]
        unsmoothed = settings | {"smooth_nm": 0.0}
        voxel_size = self._cases[i].voxel_size
        found = find_fragments(self._label, self.channels(settings, i), voxel_size, unsmoothed)
        with self._lock:
            self._fragments[key] = found
            voxels = sum(fragments.labels.size for fragments in self._fragments.values())
            while voxels > self._max_kept_voxels:
                _, oldest = self._fragments.popitem(last=False)
                voxels -= oldest.labels.size
        return found

    def channels(self, settings: Settings, i: int) -> SmoothedChannels:
        """Return the smoothed channels of case `i`."""
        key = (i, settings["smooth_nm"])
        with self._lock:
            if key not in self._smoothed:
                self._smoothed[key] = SmoothedChannels(self._cases[i], settings["smooth_nm"])
            self._smoothed.move_to_end(key)
            while len(self._smoothed) > self.SMOOTHINGS_KEPT * len(self._cases):
                self._smoothed.popitem(last=False)
            return self._smoothed[key]
