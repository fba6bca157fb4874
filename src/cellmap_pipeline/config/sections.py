"""Sections of a training's file: data, inference, job resources and learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from cellmap_pipeline.channels import is_descriptor
from cellmap_pipeline.config.types import (
    Affects,
    LocalPath,
    Name,
    PatchSize,
    Section,
    Weight,
    WidthNm,
    affects,
)

# Weight of the datasets of test crops with `oversample: {datasets: test}`.
TEST_DATASETS_WEIGHT = 2.0
# The stages for which a training may request resources.
JobStage = Literal["train", "validate", "predict"]
# Those of them whose jobs use GPUs.
GpuStage = Literal["train", "predict"]


class Oversample(Section):
    """How much more often the crops of some datasets are drawn."""

    datasets: Literal["test"] | Annotated[dict[Name, Weight], Field(min_length=1)] = Field(
        description="weights by dataset, 1 for others: how many times as often as another crop of "
        "the same class a crop is drawn; "
        f"`test`: {TEST_DATASETS_WEIGHT:g} for the datasets of test crops"
    )

    def resolved(self, test_datasets: Sequence[str]) -> Oversample:
        """Return this section with weights by name in the place of `test`."""
        if self.datasets != "test":
            return self
        return Oversample(datasets=dict.fromkeys(test_datasets, TEST_DATASETS_WEIGHT))

    def weight(self, dataset: str) -> float:
        """Return the weight of a dataset; `test` must be resolved before."""
        assert not isinstance(self.datasets, str)
        return self.datasets.get(dataset, 1.0)


class InitialWeights(Section):
    """The weights that a training starts from; a path alone stands for a section with defaults."""

    # Read by editors: a path alone is valid, too.
    model_config = ConfigDict(json_schema_extra={"type": ["object", "string"]})

    path: LocalPath = Field(
        description="path of a checkpoint, of this pipeline, of nnU-Net or of another program, or "
        "of a state dict"
    )
    part: Literal["all", "encoder"] = Field(
        "all", description="which part of the network the file's weights are taken for"
    )
    rename: dict[str, str] = Field(
        default_factory=dict,
        description="names of modules in the file, and in the network: `{backbone: encoder}`; an "
        'empty name, `""`, adds or removes a prefix',
    )
    at_least: float = Field(
        0.5, gt=0, le=1, description="smallest fraction of the part's weights that the file holds"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("rename")
    @classmethod
    def _without_last_dots(cls, rename: dict[str, str]) -> dict[str, str]:
        return {old.rstrip("."): new.rstrip(".") for old, new in rename.items()}

    @model_serializer(mode="wrap")
    def _as_short_as_possible(self, serialize: SerializerFunctionWrapHandler) -> Any:
        """Dump the same for settings that mean the same: a path where all else is default."""
        if self == InitialWeights(path=self.path):
            return self.path
        return serialize(self)


class Teach(Section):
    """Pseudo-labels: another training's confident predictions around the training crops."""

    model_config = ConfigDict(serialize_by_alias=True)

    teacher: Name = Field(
        alias="from", description="the training that teaches; it has not seen what validates"
    )
    at_least: float = Field(
        0.95,
        gt=0.5,
        le=1,
        description="a voxel of this probability or more is of the class, one of at most 1 minus "
        "it is not; all others are unknown",
    )
    margin_nm: WidthNm | None = Field(
        None,
        description="width around the crops that is taught, nm; one number or [z, y, x]; null: "
        "half a patch",
    )
    share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of the patches that are drawn from the crops with what is around them; "
        "the others are drawn as without a teacher",
    )


class Inference(Section):
    """The prediction of whole crops."""

    checkpoint: LocalPath = Field(
        "best",
        description="`best`, `last` or the path of a checkpoint; without validation, the best is "
        "the last",
        json_schema_extra=affects(Affects.PREDICTION),
    )
    checkpoints: int = Field(
        1,
        ge=1,
        le=20,
        description="number of the training's best checkpoints whose predictions are averaged",
        json_schema_extra=affects(Affects.PREDICTION),
    )
    window: PatchSize | None = Field(
        None,
        description="sliding window, voxels; null: patch_size",
        json_schema_extra=affects(Affects.PREDICTION),
    )
    overlap: float = Field(
        0.5,
        ge=0,
        le=0.75,
        description="overlap of neighboring windows, a fraction of the window",
        json_schema_extra=affects(Affects.PREDICTION),
    )
    blending: Literal["gaussian", "constant"] = Field(
        "gaussian",
        description="weights of a window's voxels in the overlap",
        json_schema_extra=affects(Affects.PREDICTION),
    )
    symmetries: Literal[1, 8, 48] = Field(
        1,
        description="average over transformed inputs: 8, all flips; 48, all rotations of a cube, "
        "too",
        json_schema_extra=affects(Affects.PREDICTION),
    )
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="windows per batch; auto: as many as are fastest on the GPU; fewer where its "
        "memory is too small",
        json_schema_extra=affects(Affects.PREDICTION_SPEED),
    )
    store: list[Literal["descriptors"]] = Field(
        [],
        max_length=1,
        description="`[descriptors]`: store the local shape descriptors of `targets`, too, which "
        "no method uses",
        json_schema_extra=affects(Affects.PREDICTION),
    )
    jobs: int = Field(
        1,
        ge=1,
        le=1000,
        description="number of jobs that predict a crop; a new number predicts it again",
        json_schema_extra=affects(Affects.PREDICTION_SPEED),
    )
    job_voxels: int | None = Field(
        None,
        gt=0,
        description="or as many jobs as have about this many of the network's voxels each",
        json_schema_extra=affects(Affects.PREDICTION_SPEED),
    )

    @model_serializer(mode="wrap")
    def _as_before_the_key(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an empty `store`: predictions of before the key existed remain valid."""
        values = serialize(self)
        if not self.store:
            values.pop("store", None)
        return values

    def stored_channels(self, channels: Sequence[str]) -> list[str]:
        """List those of a network's `channels` that a prediction stores."""
        return [name for name in channels if "descriptors" in self.store or not is_descriptor(name)]

    def window_for(self, patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the window of a network that was trained on `patch_size`."""
        return self.window or patch_size

    def context_for(self, patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Voxels (z, y, x) of raw that are read on each side of a crop: half an overlap."""
        z, y, x = (int(size * self.overlap / 2) for size in self.window_for(patch_size))
        return z, y, x


class JobResources(Section):
    """Resources that a job requests; null: the default of its rule."""

    mem_mb: int | None = Field(None, ge=100, description="memory, MB")
    runtime: int | None = Field(None, ge=1, description="minutes")
    cpus_per_task: int | None = Field(None, ge=1, le=1024, description="processors")
    gpu_model: str | None = Field(
        None,
        pattern=r"^[a-zA-Z0-9_.]+$",
        description="the GPU's model, by its name in the batch system",
    )


class Scheduler(Section):
    """Learning rate over the training."""

    name: Literal["constant", "cosine", "polynomial"] = Field(
        "constant", description="shape of the curve"
    )
    minimum: float = Field(0.0, ge=0, description="learning rate at the end, unless constant")
    power: float = Field(0.9, gt=0, le=10, description="exponent of `polynomial`")
    warmup_steps: int = Field(0, ge=0, description="optimizer steps of linear rise at the start")
