"""One file in config/training/: what is allowed, with ranges and defaults.

Read while Snakemake parses, so nothing here imports torch, zarr or pandas.
"""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from cellmap_pipeline.channels import further, output_channels
from cellmap_pipeline.config.types import (
    Crops,
    LocalPath,
    Name,
    Names,
    PatchSize,
    Section,
    VoxelSize,
    Weight,
)
from cellmap_pipeline.geometry import SAME_SIZE, Grid, apart
from cellmap_pipeline.models.build import check_model, check_patch_size, check_window
from cellmap_pipeline.segmentation.methods import complete

# A batch of more voxels fits no GPU: a slip.
MOST_VOXELS = 2**30
# Whose jobs a training may ask resources for.
JobStage = Literal["train", "validate", "predict"]
LossName = Literal["bce", "dice", "dice_bce", "focal", "tversky"]


class Augmentation(Section):
    """Random changes of training patches."""

    flip: bool = Field(True, description="mirror along each axis")
    transpose: bool = Field(True, description="swap axes of equal voxel size")
    rotate90: bool = Field(True, description="turn by multiples of 90°")
    rotate: float = Field(0.0, ge=0, le=180, description="free rotation up to this many degrees")
    contrast: float = Field(0.2, ge=0, lt=1, description="change of contrast and brightness, ±")
    gamma: float = Field(0.2, ge=0, lt=1, description="change of gamma, ±")
    noise: float = Field(0.02, ge=0, le=1, description="largest σ of added noise; raw is 0..1")
    blur: float = Field(0.0, ge=0, le=5, description="largest σ of a Gaussian blur, voxels")


class Inference(Section):
    """How whole crops are predicted."""

    checkpoint: LocalPath = Field("best", description="`best`, `last` or the path of a checkpoint")
    checkpoints: int = Field(
        1, ge=1, le=20, description="average over so many of the training's best checkpoints"
    )
    window: PatchSize | None = Field(None, description="sliding window, voxels; null: patch_size")
    overlap: float = Field(0.5, ge=0, le=0.75, description="of neighbouring windows")
    blending: Literal["gaussian", "constant"] = Field("gaussian", description="of windows")
    symmetries: Literal[1, 8, 48] = Field(
        1, description="average over turned inputs: 8, all flips; 48, all turns of a cube, too"
    )
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="windows at once; auto: as many as are fastest on the GPU; fewer where its "
        "memory is too small",
    )
    jobs: int = Field(1, ge=1, le=1000, description="that each crop is cut into")
    job_voxels: int | None = Field(
        None, gt=0, description="cut crops into jobs of about so many of the network's voxels"
    )


class JobResources(Section):
    """What a job asks a cluster for; null: what its rule does."""

    mem_mb: int | None = Field(None, ge=100, description="memory, MB")
    runtime: int | None = Field(None, ge=1, description="minutes")
    cpus_per_task: int | None = Field(None, ge=1, le=1024, description="processors")


class Scheduler(Section):
    """Learning rate over the training."""

    name: Literal["constant", "cosine", "polynomial"] = Field(
        "constant", description="shape of the curve"
    )
    minimum: float = Field(0.0, ge=0, description="learning rate at the end, unless constant")
    power: float = Field(0.9, gt=0, le=10, description="of `polynomial`")
    warmup_steps: int = Field(0, ge=0, description="optimiser steps of linear rise at the start")


class Training(Section):
    """One file in config/training/: everything about one network."""

    classes: Names = Field(description="labels to predict")
    voxel_size: VoxelSize = Field(description="nm; one number or [z, y, x]")
    serves: list[VoxelSize] | None = Field(
        None, description="voxel sizes of test crops it is meant for; null: all"
    )
    model: Annotated[dict[str, Any], AfterValidator(check_model)] = Field(
        description="`architecture` and its options"
    )
    patch_size: PatchSize = Field(description="voxels; one number or [z, y, x]")
    datasets: Names | None = Field(None, description="train on these datasets only; null: all")
    crops: Crops | None = Field(None, description="train on these crops only; null: all")
    datasplit: LocalPath | None = Field(
        None, description="path of an own datasplit CSV; null: made"
    )
    validation_fraction: float = Field(0.15, gt=0, lt=1, description="share of labelled voxels")
    seed: int = Field(0, ge=0, lt=2**32, description="of the split, weights and patches")
    epochs: int = Field(100, ge=1, le=1_000_000, description="most epochs")
    iterations_per_epoch: int = Field(
        2000, ge=1, le=10_000_000, description="training batches per epoch"
    )
    validation_iterations: int = Field(
        200, ge=1, le=10_000_000, description="validation batches per epoch"
    )
    batch_size: int = Field(2, ge=1, le=4096, description="patches per batch")
    accumulate_grad_batches: int = Field(4, ge=1, le=4096, description="batches per optimiser step")
    gradient_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    precision: Literal["mixed", "16-mixed", "bf16-mixed", "32"] = Field(
        "mixed",
        description="`mixed`: bf16 where the GPU has it, else 16; without a GPU all mixed ones are "
        "bf16 where the processor has it, else 32",
    )
    compile: bool = Field(False, description="the network by torch.compile; slow to start")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an average of the weights, which then validates and predicts; null: "
        "none",
    )
    initial_weights: LocalPath | None = Field(
        None,
        description="path of a checkpoint or state dict to begin with; classes are matched by name",
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="optimiser")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="highest learning rate")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    scheduler: Scheduler = Field(Scheduler(), description="learning rate over the training")
    targets: dict[Name, list[Literal["boundary", "distance", "affinities"]]] = Field(
        default_factory=dict,
        description="per class, what is learned besides where it is; instance classes that are not "
        "listed: [boundary]",
    )
    loss: LossName | dict[LossName, Weight] = Field(
        "dice_bce", description="a loss, or losses with weights"
    )
    class_weights: Literal["balanced"] | dict[Name, Weight] | None = Field(
        None,
        description="of the classes in the loss: a map (1 for others), or `balanced`: one over the "
        "root of their labelled volume; null: all alike",
    )
    augment: Augmentation = Field(Augmentation(), description="random changes of patches")
    early_stopping_patience: int = Field(50, ge=1, description="epochs without improvement")
    save_top_k: int = Field(3, ge=1, le=1000, description="best checkpoints kept")
    devices: int = Field(
        1, ge=1, le=64, description="GPUs of one node that train together; without any, processes"
    )
    loader: Literal["fast", "cellmap-data"] = Field(
        "fast", description="this pipeline's loader, or the official one behind the same interface"
    )
    mutual_exclusion: LocalPath | None = Field(
        None,
        description="path of the challenge's class table (classes.csv): what a voxel of one class "
        "cannot be besides is known, too; null: only what is annotated is",
    )
    num_workers: int = Field(4, ge=1, le=256, description="loader threads; changes no result")
    memory_gb: float = Field(
        4.0, ge=0.5, description="what the loader may keep in memory, GB; changes no result"
    )
    checkpoint_minutes: float = Field(
        15.0, gt=0, description="between checkpoints within an epoch; changes no result"
    )
    log_every_steps: int = Field(10, ge=1, description="logging only; changes no result")
    inference: Inference = Field(Inference(), description="how crops are predicted")
    resources: dict[JobStage, JobResources] = Field(
        default_factory=dict,
        description="what jobs ask a cluster for, per `train`, `validate` and `predict`: `mem_mb`, "
        "`runtime` (minutes), `cpus_per_task`; changes no result",
    )
    postprocess: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="settings per class, instead of those tuned"
    )

    @model_validator(mode="before")
    @classmethod
    def _scheduler_by_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("scheduler"), str):
            return values | {"scheduler": {"name": values["scheduler"]}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.batch_size * prod(self.patch_size) > MOST_VOXELS:
            raise ValueError(
                f"`batch_size: {self.batch_size}` of `patch_size: {list(self.patch_size)}` is more "
                f"than {MOST_VOXELS:,} voxels at once, which no GPU holds: lower them"
            )
        check_patch_size(self.model, self.patch_size)
        if self.inference.window:
            check_window(self.model, self.inference.window, self.patch_size, key="inference.window")
        window = self.inference.window or self.patch_size
        if self.inference.symmetries > 1 and "affinities" in chain(*self.targets.values()):
            raise ValueError("`inference.symmetries` above 1 cannot turn affinities: leave one out")
        if self.inference.symmetries == 48 and len({*window}) * len({*self.voxel_size}) > 1:
            raise ValueError(
                "`inference.symmetries: 48` takes cubic windows of cubic voxels; use 8"
            )
        several = self.inference.checkpoints
        if several > 1 and self.inference.checkpoint != "best":
            raise ValueError("`inference.checkpoints` above 1 takes `inference.checkpoint: best`")
        if several > self.save_top_k:
            raise ValueError(
                f"`inference.checkpoints: {several}` needs `save_top_k: {several}`, or more"
            )
        weights = self.class_weights if isinstance(self.class_weights, dict) else {}
        for key, of_labels in (
            ("targets", self.targets), ("class_weights", weights), ("postprocess", self.postprocess)
        ):  # fmt: skip
            for label in of_labels:
                if label not in self.classes:
                    raise ValueError(f"`{key}` names {label!r}, which is not in `classes`")
        for label, settings in self.postprocess.items():
            complete(label, settings, further(label, self.channels))
        return self

    @property
    def channels(self) -> list[str]:
        """Output channels of the network (`classes.output_channels`)."""
        return output_channels(self.classes, self.targets)

    def serves_grid(self, grid: Grid) -> bool:
        """Whether this training is meant for crops of this grid's voxel size."""
        return self.serves is None or any(
            apart(served, grid.voxel_size) <= SAME_SIZE for served in self.serves
        )
