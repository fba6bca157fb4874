"""The keys of a training's file about the optimization: its steps, its learning rate and its jobs.

They are checked while Snakemake parses, so nothing here imports torch, zarr or pandas.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cellmap_pipeline.config.sections import Scheduler
from cellmap_pipeline.config.types import Affects, Section, affects

DEFAULT_WEIGHT_DECAY = 0.01
CONSTANT_PATIENCE_EPOCHS = 50


class Optimization(Section):
    """The keys of `Training` that concern its optimization."""

    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="seed of the weights and the patches",
        json_schema_extra=affects(Affects.LEARNING),
    )
    epochs: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="maximum number of epochs",
        json_schema_extra=affects(Affects.LEARNING),
    )
    iterations_per_epoch: int = Field(
        2000,
        ge=1,
        le=10_000_000,
        description="training batches per epoch",
        json_schema_extra=affects(Affects.LEARNING),
    )
    validation_iterations: int = Field(
        200,
        ge=1,
        le=10_000_000,
        description="validation batches per epoch",
        json_schema_extra=affects(Affects.LEARNING),
    )
    batch_size: int = Field(
        2,
        ge=1,
        le=4096,
        description="patches per batch",
        json_schema_extra=affects(Affects.LEARNING),
    )
    accumulate_grad_batches: int = Field(
        4,
        ge=1,
        le=4096,
        description="batches per optimizer step",
        json_schema_extra=affects(Affects.LEARNING),
    )
    gradient_clip: float = Field(
        1.0,
        ge=0,
        description="maximum gradient norm; 0: no clipping",
        json_schema_extra=affects(Affects.LEARNING),
    )
    precision: Literal["mixed", "16-mixed", "bf16-mixed", "32"] = Field(
        "mixed",
        description="`mixed`: bf16 where the GPU has it, else 16; without a GPU, all mixed "
        "ones are 32",
        json_schema_extra=affects(Affects.LEARNING),
    )
    compile: bool = Field(
        False,
        description="compile the network with torch.compile; slow to start",
        json_schema_extra=affects(Affects.LEARNING),
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, which then validates and "
        "predicts; null: no average",
        json_schema_extra=affects(Affects.LEARNING),
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        "adamw",
        description="optimizer",
        json_schema_extra=affects(Affects.LEARNING),
    )
    learning_rate: float = Field(
        1e-3,
        gt=0,
        le=1,
        description="maximum learning rate",
        json_schema_extra=affects(Affects.LEARNING),
    )
    weight_decay: float = Field(
        DEFAULT_WEIGHT_DECAY,
        ge=0,
        description="of adamw; the other optimizers have none",
        json_schema_extra=affects(Affects.LEARNING),
    )
    adam_eps: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="of adamw and adam, added to the root of the second moment; null: 1e-4 where "
        "the precision turns out to be 16-mixed, else 1e-8",
        json_schema_extra=affects(Affects.LEARNING),
    )
    scheduler: Scheduler = Field(
        Scheduler(),
        description="learning rate over the training",
        json_schema_extra=affects(Affects.LEARNING),
    )
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="epochs without improvement after which the training stops; null: 50 with a "
        "constant learning rate; with another schedule, which has its own end, or without "
        "validation, it does not stop",
        json_schema_extra=affects(Affects.TRAINING_RUN),
    )
    save_top_k: int = Field(
        3,
        ge=1,
        le=1000,
        description="number of best checkpoints that are kept; without validation, of the latest",
        json_schema_extra=affects(Affects.TRAINING_RUN),
    )
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="GPUs of one node that train together; without any, processes",
        json_schema_extra=affects(Affects.TRAINING_RUN),
    )
    nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="nodes of a Slurm job that train together, each with `devices` GPUs",
        json_schema_extra=affects(Affects.TRAINING_RUN),
    )
    num_workers: int = Field(
        4,
        ge=1,
        le=256,
        description="loader threads",
        json_schema_extra=affects(Affects.TRAINING_SPEED),
    )
    memory_gb: float = Field(
        4.0,
        ge=0.5,
        description="memory limit of the loader, GB",
        json_schema_extra=affects(Affects.TRAINING_SPEED),
    )
    checkpoint_minutes: float = Field(
        15.0,
        gt=0,
        description="minutes between checkpoints within an epoch",
        json_schema_extra=affects(Affects.TRAINING_SPEED),
    )
    log_every_steps: int = Field(
        10,
        ge=1,
        description="steps between logged values",
        json_schema_extra=affects(Affects.TRAINING_SPEED),
    )

    @model_validator(mode="before")
    @classmethod
    def _scheduler_by_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("scheduler"), str):
            return values | {"scheduler": {"name": values["scheduler"]}}
        return values

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * math.ceil(self.iterations_per_epoch / self.accumulate_grad_batches)

    @model_validator(mode="after")
    def _learning_rate_falls(self) -> Self:
        if self.scheduler.name != "constant" and self.scheduler.minimum > self.learning_rate:
            raise ValueError(
                f"`scheduler.minimum: {self.scheduler.minimum:g}` is above `learning_rate: "
                f"{self.learning_rate:g}`, so that the learning rate would rise: lower it"
            )
        return self

    @property
    def processes(self) -> int:
        """Number of processes that train together, one per GPU."""
        return self.nodes * self.devices
