"""The keys of a training's file in config/training/, with ranges, defaults and what they affect.

They are checked while Snakemake parses, so nothing here imports torch, zarr or pandas.
"""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from cellmap_pipeline.channels import auxiliary_kinds, class_of, is_fraction, network_outputs
from cellmap_pipeline.config.augmentation import Augmentation
from cellmap_pipeline.config.auxiliary_targets import (
    Targets,
    check_symmetries,
    check_targets,
    descriptor_sigmas_nm,
    training_channels,
)
from cellmap_pipeline.config.optimization import CONSTANT_PATIENCE_EPOCHS, Optimization
from cellmap_pipeline.config.sections import (
    Inference,
    InitialWeights,
    JobResources,
    JobStage,
    Oversample,
    Teach,
)
from cellmap_pipeline.config.training_data import TrainingData
from cellmap_pipeline.config.types import (
    Affects,
    LocalPath,
    Name,
    Names,
    PatchSize,
    Weight,
    affects,
)
from cellmap_pipeline.data.margins import RawMargins
from cellmap_pipeline.geometry import SAME_SIZE, Grid, Shape, shape_of, size_ratio, voxels_across
from cellmap_pipeline.models.build import check_encoder, check_model, check_patch_size, check_window
from cellmap_pipeline.models.losses import check_loss, learns_fractions, uses_atoms
from cellmap_pipeline.models.registry import LOSSES
from cellmap_pipeline.segmentation.method_settings import complete

MAX_BATCH_VOXELS = 2**30  # more than any GPU holds
LOSS_SCHEMA = {"anyOf": [{"enum": list(LOSSES), "type": "string"}, {"type": "object"}]}


class Training(Optimization, TrainingData):
    """One file in config/training/: everything about one training."""

    model: Annotated[dict[str, Any], AfterValidator(check_model)] = Field(
        description="`architecture` and its options",
        json_schema_extra=affects(Affects.LEARNING),
    )
    patch_size: PatchSize = Field(
        description="voxels; one number or [z, y, x]",
        json_schema_extra=affects(Affects.LEARNING),
    )
    initial_weights: InitialWeights | None = Field(
        None,
        description="a path, or a section: weights to start from; classes are matched by name",
        json_schema_extra=affects(Affects.LEARNING),
    )
    targets: Targets = Field(
        default_factory=dict,
        description="per class, the auxiliary channels that are learned, too: `boundary`, "
        "`distance`, `affinities` (of nearest neighbors) or `{affinities: [offsets]}`, "
        "`descriptors` (local shape descriptors) or `{descriptors: {sigma_nm: 80}}`; instance "
        "classes that are not listed: [boundary]",
        json_schema_extra=affects(Affects.NETWORK, Affects.LEARNING),
    )
    loss: Annotated[
        str | dict[str, Weight | dict[str, Any]],
        AfterValidator(check_loss),
        WithJsonSchema(LOSS_SCHEMA),
    ] = Field(
        "dice_bce",
        description="a loss, or losses with weights and options",
        json_schema_extra=affects(Affects.LEARNING),
    )
    class_weights: Literal["balanced"] | dict[Name, Weight] | None = Field(
        None,
        description="weights of the classes in the loss: a map (1 for others), or `balanced`:"
        " one over the root of their labeled volume; null: all equal",
        json_schema_extra=affects(Affects.LEARNING),
    )
    augment: Augmentation = Field(
        Augmentation(),
        description="random changes of patches",
        json_schema_extra=affects(Affects.LEARNING),
    )
    oversample: Oversample | None = Field(
        None,
        description="datasets whose crops are drawn more often; null: all alike",
        json_schema_extra=affects(Affects.LEARNING),
    )
    loader: Literal["fast", "cellmap-data"] = Field(
        "fast",
        description="this pipeline's loader, or the official one behind the same interface",
        json_schema_extra=affects(Affects.LEARNING),
    )
    hierarchy: bool | Annotated[list[Names], Field(min_length=1)] = Field(
        False,
        description="true: the network predicts the smallest disjoint parts (atoms) of the classes "
        "by the run's `class_table`, and a class has the probability of its atoms; or the atoms, "
        "each the list of the classes that contain it; false: classes are independent",
        json_schema_extra=affects(Affects.LEARNING),
    )
    prior_bias: bool = Field(
        True,
        description="the output layer starts at the share of each channel in the training patches",
        json_schema_extra=affects(Affects.LEARNING),
    )
    mutual_exclusion: LocalPath | dict[Name, list[int]] | None = Field(
        None,
        description="path of the challenge's class table (classes.csv): a voxel of one class "
        "is known to belong to none that excludes it; or ids by class; null: only annotations "
        "are known",
        json_schema_extra=affects(Affects.LEARNING),
    )
    teach: Teach | None = Field(
        None,
        description="learn from confident predictions of another training in raw around the "
        "crops, too; null: only from annotations",
        json_schema_extra=affects(Affects.LEARNING),
    )
    inference: Inference = Field(
        Inference(),
        description="prediction of whole crops",
        json_schema_extra=affects(Affects.PREDICTION, Affects.PREDICTION_SPEED),
    )
    resources: dict[JobStage, JobResources] = Field(
        default_factory=dict,
        description="resources that jobs request, per `train`, `validate` and `predict`: "
        "`mem_mb`, `runtime` (minutes), `cpus_per_task`, `gpu_model` (the batch system's name)",
        json_schema_extra=affects(Affects.JOBS),
    )
    postprocess: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="post-processing settings per class; they override the tuned ones",
        json_schema_extra=affects(Affects.LABELS),
    )

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.batch_size * prod(self.patch_size) > MAX_BATCH_VOXELS:
            raise ValueError(
                f"`batch_size: {self.batch_size}` of `patch_size: {list(self.patch_size)}` is more "
                f"than {MAX_BATCH_VOXELS:,} voxels at once, which no GPU holds: lower them"
            )
        check_patch_size(self.model, self.patch_size, self.voxel_size)
        check_targets(self.targets, self.voxel_size, self.patch_size)
        if self.inference.window:
            check_window(
                self.model,
                self.inference.window,
                self.patch_size,
                self.voxel_size,
                key="inference.window",
            )
        if self.initial_weights and self.initial_weights.part == "encoder":
            check_encoder(self.model, key="initial_weights.part")
        fractions = [name for name in self.channels if is_fraction(name)]
        if fractions and not learns_fractions(self.loss):
            raise ValueError(
                "`loss: focal` makes 0 or 1 of any target between them, so distances and "
                f"descriptors, such as {fractions[0]}, cannot be learned by it: choose another "
                "loss, or remove them from `targets`"
            )
        if self.inference.store and not self.descriptor_sigmas_nm:
            raise ValueError(
                "`inference.store` names descriptors, which no class has: add them to its "
                "`targets`, or leave `store` out"
            )
        if self.inference.symmetries == 48 and len({*self.window}) * len({*self.voxel_size}) > 1:
            raise ValueError(
                "`inference.symmetries: 48` takes cubic windows of cubic voxels; use 8"
            )
        check_symmetries(self.targets, self.voxel_size, self.inference.symmetries)
        several = self.inference.checkpoints
        if self.validation == "none" and self.early_stopping_patience is not None:
            raise ValueError(
                "`early_stopping_patience` stops by validation, of which `validation: none` has "
                "none: remove it, and set `epochs` to the length of the training"
            )
        if self.validation == "none" and several > 1:
            raise ValueError(
                f"`inference.checkpoints: {several}` are the best by validation, of which "
                "`validation: none` has none: remove it, or average the weights by `ema`"
            )
        if several > 1 and self.inference.checkpoint != "best":
            raise ValueError("`inference.checkpoints` above 1 takes `inference.checkpoint: best`")
        if several > self.save_top_k:
            raise ValueError(
                f"`inference.checkpoints: {several}` needs `save_top_k: {several}`, or more"
            )
        if "validate" in self.resources and self.resources["validate"].gpu_model:
            raise ValueError("`resources.validate.gpu_model`: these jobs use no GPU: remove it")
        if self.validation == "folds" and self.inference.checkpoint not in ("best", "last"):
            raise ValueError(
                "`validation: folds` trains its own networks, so leave `inference.checkpoint` out"
            )
        weights = self.class_weights if isinstance(self.class_weights, dict) else {}
        for key, of_labels in (
            ("targets", self.targets), ("class_weights", weights),
            ("postprocess", self.postprocess), ("hierarchy", chain(*self.atoms)),
        ):  # fmt: skip
            for label in of_labels:
                if label not in self.classes:
                    raise ValueError(f"`{key}` names {label!r}, which is not in `classes`")
        for label in self.classes:
            if class_of(label) != label:
                raise ValueError(
                    f"`classes` names {label!r}, which would be a channel of {class_of(label)!r}: "
                    "rename it in the ground truth"
                )
        if len({frozenset(atom) for atom in self.atoms}) < len(self.atoms):
            raise ValueError("`hierarchy` lists two atoms of the same classes: join them")
        if uses_atoms(self.loss) and not self.hierarchy:
            raise ValueError(f"`loss: {self.loss}` is a loss of atoms: set `hierarchy: true`")
        for label, settings in self.postprocess.items():
            complete(label, settings, auxiliary_kinds(label, self.channels))
        if self.teach and self.loader == "cellmap-data":
            raise ValueError(
                "`teach` needs `loader: fast`: cellmap-data reads no labels around a crop"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before_the_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `nodes: 1` and `teach: null`: trainings of before these keys remain valid."""
        values = serialize(self)
        for key, default in (("nodes", 1), ("teach", None)):
            if getattr(self, key) == default:
                values.pop(key, None)
        return values

    @property
    def channels(self) -> list[str]:
        """Output channels of the network (`channels.output_channels`)."""
        return training_channels(self.classes, self.targets, self.voxel_size)

    @property
    def descriptor_sigmas_nm(self) -> dict[str, float]:
        """Sigma of the local shape descriptors of each class that has them, nm."""
        return descriptor_sigmas_nm(self.targets)

    @property
    def atoms(self) -> list[list[str]]:
        """The atoms of `hierarchy`, each the list of the classes that contain it; none without.

        A plan has resolved `hierarchy: true` to atoms (`plan.resolving`).
        """
        return [] if isinstance(self.hierarchy, bool) else self.hierarchy

    @property
    def outputs(self) -> list[str]:
        """Names of the channels that the network itself returns (`channels.network_outputs`)."""
        return network_outputs(self.channels, self.atoms)

    @property
    def patience_epochs(self) -> int | None:
        """Epochs without improvement after which it stops; None if it never stops early."""
        if self.validation == "none":
            return None
        if self.early_stopping_patience is None and self.scheduler.name == "constant":
            return CONSTANT_PATIENCE_EPOCHS
        return self.early_stopping_patience

    @property
    def window(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the sliding window that predicts."""
        return self.inference.window_for(self.patch_size)

    @property
    def context(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of raw around a crop that its prediction reads at most."""
        return self.inference.context_for(self.patch_size)

    @property
    def prediction_margins(self) -> RawMargins:
        """The raw around crops that its predictions read."""
        return RawMargins(self.window, self.context)

    @property
    def margins(self) -> RawMargins:
        """The raw around its training crops that it reads, to train or to predict them."""
        margin = self.augment.resampling_margin(self.patch_size, self.voxel_size)
        margins = RawMargins(self.window, self.context, self.patch_size, margin)
        return margins.widened(self.taught_margin)

    def teacher_margins(self, teacher: Training) -> RawMargins:
        """Return the raw around its training crops that its teacher reads."""
        width_nm = [n * v for n, v in zip(self.taught_margin, self.voxel_size, strict=True)]
        return teacher.prediction_margins.widened(voxels_across(width_nm, teacher.voxel_size))

    @property
    def taught_margin(self) -> Shape:
        """Voxels (z, y, x) on each side of a training crop that `teach` labels; 0 without it."""
        if self.teach is None:
            return 0, 0, 0
        if self.teach.margin_nm is None:
            return shape_of(size // 2 for size in self.patch_size)
        return voxels_across(self.teach.margin_nm, self.voxel_size)

    def serves_grid(self, grid: Grid) -> bool:
        """Whether this training predicts crops of this grid's voxel size."""
        return self.serves is None or any(
            size_ratio(served, grid.voxel_size) <= SAME_SIZE for served in self.serves
        )
