"""Compiled merging of the regions of a graph, in E log² E at most for E edges.

As two regions merge, their edges to a common neighbor are pooled: areas and totals add up. The
edges of the region that has fewer of them move to the other one, so that each moves log₂ E times at
most. Of equal values, the edge or region with the lower number comes first.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.typed import Dict
from numpy.typing import NDArray

from cellmap_pipeline.run.compiled import compiled

# No further edge, and no region.
NONE = -1


class _Graph(NamedTuple):
    """Regions and the edges between them; edge e has the ends 2 e and 2 e + 1.

    Attributes
    ----------
    region
        int64 (2 m,), the region at each end.
    area, total
        float64 (m,), of each edge.
    is_edge
        bool (m,), whether an edge exists; the others were merged or pooled.
    degree
        int64 (n,), number of edges of each region.
    first_end
        int64 (n,), the first end at each region.
    next_end
        int64 (2 m,), the next end at the same region; those of former edges are still linked.
    """

    region: Any
    area: Any
    total: Any
    is_edge: Any
    degree: Any
    first_end: Any
    next_end: Any


@compiled
def _make_graph(first: Any, second: Any, area: Any, total: Any, size: int) -> Any:
    n_edges = first.size
    region = np.empty(2 * n_edges, np.int64)
    region[0::2], region[1::2] = first, second
    degree, first_end = np.zeros(size, np.int64), np.full(size, NONE, np.int64)
    next_end = np.empty(2 * n_edges, np.int64)
    for end in range(2 * n_edges):
        at = region[end]
        next_end[end], first_end[at] = first_end[at], end
        degree[at] += 1
    is_edge = np.ones(n_edges, np.bool_)
    return _Graph(region, area.copy(), total.copy(), is_edge, degree, first_end, next_end)


@compiled
def _edges_by_pair(graph: Any) -> Any:
    """Return the edge of each pair of regions, by its key."""
    edges = Dict.empty(types.int64, types.int64)
    for edge in range(graph.area.size):
        edges[_key(graph, graph.region[2 * edge], graph.region[2 * edge + 1])] = edge
    return edges


@compiled
def _key(graph: Any, one: int, other: int) -> int:
    return min(one, other) * graph.degree.size + max(one, other)


@compiled
def _merge_ends(graph: Any, edges: Any, merged: int, pooled: Any) -> tuple[int, int, int]:
    """Merge the regions at the ends of an edge.

    Returns the region that is kept, the one that is no more, and the number of edges that others
    were pooled with, whose numbers are written to `pooled`.
    """
    kept, gone = graph.region[2 * merged], graph.region[2 * merged + 1]
    if graph.degree[gone] > graph.degree[kept]:
        kept, gone = gone, kept
    n_pooled = 0
    end = graph.first_end[gone]
    while end != NONE:
        following, edge, other = graph.next_end[end], end // 2, graph.region[end ^ 1]
        if graph.is_edge[edge]:
            del edges[_key(graph, gone, other)]
            key = _key(graph, kept, other)
            if other == kept:
                graph.is_edge[edge] = False
                graph.degree[kept] -= 1
            elif key in edges:
                into = edges[key]
                graph.area[into] += graph.area[edge]
                graph.total[into] += graph.total[edge]
                graph.is_edge[edge] = False
                graph.degree[other] -= 1
                pooled[n_pooled] = into
                n_pooled += 1
            else:
                edges[key] = edge
                graph.region[end] = kept
                graph.next_end[end], graph.first_end[kept] = graph.first_end[kept], end
                graph.degree[kept] += 1
        end = following
    graph.first_end[gone] = NONE
    return kept, gone, n_pooled


@compiled
def _value(graph: Any, edge: int, prior: float) -> float:
    return (graph.total[edge] + prior / 2) / (graph.area[edge] + prior)


@compiled
def merge_lowest_first(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    area: NDArray[np.float64],
    total: NDArray[np.float64],
    size: int,
    prior: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Merge the regions at the edge of the lowest value, until no edge is left.

    Parameters
    ----------
    first, second
        Shape (m,), the regions of each edge, first < second; each pair at most once.
    area, total
        Shape (m,). The value of an edge is its total over its area, both after `prior` more of area
        with a value of 1/2 were added.
    size
        Number of regions.
    prior
        Area that is added.

    Returns
    -------
    kept, gone
        Shape (k,), for each merge in order, the region that stands for both, and the other one.
    value
        Shape (k,), of the edge at which they merged.
    """
    graph = _make_graph(first, second, area, total, size)
    edges = _edges_by_pair(graph)
    pooled = np.empty(first.size, np.int64)
    all_kept, all_gone = np.empty(size, np.int64), np.empty(size, np.int64)
    values = np.empty(size, np.float64)
    heap = [(_value(graph, edge, prior), edge) for edge in range(first.size)]
    heapify(heap)
    n_merges = 0
    while heap:
        value, edge = heappop(heap)
        # Edges that were pooled have a later entry.
        if not graph.is_edge[edge] or value != _value(graph, edge, prior):
            continue
        kept, gone, n_pooled = _merge_ends(graph, edges, edge, pooled)
        all_kept[n_merges], all_gone[n_merges], values[n_merges] = kept, gone, value
        n_merges += 1
        for changed in pooled[:n_pooled]:
            heappush(heap, (_value(graph, changed, prior), changed))
    return all_kept[:n_merges], all_gone[:n_merges], values[:n_merges]


@compiled
def merge_smallest_first(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    area: NDArray[np.float64],
    total: NDArray[np.float64],
    sizes: NDArray[np.int64],
    prior: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Merge the smallest region at its edge of the lowest value, until no region has an edge.

    Parameters
    ----------
    first, second, area, total
        As for `merge_lowest_first`.
    sizes
        Shape (n,), that of each region.
    prior
        As for `merge_lowest_first`.

    Returns
    -------
    kept, gone
        As of `merge_lowest_first`.
    size
        Shape (k,), of the smaller region of each merge.
    """
    graph = _make_graph(first, second, area, total, sizes.size)
    edges = _edges_by_pair(graph)
    pooled = np.empty(first.size, np.int64)
    all_kept, all_gone = np.empty(sizes.size, np.int64), np.empty(sizes.size, np.int64)
    heights = np.empty(sizes.size, np.int64)
    size_of = sizes.copy()
    heap = [(size_of[region], region) for region in range(sizes.size)]
    heapify(heap)
    n_merges = 0
    while heap:
        size, region = heappop(heap)
        # Regions that were merged have a later entry, or none.
        if size != size_of[region]:
            continue
        edge = _lowest_edge(graph, region, prior)
        if edge == NONE:
            continue
        kept, gone, _ = _merge_ends(graph, edges, edge, pooled)
        all_kept[n_merges], all_gone[n_merges], heights[n_merges] = kept, gone, size
        n_merges += 1
        size_of[kept] += size_of[gone]
        size_of[gone] = NONE
        heappush(heap, (size_of[kept], kept))
    return all_kept[:n_merges], all_gone[:n_merges], heights[:n_merges]


@compiled
def _lowest_edge(graph: Any, region: int, prior: float) -> int:
    """Return the edge of the lowest value that a region has; `NONE` if it has no edge."""
    lowest, lowest_value = NONE, np.inf
    end = graph.first_end[region]
    while end != NONE:
        edge = end // 2
        if graph.is_edge[edge]:
            value = _value(graph, edge, prior)
            if value < lowest_value or (value == lowest_value and edge < lowest):
                lowest, lowest_value = edge, value
        end = graph.next_end[end]
    return lowest


@compiled
def merge_widest_first(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    width: NDArray[np.float64],
    radius: NDArray[np.float64],
    neck: float,
) -> NDArray[np.int64]:
    """Merge regions unless the edge between them is narrow compared with the thinner one.

    Parameters
    ----------
    first, second, width
        Shape (m,), the regions of each edge and its width, by descending width.
    radius
        Shape (n,), that of each region; two that merge have the larger one.
    neck
        Two regions merge if the width is at least this fraction of the smaller radius.

    Returns
    -------
    Shape (n,): for each region the least one that it merged with.
    """
    parent, radii = np.arange(radius.size), radius.copy()
    for edge in range(first.size):
        one, other = _root(parent, first[edge]), _root(parent, second[edge])
        if one != other and width[edge] >= neck * min(radii[one], radii[other]):
            radii[min(one, other)] = max(radii[one], radii[other])
            parent[max(one, other)] = min(one, other)
    return _least_of_each(parent)


@compiled
def least_of_merged(
    size: int, kept: NDArray[np.int64], gone: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for each of `size` regions the least one that it merged with, given all merges."""
    parent = np.arange(size)
    for merge in range(kept.size):
        parent[gone[merge]] = kept[merge]
    return _least_of_each(parent)


@compiled
def _root(parent: Any, region: int) -> int:
    while parent[region] != region:
        parent[region] = parent[parent[region]]
        region = parent[region]
    return region


@compiled
def _least_of_each(parent: Any) -> Any:
    least, result = np.full(parent.size, NONE, np.int64), np.empty(parent.size, np.int64)
    for region in range(parent.size):
        root = _root(parent, region)
        if least[root] == NONE:
            least[root] = region
        result[region] = least[root]
    return result
