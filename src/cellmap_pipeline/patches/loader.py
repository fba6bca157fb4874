"""Batches of patches, read by threads that share one bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.class_table import implied, read_class_table
from cellmap_pipeline.io.arrays import set_cache_bytes
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.label_codes import BlockCache, LabelCodes
from cellmap_pipeline.patches.official_loader import OfficialSource
from cellmap_pipeline.patches.patch import Patch, Source
from cellmap_pipeline.patches.sampling import EpochSampler, RandomPatches, Tiles
from cellmap_pipeline.patches.targets import stored_channels

# How a loader's memory is shared out; the rest is for patches on their way.
LABELS_SHARE = 0.3
CHUNKS_SHARE = 0.3


class FastSource:
    """A crop whose labels are kept compressed in memory."""

    def __init__(self, crop: CropData, codes: LabelCodes) -> None:
        self.crop = crop
        self.codes = codes

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray, NDArray[np.uint16], NDArray[np.uint8]]:
        """See `patches.Source`."""
        return self.crop.read_raw(start, shape), *self.codes.read(start, shape)


class PatchLoader:
    """Batches of patches in the order of a sampler's numbers, whatever number of threads reads.

    Threads, not processes: they share what is in memory, and reading and unpacking run without
    Python's lock. `waited` are the seconds in which a batch was wanted and not there yet.

    Parameters
    ----------
    read
        Gives the patch of a number.
    sampler
        The numbers of an epoch.
    batch_size
        Patches per batch.
    threads
        That read.
    ahead
        Patches on their way.
    """

    # Lightning looks for it beside `sampler`.
    batch_sampler = None

    def __init__(
        self,
        read: Callable[[int], Patch],
        sampler: EpochSampler | range,
        batch_size: int,
        threads: int,
        ahead: int,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.threads = threads
        self.ahead = max(ahead, batch_size)
        self.pinned = torch.cuda.is_available()
        self.waited = 0.0
        self._read = read
        self._given = self._skipped = 0

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """How far an epoch has come."""
        return {"batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch where that one was."""
        self._skipped = state["batches"]

    def __iter__(self) -> Iterator[list[Patch]]:
        self._given, self._skipped = self._skipped, 0
        numbers = islice(self.sampler, self._given * self.batch_size, None)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="patches")
        try:
            coming = deque(pool.submit(self._get, n) for n in islice(numbers, self.ahead))
            while coming:
                batch: list[Patch] = []
                while coming and len(batch) < self.batch_size:
                    batch.append(self._next(coming, numbers, pool))
                self._given += 1
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _next(
        self, coming: deque[Future[Patch]], numbers: Iterator[int], pool: ThreadPoolExecutor
    ) -> Patch:
        begin = time.perf_counter()
        patch = coming.popleft().result()
        self.waited += time.perf_counter() - begin
        coming.extend(pool.submit(self._get, n) for n in islice(numbers, 1))
        return patch

    def _get(self, number: int) -> Patch:
        patch = self._read(number)
        return patch.pin() if self.pinned else patch


def loaders(
    crops: dict[str, list[CropData]], training: Training, rank: int = 0, world_size: int = 1
) -> tuple[PatchLoader, PatchLoader]:
    """What to train on and to validate with, batches of patches for `patches.finish`.

    Raises
    ------
    InputError
        The class table cannot be read.
    """
    memory = int(training.memory_gb * 1e9 / world_size)
    set_cache_bytes(int(CHUNKS_SHARE * memory))
    cache = BlockCache(int(LABELS_SHARE * memory))
    ahead = _ahead(training, int(0.2 * memory))
    random = RandomPatches(_sources(crops["train"], training, cache), training)
    tiles = Tiles(_sources(crops["validate"], training, cache), training)
    patches = training.iterations_per_epoch * training.batch_size
    numbers = EpochSampler(patches, rank, world_size)
    share = -(-len(tiles) // world_size)
    fixed = range(rank, share * world_size, world_size)
    size, threads = training.batch_size, training.num_workers
    return (
        PatchLoader(random.read, numbers, size, threads, ahead),
        PatchLoader(tiles.read, fixed, size, threads, ahead),
    )


def _sources(crops: Sequence[CropData], training: Training, cache: BlockCache) -> list[Source]:
    channels = stored_channels(training.channels)
    table = read_class_table(Path(training.mutual_exclusion)) if training.mutual_exclusion else {}
    made: list[Source] = []
    for crop in crops:
        follows = implied(crop.annotated, training.classes, table) if table else {}
        if training.loader == "cellmap-data":
            made.append(OfficialSource(crop, channels, follows))
        else:
            made.append(FastSource(crop, LabelCodes(crop, channels, follows, cache)))
    return made


def _ahead(training: Training, memory: int) -> int:
    """Patches on their way at once: enough to keep the threads busy, within `memory` bytes."""
    voxels = np.prod(training.patch_size) * (2 if training.augment.rotate else 1)
    # Raw and codes; raw passes through float32 where it is resampled.
    fit = memory // int(voxels * 7)
    return max(1, min(fit, 2 * training.batch_size + training.num_workers))
