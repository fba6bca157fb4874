"""The bias of a network's output layers, so that it starts by predicting the classes' shares.

Otherwise the first steps only learn that most voxels belong to no rare class (Lin et al. 2017,
arXiv 1708.02002, section 4.1).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.geometry import shape_of
from cellmap_pipeline.models.build import find_architecture, total_stride
from cellmap_pipeline.patches.loader import PatchLoader
from cellmap_pipeline.patches.shares import mean_targets
from cellmap_pipeline.training.initial_weights import changed_axes
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)

MAX_COUNTED_PATCHES = 128
# A share that is nearly 0 or 1 in the counted patches need not be so in all of them.
MIN_SHARE = 1e-4
FITTING_CYCLES = 300
# The biases of a network's output layers are those that shift its outputs by this.
PROBE_SHIFT = 1.0


def start_at_shares(task: SegmentationTask, batches: PatchLoader) -> None:
    """Set the bias of the output layers to the log-odds of each channel's share.

    Parameters
    ----------
    task
        The task with a new network; changed in place.
    batches
        Loader of training patches, the first of which are counted.
    """
    settings = task.training_settings
    # Not more than an epoch: a training of more epochs, or on more devices, starts alike.
    in_epoch = settings.iterations_per_epoch * settings.batch_size * settings.processes
    n_patches = min(MAX_COUNTED_PATCHES, in_epoch)
    first = PatchLoader(batches.read, range(n_patches), 1, batches.threads, batches.prefetch)
    first.pinned = False  # They do not go to a GPU.
    bar = tqdm(first, "shares of the classes", unit="patch", disable=None)
    patches = (patch for batch in bar for patch in batch)
    shares = mean_targets(
        patches, task.channels, settings.patch_size, settings.voxel_size,
        settings.descriptor_sigmas_nm,
    )  # fmt: skip
    bias = torch.from_numpy(output_bias(shares, task)).float()
    biases = find_output_biases(task)
    if not biases:
        log.warning(
            "prior_bias: the output layer of %s has no bias, so it starts with random shares",
            settings.model["architecture"],
        )
    known = bias.isfinite()
    for parameter in biases:
        values = bias.repeat_interleave(len(parameter) // len(bias))
        where = known.repeat_interleave(len(parameter) // len(bias))
        parameter.data[where] = values[where]
    log.info(
        "shares of the channels in %d patches: %s", n_patches,
        ", ".join(f"{name} {share:.2g}" for name, share in zip(task.channels, shares, strict=True)),
    )  # fmt: skip


def output_bias(shares: NDArray[np.float64], task: SegmentationTask) -> NDArray[np.float64]:
    """Compute the outputs of a network that predicts the shares everywhere.

    Parameters
    ----------
    shares
        (c,) mean target of each channel; NaN where it is not known.
    task
        The task, whose atoms and channels are used.

    Returns
    -------
    (o,) value of each output; NaN for a channel without a share.
    """
    shares = shares.clip(MIN_SHARE, 1 - MIN_SHARE)
    log_odds = np.log(shares) - np.log1p(-shares)
    logits = task.class_logits
    if not logits.n_atoms:
        return log_odds
    atoms = fit_atoms(shares[logits.related], logits.membership.numpy())
    return np.concatenate([np.log(atoms), log_odds[logits.independent]])


def fit_atoms(shares: NDArray[np.float64], membership: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Find the shares of atoms from those of classes, as even as these allow.

    Iterative proportional fitting (Deming and Stephan 1940, doi 10.1214/aoms/1177731829) starts
    from equal shares, so what a class has beyond its known parts is divided evenly among the rest
    of its atoms. Shares of classes that were counted in different crops may contradict each
    other; then the result is a compromise.

    Parameters
    ----------
    shares
        (c,) above 0 and below 1; NaN where it is not known.
    membership
        (c, a), whether each class contains each atom.

    Returns
    -------
    (a,) of at least about `MIN_SHARE`, with the sum 1.
    """
    atoms = np.full(membership.shape[1], 1 / membership.shape[1])
    known = np.flatnonzero(np.isfinite(shares))
    total = np.zeros_like(atoms)
    for cycle in range(FITTING_CYCLES):
        for i in known:
            inside = membership[i]
            atoms[inside] *= shares[i] / atoms[inside].sum()
            atoms[~inside] *= (1 - shares[i]) / atoms[~inside].sum()
            if cycle == FITTING_CYCLES - 1:
                total += atoms
    fitted = (total / total.sum() if len(known) else atoms).clip(MIN_SHARE)
    return fitted / fitted.sum()


def find_output_biases(task: SegmentationTask) -> list[nn.Parameter]:
    """Find the parameters that are added to the outputs of the network, at each of its scales.

    Other parameters of the same size occur in networks whose last layers have as many channels as
    they return, so each is tried. Of several that shift the same scale, the first is found.
    """
    settings = task.training_settings
    # Training passes change the statistics of batch normalization.
    network = copy.deepcopy(task.network)
    parameters = dict(network.named_parameters())
    candidates = [
        name
        for name, axis in changed_axes(task, 1, len(settings.outputs) + 1).items()
        if name in parameters and parameters[name].ndim == 1 and axis == 0
    ]
    before = _probe(network, settings)
    found: dict[int, str] = {}
    for name in candidates:
        parameters[name].data += PROBE_SHIFT
        after = _probe(network, settings)
        parameters[name].data -= PROBE_SHIFT
        for scale, (a, b) in enumerate(zip(before, after, strict=True)):
            if torch.allclose(b - a, torch.tensor(PROBE_SHIFT), atol=1e-3):
                found.setdefault(scale, name)
    return [task.network.get_parameter(name) for name in dict.fromkeys(found.values())]


@torch.no_grad()
def _probe(network: nn.Module, settings: Training) -> Sequence[Tensor]:
    """Compute the outputs of a small patch, at each scale, the same at each call."""
    architecture = find_architecture(settings.model["architecture"])
    stride = total_stride(settings.model, settings.patch_size, settings.voxel_size)
    is_free = max(stride) > 1 and not architecture.fixed_size
    shape = shape_of(2 * step for step in stride) if is_free else settings.patch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = network(torch.randn(1, 1, *shape))
    return [outputs] if isinstance(outputs, Tensor) else outputs
