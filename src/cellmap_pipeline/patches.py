"""Training patches: where they lie, how they are read, and what becomes of them on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from cellmap_pipeline.augment import Change, change_patch, draw_change, shape_to_read
from cellmap_pipeline.channels import AFFINITY_SUFFIXES, class_of
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crops import CropData
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.targets import ID_SUFFIXES, UNKNOWN, affinities, stored_channels

# Share of patches that are centred on a voxel of a class, so that rare classes come up; the
# others lie anywhere in a crop.
ON_A_CLASS = 0.7
# A processor looks eight codes up as fast by comparing each voxel with each of them.
COMPARED = 8


class Source(Protocol):
    """A crop that patches are read from: the fast loader's, or the official one's."""

    crop: CropData

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray, NDArray[np.unsignedinteger], NDArray[np.uint8]]:
        """Raw, codes and their table of a box of the crop's grid, which may reach beyond it.

        Returns
        -------
        raw : (z, y, x) uint8, or float32 0..1.
        codes : (z, y, x) uint8 or uint16; 0 where nothing is known.
        table : (codes, channels) uint8, the targets of each code: 0, 1, or 255 for unknown.
        """


@dataclass
class Patch:
    """A patch as it travels: small, to be finished on the device (`Finisher`).

    Parameters
    ----------
    raw : (z, y, x) uint8, or float32 0..1.
    codes : (z, y, x) uint8, or int16 to be read as unsigned.
    table : (codes, stored channels) uint8, what the codes stand for.
    change : what is done to it.
    """

    raw: Tensor
    codes: Tensor
    table: Tensor
    change: Change

    def pin(self) -> Patch:
        """The same in memory that a GPU copies from by itself."""
        return Patch(self.raw.pin_memory(), self.codes.pin_memory(), self.table, self.change)


class RandomPatches:
    """Patches by number: the same number gives the same patch, in any thread.

    Numbers go on from epoch to epoch (`EpochSampler`), so that every epoch sees other patches.
    """

    def __init__(self, sources: Sequence[Source], training: Training) -> None:
        self.sources = list(sources)
        self.training = training

    def read(self, number: int) -> Patch:
        """Patch `number`."""
        training = self.training
        rng = np.random.default_rng([training.seed, number])
        change = draw_change(training.augment, rng, training.patch_size, training.voxel_size)
        shape = shape_to_read(change, training.patch_size, training.voxel_size)
        source, start = self._place(rng, shape)
        return _patch(source, start, shape, change)

    @cached_property
    def _holders(self) -> list[tuple[str, list[Source]]]:
        """Classes that some crop holds, with those crops."""
        holders = [
            (label, [source for source in self.sources if label in source.crop.present])
            for label in self.training.classes
        ]
        return [(label, sources) for label, sources in holders if sources]

    @cached_property
    def _share_of_voxels(self) -> NDArray[np.float64]:
        sizes = np.array([source.crop.grid.size for source in self.sources], float)
        return sizes / sizes.sum()

    def _place(self, rng: np.random.Generator, shape: Shape) -> tuple[Source, Shape]:
        """A crop, and where in it the patch of `shape` that is read begins."""
        source = self.sources[rng.choice(len(self.sources), p=self._share_of_voxels)]
        centre = rng.random(3) * source.crop.grid.shape
        if self._holders and rng.random() < ON_A_CLASS:
            label, sources = self._holders[rng.integers(len(self._holders))]
            holder = sources[rng.integers(len(sources))]
            voxels = holder.crop.positions(label)
            # An object so small that the search missed it: anywhere in the crop will do.
            source, centre = holder, rng.random(3) * holder.crop.grid.shape
            if len(voxels):
                centre = voxels[rng.integers(len(voxels))] + 0.5
        inner = np.array(self.training.patch_size)
        start = np.round(centre - inner / 2 + (rng.random(3) - 0.5) * inner / 2)
        # The patch lies in the crop, or the crop in the patch.
        slack = np.array(source.crop.grid.shape) - inner
        start = start.clip(np.minimum(slack, 0), np.maximum(slack, 0))
        z, y, x = (start - (np.array(shape) - inner) // 2).astype(int).tolist()
        return source, (z, y, x)


class Tiles:
    """Validation patches: fixed tiles over the validation crops, never changed.

    Processes that train together need equally many: numbers beyond the last tile give one of
    which nothing is known.
    """

    def __init__(self, sources: Sequence[Source], training: Training) -> None:
        self.shape = training.patch_size
        tiles = [
            (source, start)
            for source in sources
            for start in _tile_starts(source.crop.grid.shape, self.shape)
        ]
        wanted = training.validation_iterations * training.batch_size
        if len(tiles) > wanted:
            tiles = [tiles[i] for i in np.linspace(0, len(tiles) - 1, wanted).astype(int)]
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, number: int) -> Patch:
        """Tile `number`."""
        source, start = self.tiles[min(number, len(self.tiles) - 1)]
        patch = _patch(source, start, self.shape, Change())
        return patch if number < len(self.tiles) else replace(patch, table=unknown(patch.table))


class EpochSampler(Sampler[int]):
    """Patch numbers of one epoch, split over the processes that train together.

    Lightning calls `set_epoch`.
    """

    def __init__(self, patches: int, rank: int = 0, world_size: int = 1) -> None:
        self.patches = patches
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.patches * self.world_size + self.rank
        return iter(range(first, first + self.patches * self.world_size, self.world_size))


class Finisher:
    """Makes batches of patches, on the device that they are trained on.

    On the CPU their memory is used again: a batch is good until the next one is made.
    """

    def __init__(
        self,
        device: torch.device,
        patch_size: Shape,
        voxel_size: Vector,
        channels: Sequence[str],
    ) -> None:
        self.device = device
        self.patch_size = patch_size
        self.voxel_size = voxel_size
        self.channels = list(channels)
        self.stored = stored_channels(channels)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, patches: Sequence[Patch]) -> tuple[Tensor, Tensor]:
        """Change the patches and decode their targets.

        Returns
        -------
        raw : (n, 1, z, y, x) float32, 0..1.
        targets : (n, c, z, y, x) uint8 as `targets.make_targets` gives them, 255 where unknown.
        """
        raws, targets = self._batch(len(patches))
        for patch, raw, target in zip(patches, raws, targets, strict=True):
            codes = change_patch(
                patch.raw.to(self.device, non_blocking=True),
                patch.codes.to(self.device, non_blocking=True),
                patch.change, self.patch_size, self.voxel_size, out=raw[0],
            )  # fmt: skip
            if self.stored == self.channels:
                decode(codes, patch.table, target)
            else:
                self._decode_with_affinities(codes, patch.table, target)
        return raws, targets

    def _decode_with_affinities(self, codes: Tensor, table: Tensor, target: Tensor) -> None:
        shape = (len(self.stored), *self.patch_size)
        stored = torch.empty(shape, dtype=torch.uint8, device=self.device)
        decode(codes, table, stored)
        place = {name: i for i, name in enumerate(self.stored)}
        for i, channel in enumerate(self.channels):
            if channel in place:
                target[i] = stored[place[channel]]
            elif channel.endswith(AFFINITY_SUFFIXES[0]):
                low, high = (stored[place[class_of(channel) + end]] for end in ID_SUFFIXES)
                affinities(low, high, target[i : i + len(AFFINITY_SUFFIXES)])

    def _batch(self, size: int) -> tuple[Tensor, Tensor]:
        made = self._kept.get(size)
        if made is None:
            raws = torch.empty((size, 1, *self.patch_size), device=self.device)
            shape = (size, len(self.channels), *self.patch_size)
            made = raws, torch.empty(shape, dtype=torch.uint8, device=self.device)
            if self.device.type == "cpu":
                self._kept[size] = made
        return made


def decode(codes: Tensor, table: Tensor, target: Tensor) -> None:
    """Write the targets of all channels, (c, z, y, x) uint8.

    Parameters
    ----------
    codes : (z, y, x) uint8, or int16 to be read as unsigned.
    table : (codes, channels) uint8.
    target : where to.
    """
    if codes.device.type != "cpu":
        gather(codes, table, target)
        return
    whole = codes.numpy().view(np.uint16 if codes.dtype == torch.int16 else np.uint8)
    for values, row in zip(table.numpy().T, target.numpy(), strict=True):
        _look_up(whole, values, row)


def gather(codes: Tensor, table: Tensor, target: Tensor) -> None:
    """As `decode`, as a GPU does it fastest."""
    flat = codes.reshape(-1).int()
    if codes.dtype == torch.int16:
        flat.bitwise_and_(0xFFFF)
    columns = table.t().contiguous().to(codes.device)
    torch.index_select(columns, 1, flat, out=target.view(len(target), -1))


def _look_up(codes: NDArray, values: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Write `values` of codes, by comparing where that is faster than looking each voxel up."""
    usual = int(np.bincount(values).argmax())
    # Python's numbers, since NumPy's own would widen the codes to compare them.
    others = np.flatnonzero(values != usual).tolist()
    if not others:
        target.fill(usual)
    elif len(others) > COMPARED:
        np.take(values, codes, out=target, mode="clip")
    else:
        _differ(codes, others[0], int(values[others[0]]) ^ usual, target)
        for code in others[1:]:
            target ^= _differ(codes, code, int(values[code]) ^ usual, np.empty_like(target))
        if usual:
            target ^= usual


def _differ(codes: NDArray, code: int, by: int, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Write `by` where there is that code, 0 elsewhere."""
    np.equal(codes, code, out=out.view(bool))
    if by != 1:
        out *= by
    return out


def _patch(source: Source, start: Shape, shape: Shape, change: Change) -> Patch:
    raw, codes, table = source.read(start, shape)
    return Patch(
        torch.from_numpy(raw),
        torch.from_numpy(codes if codes.dtype == np.uint8 else codes.view(np.int16)),
        torch.from_numpy(table),
        change,
    )


def unknown(table: Tensor) -> Tensor:
    """A table of codes of which none says anything."""
    return torch.full_like(table, UNKNOWN)


def _tile_starts(shape: Shape, patch: Shape) -> list[Shape]:
    """Starts of patches that cover a crop, the last ones drawn back to its end."""
    axes = []
    for n, p in zip(shape, patch, strict=True):
        count = max(1, -(-n // p))
        last = n - p
        axes.append([round(i * last / max(1, count - 1)) if count > 1 else last // 2 for i in
                     range(count)])  # fmt: skip
    return [(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]
