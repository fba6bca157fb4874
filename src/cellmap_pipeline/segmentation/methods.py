"""The methods that make labels, one class each: their settings and their landscapes.

To add one, write its class here and decorate it with `method`: the configuration's check, the
reference, tuning, and the segmentation of large volumes in blocks follow. Snakemake imports this
module while parsing, so numerical libraries are imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from cellmap_pipeline.channels import (
    AFFINITY_SUFFIXES,
    AUXILIARY_SUFFIXES,
    BOUNDARY_SUFFIX,
    DISTANCE_SUFFIX,
    long_range_offset_nm,
)
from cellmap_pipeline.segmentation.settings_models import (
    InstanceSettings,
    MethodSettings,
    MutexSettings,
    NeckSettings,
    RidgeSettings,
    SemanticSettings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellmap_pipeline.segmentation.agglomeration import Contacts, Faces
    from cellmap_pipeline.segmentation.landscapes import Channels, Landscape, Lengths
    from cellmap_pipeline.segmentation.long_range import LongRange

Settings = dict[str, Any]
# From a channel's name to its smoothed probability, float32 (z, y, x), 0..1.
ReadChannel = Callable[[str], "NDArray[Any]"]
# Values to try by setting, in ascending order.
SearchSpace = dict[str, list[Any]]


def _steps(first: int, last: int) -> list[float]:
    """Return the multiples of 1/20 from `first` / 20 to `last` / 20."""
    return [round(0.05 * k, 2) for k in range(first, last + 1)]


class Method:
    """A method to make labels from probabilities.

    Attributes
    ----------
    name
        Name in the configuration.
    settings_model
        Model of its settings.
    instances
        Whether it makes instances; otherwise it makes semantic labels.
    auxiliary
        Kind of auxiliary channels that it needs (a key of `channels.AUXILIARY_SUFFIXES`), if any.
    splits
        Whether it splits connected components into fragments, which are then merged.
    seeded
        Whether fragments grow from seeds.
    measures_necks
        Whether fragments merge by the width of the necks between them.
    block_voxels, halo_voxels
        Edge of a block of a large volume, a multiple of `blocks.CHUNK_VOXELS`, and width of the
        halo around it; a block with its halo takes less than 2 GB.
    max_voxels_in_memory
        Larger volumes are processed in blocks; up to this size, memory stays below 4 GB.
    """

    name: ClassVar[str]
    settings_model: ClassVar[type[MethodSettings]]
    instances: ClassVar[bool] = True
    auxiliary: ClassVar[str | None] = None
    splits: ClassVar[bool] = True
    seeded: ClassVar[bool] = True
    measures_necks: ClassVar[bool] = False
    block_voxels: ClassVar[int] = 192
    halo_voxels: ClassVar[int] = 32
    max_voxels_in_memory: ClassVar[int] = 28_000_000

    def own_search_space(self) -> SearchSpace:
        """Return the values of the method's own settings that tuning tries."""
        return {}

    def landscape(
        self, label: str, channels: Channels, voxel_size: Lengths, settings: Settings
    ) -> Landscape:
        """Compute where objects, their seeds and the ridges between them are.

        Parameters
        ----------
        label
            Name of the label.
        channels
            Probabilities by channel, uint8 (z, y, x), 0..255 = 0..1.
        voxel_size
            nm (z, y, x).
        settings
            Complete settings; only those marked with `FINDS_FRAGMENTS` are used.
        """
        from cellmap_pipeline.segmentation.landscapes import Landscape, above, smooth

        probability = smooth(channels[label], voxel_size, settings["smooth_nm"])
        inside = above(probability, settings["threshold"])
        return Landscape(inside, inside)

    def channels(self, label: str, available: Sequence[str]) -> list[str]:
        """List the channels of a label, of those that are available, that the method reads."""
        suffixes = AUXILIARY_SUFFIXES.get(self.auxiliary or "", ())
        needed = {label, *(label + suffix for suffix in suffixes)}
        return [
            name
            for name in available
            if name in needed or (self.auxiliary == "affinities" and long_range_offset_nm(name))
        ]

    def long_range(
        self,
        label: str,
        channels: Channels,
        probability: ReadChannel,
        voxel_size: Lengths,
    ) -> list[LongRange]:
        """Read the long-range affinities, if the method needs affinities."""
        from cellmap_pipeline.segmentation.long_range import long_range_offsets, read_long_range

        if self.auxiliary != "affinities":
            return []
        return read_long_range(long_range_offsets(label, channels, voxel_size), probability)

    def continues_across(self, contacts: Contacts, settings: Settings) -> NDArray[Any]:
        """Return which contacts between two blocks (n,) are not ridges, so fragments continue."""
        return contacts.mean < 0.5


METHODS: dict[str, Method] = {}


def method(cls: type[Method]) -> type[Method]:
    """Register the decorated class by its name."""
    METHODS[cls.name] = cls()
    return cls


@method
class Threshold(Method):
    """Semantic labels: voxels above a threshold."""

    name = "threshold"
    settings_model = SemanticSettings
    instances = False
    splits = False


@method
class ConnectedComponents(Method):
    """Connected components of the voxels above a threshold."""

    name = "connected_components"
    settings_model = InstanceSettings
    splits = False


@method
class WatershedDistance(Method):
    """Watershed of the distance to the outside, which splits objects at necks."""

    name = "watershed_distance"
    settings_model = NeckSettings
    measures_necks = True

    def own_search_space(self) -> SearchSpace:
        """Return the values of the method's own settings that tuning tries."""
        return {"neck": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]}

    def continues_across(self, contacts: Contacts, settings: Settings) -> NDArray[Any]:
        """Return all contacts: the width of a neck tells nothing about a cut between blocks."""
        return contacts.mean == contacts.mean


_MERGING: SearchSpace = {
    "merge_threshold": [0.0, *_steps(2, 14)],
    "merge_small": [False, True],
}


class RidgeWatershed(Method):
    """Watershed of predicted ridges, from seeds where a boundary is unlikely.

    Subclasses define the ridges.
    """

    settings_model = RidgeSettings

    def own_search_space(self) -> SearchSpace:
        """Return the values of the method's own settings that tuning tries."""
        seeds = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7]
        return {"seed_threshold": seeds, **_MERGING}

    def ridges(
        self,
        label: str,
        probability: ReadChannel,
        long_range: Sequence[LongRange],
    ) -> tuple[NDArray[Any], Faces]:
        """Compute the height of ridges, float32 (z, y, x), 0..1, in voxels and on their faces.

        Parameters
        ----------
        label
            Name of the label.
        probability
            Returns the smoothed channel of a name, float32 (z, y, x), 0..1.
        long_range
            Long-range affinities; none for methods that do not need affinities.
        """
        raise NotImplementedError

    def landscape(
        self, label: str, channels: Channels, voxel_size: Lengths, settings: Settings
    ) -> Landscape:
        """Compute where objects, their seeds and the ridges between them are."""
        import numpy as np

        from cellmap_pipeline.segmentation import landscapes

        sigma = settings["smooth_nm"]
        probability = landscapes.smooth(channels[label], voxel_size, sigma)
        inside = landscapes.above(probability, settings["threshold"])
        read = landscapes.channel_reader(channels, voxel_size, sigma)
        long_range = self.long_range(label, channels, read, voxel_size)
        height, faces = self.ridges(label, read, long_range)
        uncertain = landscapes.uncertainty_ridge(probability, settings["threshold"])
        np.maximum(height, uncertain, out=height)
        seedable = inside & (height < settings["seed_threshold"])
        return landscapes.Landscape(inside, seedable, height, faces, long_range)


@method
class WatershedBoundary(RidgeWatershed):
    """Watershed of a predicted boundary (Beier et al. 2017, doi:10.1038/nmeth.4151)."""

    name = "watershed_boundary"
    auxiliary = "boundary"

    def ridges(
        self,
        label: str,
        probability: ReadChannel,
        long_range: Sequence[LongRange],
    ) -> tuple[NDArray[Any], Faces]:
        """Compute the probability of a boundary."""
        from cellmap_pipeline.segmentation.landscapes import values_on_faces

        height = probability(label + BOUNDARY_SUFFIX)
        return height, values_on_faces(height)


@method
class WatershedLearnedDistance(RidgeWatershed):
    """Watershed of a predicted distance to the outside of an object."""

    name = "watershed_learned_distance"
    auxiliary = "distance"

    def ridges(
        self,
        label: str,
        probability: ReadChannel,
        long_range: Sequence[LongRange],
    ) -> tuple[NDArray[Any], Faces]:
        """Compute ridges where the distance is small."""
        from cellmap_pipeline.segmentation.landscapes import values_on_faces

        height = 1 - probability(label + DISTANCE_SUFFIX)
        return height, values_on_faces(height)


@method
class WatershedAffinities(RidgeWatershed):
    """Watershed of predicted affinities between voxels."""

    name = "watershed_affinities"
    auxiliary = "affinities"

    def ridges(
        self,
        label: str,
        probability: ReadChannel,
        long_range: Sequence[LongRange],
    ) -> tuple[NDArray[Any], Faces]:
        """Compute ridges between voxels of different objects."""
        from cellmap_pipeline.segmentation.landscapes import to_faces
        from cellmap_pipeline.segmentation.long_range import ridge_height

        boundaries = [1 - probability(label + suffix) for suffix in AFFINITY_SUFFIXES]
        return ridge_height(boundaries, long_range), to_faces(boundaries)


@method
class MutexWatershed(Method):
    """Mutex watershed (Wolf et al. 2018, doi:10.1007/978-3-030-01225-0_34) of affinities."""

    name = "mutex_watershed"
    settings_model = MutexSettings
    auxiliary = "affinities"
    seeded = False
    block_voxels = 128
    halo_voxels = 16
    max_voxels_in_memory = 6_000_000

    def own_search_space(self) -> SearchSpace:
        """Return the values of the method's own settings that tuning tries."""
        return {"affinity_threshold": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], **_MERGING}

    def landscape(
        self, label: str, channels: Channels, voxel_size: Lengths, settings: Settings
    ) -> Landscape:
        """Compute where objects are, and the signed affinities of voxels."""
        from cellmap_pipeline.segmentation import landscapes

        sigma = settings["smooth_nm"]
        probability = landscapes.smooth(channels[label], voxel_size, sigma)
        inside = landscapes.above(probability, settings["threshold"])
        read = landscapes.channel_reader(channels, voxel_size, sigma)
        boundaries = [1 - read(label + suffix) for suffix in AFFINITY_SUFFIXES]
        long_range = self.long_range(label, channels, read, voxel_size)
        return landscapes.Landscape(
            inside,
            inside,
            faces=landscapes.to_faces(boundaries),
            long_range=long_range,
            affinities=landscapes.signed_affinities(
                boundaries, long_range, inside, settings["affinity_threshold"]
            ),
        )

    def continues_across(self, contacts: Contacts, settings: Settings) -> NDArray[Any]:
        """Return the contacts with an affinity above the threshold."""
        return contacts.boundary_probability < 1 - settings["affinity_threshold"]


def search_space(method: Method, voxel_size: Sequence[float]) -> SearchSpace:
    """Return the values that tuning tries for each setting of a method.

    The steps of lengths and volumes are about one voxel, since finer ones change nothing. Settings
    that are cheaper to vary come later.
    """
    volume = math.prod(voxel_size)
    edge = volume ** (1 / 3)
    return {
        # With few objects, the skeletons that an extreme threshold leaves may score well by chance.
        "threshold": _steps(4, 16) if method.instances else _steps(1, 19),
        "smooth_nm": [round(edge * k, 3) for k in (0.0, 0.5, 1, 1.5, 2)],
        **method.own_search_space(),
        "min_size_nm3": [0.0, *(float(f"{volume * 2**k:.4g}") for k in range(2, 19))],
        "fill_holes": [False, True],
    }
