"""Local shape descriptors: the shape of an object around each of its voxels, as targets.

They are those of Sheridan et al. 2023 (doi:10.1038/s41592-022-01711-z): of the object's voxels,
each weighted by a Gaussian around the voxel that is described, the offset of their mean, their
variances, correlations and weighted number. Order and scale of the ten channels are those of
`lsd-lite` (`channels.DESCRIPTOR_SUFFIXES`).

An object has no voxels beyond the patch, as in `lsd-lite`. Voxels outside of objects have no
descriptors, and are unknown, as in the paper's loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from scipy import ndimage
from torch import Tensor

from cellmap_pipeline.channels import DESCRIPTOR_SUFFIXES
from cellmap_pipeline.geometry import Vector
from cellmap_pipeline.patches.targets import FRACTION_ONE, ID_DIGIT_BASE, UNKNOWN

# The Gaussian ends at this multiple of its sigma, as in lsd-lite.
TRUNCATION_SIGMAS = 3.0
# Variances of less than this, in sigma², are rounding errors.
MIN_VARIANCE = 1e-6
# An object that touches unknown voxels may continue there. Where they have more than this share of
# the part of the Gaussian that lies in the patch, its descriptors are unknown.
MAX_UNKNOWN_SHARE = 0.1
PAIRS = ((0, 1), (0, 2), (1, 2))  # of axes
# Ten moments of a slab fit the cache of a CPU, or the memory of any GPU.
MAX_SLAB_VOXELS = {"cpu": 2**17, "cuda": 2**20}


def write_descriptors(ids: Tensor, sigma_nm: float, voxel_size: Vector, out: Tensor) -> None:
    """Write the descriptors of all objects of a patch.

    Parameters
    ----------
    ids
        (z, y, x) int32, as of `targets.object_ids`: 0 outside of objects, -1 where unknown.
    sigma_nm
        Sigma of the Gaussian, nm.
    voxel_size
        Voxel size along z, y, x in nm.
    out
        (10, z, y, x) uint8, receives the descriptors, in the order of
        `channels.DESCRIPTOR_SUFFIXES`: 0..254 for 0..1, 255 where unknown.
    """
    assert len(out) == len(DESCRIPTOR_SUFFIXES)
    out.fill_(UNKNOWN)
    kernels = [
        moment_kernels(sigma_nm / v, n, ids.device)
        for v, n in zip(voxel_size, ids.shape, strict=True)
    ]
    for label, box in enumerate(ndimage.find_objects(ids.cpu().numpy()), 1):
        if box is not None:
            _write_object(ids[box] == label, kernels, out[(slice(None), *box)])
    if (ids < 0).any():
        _forget_cut_objects(ids, kernels, out)


@lru_cache(maxsize=32)
def moment_kernels(sigma_voxels: float, n: int, device: torch.device) -> Tensor:
    """Return the matrices (3, n, n) that compute moments of orders 0, 1 and 2 along an axis.

    Row i weights voxels j by a truncated Gaussian around i, times the power of their offset in
    units of sigma. For fewer voxels, the first rows and columns suffice.
    """
    radius = int(TRUNCATION_SIGMAS * sigma_voxels + 0.5)
    total = (-0.5 * (torch.arange(-radius, radius + 1.0).double() / sigma_voxels) ** 2).exp().sum()
    positions = torch.arange(float(n)).double()
    steps = positions - positions[:, None]
    offsets = steps / sigma_voxels
    weights = (-0.5 * offsets**2).exp() / total * (steps.abs() <= radius)
    return torch.stack([weights, weights * offsets, weights * offsets**2]).float().to(device)


def _write_object(inside: Tensor, kernels: list[Tensor], out: Tensor) -> None:
    """Write the descriptors of one object into `out` (10, z, y, x), where it is `inside`."""
    mask = inside.float()
    planes = max(1, MAX_SLAB_VOXELS[mask.device.type] // mask[0].numel())
    for start in range(0, len(mask), planes):
        slab = slice(start, start + planes)
        # All bits of UNKNOWN are set: an or masks, and an and keeps what other objects wrote.
        outside = (~inside[slab]).to(torch.uint8).mul_(UNKNOWN)
        for values, target in zip(_descriptors(mask, kernels, slab), out[:, slab], strict=True):
            scaled = values.clamp_(0, 1).mul_(FRACTION_ONE).add_(0.5).to(torch.uint8)
            target &= scaled.bitwise_or_(outside)


def _descriptors(mask: Tensor, kernels: list[Tensor], slab: slice) -> Iterator[Tensor]:
    """Yield the descriptors (s, y, x) in a slab of planes; meaningless outside of `mask`."""
    size, z, y, x, zz, zy, zx, yy, yx, xx = _moments(mask, kernels, slab)
    one_over_size = size.clamp(min=torch.finfo(torch.float32).tiny).reciprocal_()
    offsets = [moment.mul_(one_over_size) for moment in (z, y, x)]
    variances = [
        moment.mul_(one_over_size).addcmul_(a, a, value=-1).clamp_(min=MIN_VARIANCE)
        for moment, a in zip((zz, yy, xx), offsets, strict=True)
    ]
    covariances = [
        moment.mul_(one_over_size).addcmul_(offsets[a], offsets[b], value=-1)
        for moment, (a, b) in zip((zy, zx, yx), PAIRS, strict=True)
    ]
    one_over_sigma = [variance.rsqrt() for variance in variances]
    # Offsets of up to one sigma, and correlations from -1 to 1.
    for offset in offsets:
        yield offset.mul_(0.5).add_(0.5)
    yield from variances
    for covariance, (a, b) in zip(covariances, PAIRS, strict=True):
        yield covariance.mul_(one_over_sigma[a]).mul_(one_over_sigma[b]).mul_(0.5).add_(0.5)
    yield size


def _moments(mask: Tensor, kernels: list[Tensor], slab: slice) -> list[Tensor]:
    """Compute the moments of up to order 2, each (s, y, x), in the order of their axes.

    A Gaussian is the product of those along each axis, so that matrix products along one axis after
    the other compute all moments at once: 1, z, y, x, zz, zy, zx, yy, yx, xx.
    """
    along_z, along_y, along_x = (k[:, :n, :n] for k, n in zip(kernels, mask.shape, strict=True))
    by_z = torch.matmul(along_z[:, slab], mask.flatten(1)).unflatten(-1, mask.shape[1:])
    by_zy = {(i, j): torch.matmul(along_y[j], by_z[i]) for i in range(3) for j in range(3 - i)}
    moments = {
        (i, j, k): torch.matmul(values, along_x[k].t())
        for (i, j), values in by_zy.items()
        for k in range(3 - i - j)
    }
    first = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    second = [(2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2)]
    return [moments[orders] for orders in first + second]


def _forget_cut_objects(ids: Tensor, kernels: list[Tensor], out: Tensor) -> None:
    """Make descriptors unknown, in `out`, where unknown voxels hide much of an object.

    See `MAX_UNKNOWN_SHARE`.
    """
    is_touching = torch.zeros(ID_DIGIT_BASE**2, dtype=torch.bool, device=ids.device)
    for axis, n in enumerate(ids.shape):
        before, after = (ids.narrow(axis, start, n - 1) for start in (0, 1))
        for one, other in ((before, after), (after, before)):
            is_touching[one[(one > 0) & (other < 0)]] = True
    if not is_touching.any():
        return
    along_z, along_y, along_x = (kernel[0] for kernel in kernels)
    unknown = torch.tensordot(along_z, along_y @ ((ids < 0).float() @ along_x.t()), 1)
    in_patch = torch.einsum("z,y,x->zyx", along_z.sum(1), along_y.sum(1), along_x.sum(1))
    is_hidden = unknown > MAX_UNKNOWN_SHARE * in_patch
    is_hidden &= ids > 0
    is_hidden[is_hidden.clone()] = is_touching[ids[is_hidden]]
    out.masked_fill_(is_hidden, UNKNOWN)
