"""Batches of patches, read by threads that share one memory limit."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.class_table import ClassTable, implied, read_class_table
from cellmap_pipeline.io.arrays import set_cache_bytes
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.label_codes import BlockCache, LabelCodes
from cellmap_pipeline.patches.patch import CropReader, Patch
from cellmap_pipeline.patches.sampling import EpochSampler, RandomPatches
from cellmap_pipeline.patches.targets import stored_channels
from cellmap_pipeline.patches.tiles import ValidationTiles

log = logging.getLogger(__name__)

# Shares of a loader's memory.
LABEL_MEMORY_SHARE = 0.3
CHUNK_MEMORY_SHARE = 0.3
PATCH_MEMORY_SHARE = 0.2


class FastCropReader:
    """Reader of a crop's patches that keeps its labels compressed in memory."""

    def __init__(self, crop: CropData, codes: LabelCodes) -> None:
        self.crop = crop
        self.codes = codes

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray, NDArray[np.unsignedinteger], NDArray[np.uint8]]:
        """Read a box as described in `patch.CropReader`."""
        return self.crop.read_raw(start, shape), *self.codes.read(start, shape)


class PatchLoader:
    """Loader of batches of patches, in the order of a sampler's indices.

    The order does not depend on the number of threads. Patches are read by threads, not
    processes: threads share the caches, and reading and decompressing release Python's lock.

    Parameters
    ----------
    read
        Function that reads the patch of an index.
    sampler
        Patch indices of an epoch.
    batch_size
        Patches per batch.
    threads
        Number of reading threads.
    prefetch
        Maximum number of patches that are being read or wait to be used.

    Attributes
    ----------
    waited_s
        Seconds in which a batch was requested but not yet available.
    """

    # Lightning expects this attribute of a loader that has a `sampler`.
    batch_sampler = None

    def __init__(
        self,
        read: Callable[[int], Patch],
        sampler: EpochSampler | range,
        batch_size: int,
        threads: int,
        prefetch: int,
    ) -> None:
        self.read = read
        self.sampler = sampler
        self.batch_size = batch_size
        self.threads = threads
        self.prefetch = max(prefetch, batch_size)
        self.pinned = torch.cuda.is_available()
        self.waited_s = 0.0
        self._batches_given = self._batches_to_skip = 0

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches given in the current epoch."""
        return {"batches": self._batches_given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch after the batches that were given before."""
        self._batches_to_skip = state["batches"]

    def __iter__(self) -> Iterator[list[Patch]]:
        self._batches_given, self._batches_to_skip = self._batches_to_skip, 0
        indices = islice(self.sampler, self._batches_given * self.batch_size, None)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="patches")
        try:
            pending = deque(pool.submit(self._load, i) for i in islice(indices, self.prefetch))
            while pending:
                batch: list[Patch] = []
                while pending and len(batch) < self.batch_size:
                    batch.append(self._next_patch(pending, indices, pool))
                self._batches_given += 1
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _next_patch(
        self, pending: deque[Future[Patch]], indices: Iterator[int], pool: ThreadPoolExecutor
    ) -> Patch:
        begin = time.perf_counter()
        patch = pending.popleft().result()
        self.waited_s += time.perf_counter() - begin
        pending.extend(pool.submit(self._load, i) for i in islice(indices, 1))
        return patch

    def _load(self, index: int) -> Patch:
        patch = self.read(index)
        return patch.pin() if self.pinned else patch


def make_loaders(
    crops: Mapping[str, Sequence[CropData]], training: Training, rank: int = 0, world_size: int = 1
) -> tuple[PatchLoader, PatchLoader | None]:
    """Make the loaders of training and validation patches; `BatchBuilder` finishes their batches.

    Parameters
    ----------
    crops
        Crops under `train`, `validate`, and `taught` if pseudo-labels teach the training.
    training
        Settings of the training.
    rank, world_size
        Number of this process, and of all that train together.

    Returns
    -------
    The loader of random training patches, and that of validation tiles; None instead of the latter
    for a training without validation.

    Raises
    ------
    InputError
        The class table cannot be read.
    """
    memory_bytes = int(training.memory_gb * 1e9 / world_size)
    set_cache_bytes(int(CHUNK_MEMORY_SHARE * memory_bytes))
    cache = BlockCache(int(LABEL_MEMORY_SHARE * memory_bytes))
    prefetch = _prefetch(training, int(PATCH_MEMORY_SHARE * memory_bytes))
    readers = _make_readers(crops["train"], training, cache)
    random = RandomPatches(
        readers, training, _make_readers(crops.get("taught", []), training, cache)
    )
    patches = training.iterations_per_epoch * training.batch_size
    sampler = EpochSampler(patches, rank, world_size)
    size, threads = training.batch_size, training.num_workers
    batches = PatchLoader(random.read, sampler, size, threads, prefetch)
    if training.validation == "none":
        return batches, None
    tiles = ValidationTiles(_make_readers(crops["validate"], training, cache), training)
    if tiles.missed_classes and rank == 0:
        log.warning(
            "none of the %d validation patches is known to hold a voxel of %s, so `val_dice` may "
            "leave them out: raise `validation_iterations`",
            len(tiles), ", ".join(tiles.missed_classes),
        )  # fmt: skip
    tiles_per_rank = -(-len(tiles) // world_size)
    tile_indices = range(rank, tiles_per_rank * world_size, world_size)
    return batches, PatchLoader(tiles.read, tile_indices, size, threads, prefetch)


def _make_readers(
    crops: Sequence[CropData], training: Training, cache: BlockCache
) -> list[CropReader]:
    channels = stored_channels(training.channels)
    table = _class_table(training)
    if training.loader == "cellmap-data":
        # Imported here, so that other trainings do without cellmap-data and its dependencies.
        from cellmap_pipeline.patches.official_loader import OfficialCropReader
    readers: list[CropReader] = []
    for crop in crops:
        relations = implied(crop.annotated, training.classes, table) if table else {}
        if training.loader == "cellmap-data":
            readers.append(OfficialCropReader(crop, channels, relations, training.atoms))
        else:
            codes = LabelCodes(crop, channels, relations, cache, training.atoms)
            readers.append(FastCropReader(crop, codes))
    return readers


def _class_table(training: Training) -> ClassTable:
    """Return the leaves of the classes that `mutual_exclusion` relates; none without it."""
    given = training.mutual_exclusion
    if isinstance(given, str):
        return read_class_table(Path(given))
    return {label: frozenset(ids) for label, ids in (given or {}).items()}


def _prefetch(training: Training, memory_bytes: int) -> int:
    """Number of patches to prefetch: enough to keep the threads busy, within the memory."""
    augment = training.augment
    growth = 2.0 if augment.rotate.on else 1.0
    if augment.scaling.on:
        largest = max(1, augment.scaling.range[1] ** 3)
        growth *= 1 + augment.scaling.probability * (largest - 1)
    voxels = np.prod(training.patch_size) * growth
    # Bytes per voxel of raw and codes; raw is float32 while it is resampled.
    max_patches = memory_bytes // int(voxels * 7)
    return max(1, min(max_patches, 2 * training.batch_size + training.num_workers))
