"""Joining the fragments that one basin has in several blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.segmentation.agglomeration import Contacts, group_ids
from cellmap_pipeline.segmentation.method_settings import find_method
from cellmap_pipeline.segmentation.methods import Settings


def join_across_blocks(
    contacts: Contacts,
    evidence: Contacts,
    n_global: int,
    seedless: NDArray[np.bool_],
    settings: Settings,
) -> NDArray[np.int64]:
    """Return a lookup that joins the fragments of one basin across blocks.

    A fragment with a local seed joins the fragment of a next block with which it shares most faces,
    unless there is a ridge between them. In the whole volume, fragments that then remain alone are
    flooded over a ridge, as are fragments without any seed; so both are joined with a neighbor.

    Parameters
    ----------
    contacts
        Contacts between fragments of different blocks.
    evidence
        The same contacts, with what voxels at a distance tell of them.
    n_global
        Ids up to this one have a global seed.
    seedless
        Whether a fragment has no seed at all, by id.
    settings
        Complete post-processing settings.
    """
    method = find_method(settings)
    continues = method.continues_across(evidence, settings)
    continues &= ~(seedless[contacts.first] | seedless[contacts.second])
    size = seedless.size
    ends = np.concatenate([contacts.first[continues], contacts.second[continues]])
    partner = np.concatenate([contacts.second[continues], contacts.first[continues]])
    area = np.tile(contacts.area[continues], 2)
    order = np.lexsort((-partner, area, ends))
    best = np.full(size, -1, np.int64)
    # Of repeated ends the last assignment, with the largest area, stays.
    best[ends[order]] = partner[order]
    is_local = np.arange(size) > n_global
    if method.seeded:
        seedless = seedless | (is_local & (best < 0))
    joining = np.flatnonzero(is_local & (best >= 0))
    first, second = _join_seedless(contacts, seedless)
    one, other = np.concatenate([joining, first]), np.concatenate([best[joining], second])
    return group_ids(size, one, other)


def _join_seedless(
    contacts: Contacts, seedless: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs that join fragments without a seed, by the largest contacts first.

    The pairs never connect two fragments with seeds. In the whole volume, connected voxels that no
    seed floods are one fragment, and others are flooded over a ridge from a neighbor.
    """
    root, seeded = np.arange(seedless.size), ~seedless

    def root_of(one: int) -> int:
        while root[one] != one:
            root[one] = one = root[root[one]]
        return one

    pairs = []
    touching = np.flatnonzero(seedless[contacts.first] | seedless[contacts.second])
    order = np.lexsort(
        (contacts.second[touching], contacts.first[touching], -contacts.area[touching])
    )
    for contact in touching[order]:
        first, second = root_of(contacts.first[contact]), root_of(contacts.second[contact])
        if first != second and not (seeded[first] and seeded[second]):
            root[second] = first
            seeded[first] |= seeded[second]
            pairs.append((first, second))
    first_of, second_of = np.array(pairs, np.int64).reshape(-1, 2).T
    return first_of, second_of
