"""Logits of classes that include and exclude each other, from logits of disjoint atoms.

The network returns a logit per atom and one for none of them. Their softmax is the probability of
each atom, and a class has the sum of the probabilities of its atoms. So a class is never less
probable than its parts, and disjoint classes share a total probability of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cellmap_pipeline.channels import independent_channels

# With e to this ratio of probabilities, float32 holds sums and their inverses.
MAX_LOG_RATIO = 60.0


class ClassLogits(nn.Module):
    """Converts the outputs of a network to the logits of its channels.

    Parameters
    ----------
    channels
        Names of the channels.
    atoms
        Each atom as the list of the classes that contain it. Without any, outputs are channels.
    """

    membership: Tensor

    def __init__(self, channels: Sequence[str], atoms: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.n_atoms = len(atoms) + 1 if atoms else 0
        names = independent_channels(channels, atoms)
        self.independent = [i for i, name in enumerate(channels) if name in names]
        self.related = [i for i, name in enumerate(channels) if name not in names]
        # By related channel, whether it contains each atom; nothing contains the last one, `none`.
        membership = torch.zeros(len(self.related), self.n_atoms, dtype=torch.bool)
        for row, i in zip(membership, self.related, strict=True):
            for column, atom in enumerate(atoms):
                row[column] = channels[i] in atom
        # Not in the state dict: the settings in a checkpoint determine it.
        self.register_buffer("membership", membership, persistent=False)

    def forward(self, outputs: Any) -> Any:
        """Convert the outputs (n, o, z, y, x) to logits (n, c, z, y, x), also of each scale.

        The logits are float32 wherever atoms are summed.
        """
        if not self.n_atoms:
            return outputs
        if not isinstance(outputs, Tensor):
            return [self(scale) for scale in outputs]
        atoms, independent = self.split(outputs)
        # Exported graphs cannot hold the function, which is there for its gradient alone.
        marginal = _MarginalLogits.apply if atoms.requires_grad else _marginal_logits
        related: Tensor = marginal(atoms, self.membership)
        by_channel = dict(zip(self.related, related.split(1, dim=1), strict=True))
        if self.independent:
            by_channel |= zip(self.independent, independent.float().split(1, dim=1), strict=True)
        return torch.cat([by_channel[i] for i in range(len(by_channel))], dim=1)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Split outputs into the float32 logits of atoms (n, a, z, y, x) and the other channels."""
        return outputs[:, : self.n_atoms].float(), outputs[:, self.n_atoms :]

    def allowed_atoms(self, target: Tensor) -> Tensor:
        """Find the atoms that are compatible with all known classes of each voxel.

        Parameters
        ----------
        target
            Float (n, c, z, y, x), 0 or 1, NaN where unknown.

        Returns
        -------
        Bool (n, a, z, y, x); all of them where the known classes contradict each other.
        """
        related = target[:, self.related].flatten(2)
        contains = self.membership.float()
        conflicts = torch.einsum("ncv,ca->nav", (related == 1).float(), 1 - contains)
        conflicts += torch.einsum("ncv,ca->nav", (related == 0).float(), contains)
        allowed = conflicts < 0.5
        allowed |= ~allowed.any(1, keepdim=True)
        return allowed.unflatten(2, target.shape[2:])


class _MarginalLogits(torch.autograd.Function):
    """Log-odds of classes: log of the sum of their atoms, minus that of all other atoms.

    Both sums are over the atoms concerned only, so neither is rounded off beside the other. They
    are matrix products, which read each atom once for all classes. Atoms that are less likely than
    the likeliest by more than e to the `MAX_LOG_RATIO` count as if by that much, so log-odds are
    within about plus and minus that, and their gradient still raises or lowers such atoms.
    """

    @staticmethod
    def forward(ctx: Any, atoms: Tensor, membership: Tensor) -> Tensor:
        inside = membership.float()
        values = _relative_likelihoods(atoms)
        sums = _sums(values, inside)
        ctx.save_for_backward(values, inside, *sums)
        return _log_odds(sums, atoms)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        values, inside, *sums = ctx.saved_tensors
        gradient = gradients[0].flatten(2).float()
        with torch.autocast(gradient.device.type, enabled=False):
            result = torch.matmul(inside.t(), gradient / sums[0])
            result -= torch.matmul((1 - inside).t(), gradient / sums[1])
        return result.mul_(values).unflatten(2, gradients[0].shape[2:]), None


def _marginal_logits(atoms: Tensor, membership: Tensor) -> Tensor:
    """Compute what `_MarginalLogits` does, without its gradient."""
    return _log_odds(_sums(_relative_likelihoods(atoms), membership.float()), atoms)


def _relative_likelihoods(atoms: Tensor) -> Tensor:
    """Return the likelihoods (n, a, v) of atoms, relative to the likeliest."""
    likeliest = atoms.amax(1, keepdim=True)
    return (atoms - likeliest).clamp_(min=-MAX_LOG_RATIO).exp_().flatten(2)


def _sums(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Sum values (n, a, v) over the atoms inside and outside of each class, (n, c, v) each."""
    with torch.autocast(values.device.type, enabled=False):
        return torch.matmul(inside, values), torch.matmul(1 - inside, values)


def _log_odds(sums: tuple[Tensor, Tensor], atoms: Tensor) -> Tensor:
    return (sums[0].log() - sums[1].log()).unflatten(2, atoms.shape[2:])
