"""Faults in chosen batches of a training: numbers that are not finite."""

import copy

import pytorch_lightning as pl
import torch


class Faults(pl.Callback):
    """Spoils chosen batches of a training, and keeps all of them.

    Parameters
    ----------
    batches
        What is spoiled by the number of the batch in the whole training: its ``loss`` (NaN), a
        ``gradient`` (infinite), or its ``raw`` (NaN).
    rank
        Process in which it is spoiled.
    """

    def __init__(self, batches, rank=0):
        self.faults = batches
        self.rank = rank
        self.kind = None
        self.batches = []
        self.initial = None

    def on_fit_start(self, trainer, task):
        self.initial = copy.deepcopy(task.state_dict())
        task.loss.register_forward_hook(
            lambda module, inputs, loss: loss * torch.nan if self.kind == "loss" else None
        )
        weight = next(task.network.parameters())
        weight.register_hook(
            lambda gradient: gradient + torch.inf if self.kind == "gradient" else None
        )

    def on_train_batch_start(self, trainer, task, batch, index):
        if trainer.global_rank == self.rank:
            self.kind = self.faults.get(trainer.fit_loop.total_batch_idx)
        if self.kind == "raw":
            batch[0].fill_(torch.nan)
        self.batches.append(copy.deepcopy(batch))

    def on_train_batch_end(self, *_):
        self.kind = None
