"""Export the networks of a training to folders that other programs load."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.config.stages import NETWORK_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError, did_you_mean
from cellmap_pipeline.export.bioimage_io import (
    BIOIMAGEIO_FILES,
    check_describable,
    write_bioimageio,
)
from cellmap_pipeline.export.cellmap_models import METADATA_FILE, cellmap_models_metadata
from cellmap_pipeline.export.exported_model import ExportedModel
from cellmap_pipeline.export.facts import ModelFacts, crops_by_dataset, digest
from cellmap_pipeline.export.forms import BIOIMAGEIO, FORMS, FormWriter, check_packages
from cellmap_pipeline.export.model_card import CARD_FILE, model_card
from cellmap_pipeline.export.raw_kind import RawKind, choose_crop, read_example
from cellmap_pipeline.io.files import atomic_folder, write_json
from cellmap_pipeline.io.raw_statistics import read_raw_statistics
from cellmap_pipeline.io.storage import read_json_if_present
from cellmap_pipeline.models.build import find_architecture, total_stride
from cellmap_pipeline.patches.crops import CropData, open_crops
from cellmap_pipeline.plan.checks import check_writable
from cellmap_pipeline.plan.folds import fold_of, training_of
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.prediction.predictor import Predictor
from cellmap_pipeline.training.checkpoints import (
    load_networks,
    predicting_checkpoints,
    read_checkpoint,
)
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
# torch takes far too long to find out which other windows these take.
FIXED_WINDOW_ARCHITECTURES = frozenset({"monai_swin_unetr"})
EXPORTED_FILES = frozenset(
    {METADATA_FILE, CARD_FILE, *(form.file for form in FORMS.values()), *BIOIMAGEIO_FILES}
)
MAX_LISTED_FILES = 3


@dataclass(frozen=True)
class ExportOptions:
    """The forms of an export, and facts that only its author knows.

    Attributes
    ----------
    forms
        Names of forms, of `forms.FORM_NAMES`.
    license
        SPDX identifier of the license of the weights; None states none.
    authors
        Names of the authors.
    dataset
        The dataset whose raw the network is exported for; None where it makes no difference.
    """

    forms: Sequence[str]
    license: str | None = None
    authors: Sequence[str] = ()
    dataset: str | None = None


def export(plan: Plan, name: str, output: Path, options: ExportOptions) -> list[Path]:
    """Export the networks of a training, each to a folder of its own.

    Parameters
    ----------
    plan
        The plan of the run.
    name
        A training: all its folds are exported; or a network of a training with folds, such as
        `NAME/fold0`.
    output
        Folder for the networks' folders: `{training}`, or `{training}_fold{i}`.
    options
        What to export.

    Returns
    -------
    The folders.

    Raises
    ------
    InputError
        There is no such training, its checkpoint or its data are missing, a package is, or a form
        cannot be written or differs too much from the checkpoint.
    """
    networks = _networks(plan, name)
    check_packages(options.forms)
    if BIOIMAGEIO in options.forms:
        check_describable(options.forms)
    folders = [output / network.replace("/", "_") for network in networks]
    check_writable("--output", output)
    for network, folder in zip(networks, folders, strict=True):
        _check_replaceable(folder)
        _checkpoint(plan, network)
    for network, folder in zip(networks, folders, strict=True):
        _NetworkExport(plan, network, folder.name, options).write(folder)
    return folders


def _networks(plan: Plan, name: str) -> list[str]:
    training = training_of(name)
    if training not in plan.trainings:
        known = list(plan.trainings)
        raise InputError(
            f"there is no training {training!r}{did_you_mean(training, known)}: the configuration "
            f"has {', '.join(known)}"
        )
    networks = plan.networks_of(training)
    if name == training:
        return networks
    if name not in networks:
        raise InputError(f"there is no network {name!r}: {training} has {', '.join(networks)}")
    return [name]


def _check_replaceable(folder: Path) -> None:
    """Check that a folder holds nothing but an earlier export, if it exists."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not (folder / METADATA_FILE).is_file():
        raise InputError(
            f"{folder} exists and is no earlier export: remove it, or give another --output"
        )
    if others := sorted({path.name for path in folder.iterdir()} - EXPORTED_FILES):
        raise InputError(
            f"{folder} is an earlier export, but also holds {', '.join(others[:MAX_LISTED_FILES])}"
            ", which would be lost: move it, or give another --output"
        )


def _checkpoint(plan: Plan, network: str) -> Path:
    """Return the checkpoint that predicts.

    Raises
    ------
    InputError
        It does not exist.
    """
    choice = plan.trainings[training_of(network)].inference.checkpoint
    path = plan.paths.checkpoint(network) if choice in ("best", "last") else Path(choice)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: train it first, with "
            f"`snakemake --profile profiles/local {path}`"
        )
    return path


class _NetworkExport:
    """Exports one network of a plan."""

    def __init__(self, plan: Plan, network: str, name: str, options: ExportOptions) -> None:
        self.plan, self.network, self.name, self.options = plan, network, name, options
        self.training: Training = plan.trainings[training_of(network)]
        checkpoint = _checkpoint(plan, network)
        expected = training_settings(self.training, NETWORK_KEYS)
        single = self.training.inference.model_copy(update={"checkpoints": 1})
        (self.checkpoint,) = predicting_checkpoints(checkpoint, single)
        self.task: SegmentationTask = load_networks(checkpoint, single, expected)[0]
        self.channels = self.training.inference.stored_channels(self.task.channels)

    def write(self, folder: Path) -> None:
        """Write the folder atomically."""
        crops = self._crops()
        own = self.task.training_settings
        crop = choose_crop(
            [*crops["validate"], *crops["train"]], self.options.dataset, own.normalize
        )
        raw = RawKind.of(crop)
        example = read_example(crop, self.training.window)
        model = ExportedModel(self.task, self.channels, raw.normalization, raw.max_intensity)
        batch = torch.from_numpy(example)[None, None]
        writer = FormWriter(model, self._reference(raw), batch, self._stride())
        with atomic_folder(folder) as tmp:
            written = []
            forms = [form for form in FORMS if form in self.options.forms]
            for form in tqdm(forms, unit="form", desc=f"export {self.name}"):
                written.append(writer.write(form, tmp))
            facts = ModelFacts(
                name=self.name,
                training=own,
                channels=self.channels,
                window=self.training.window,
                free_axes=writer.free_axes,
                context=self.training.context,
                raw=raw,
                dataset=crop.dataset,
                input_scaling=self.task.normalization,
                steps=int(read_checkpoint(self.checkpoint)["global_step"]),
                parameters=sum(p.numel() for p in self.task.network.parameters()),
                checkpoint_sha256=digest(self.checkpoint),
                crops=crops_by_dataset(crops),
                scores=self._scores(),
                is_fold=fold_of(self.network) is not None,
                averaged=self._averaged(),
                license=self.options.license,
                authors=self.options.authors,
                written=written,
            )
            write_json(tmp / METADATA_FILE, cellmap_models_metadata(facts))
            (tmp / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
            if BIOIMAGEIO in self.options.forms:
                write_bioimageio(facts, tmp, example, writer.probabilities[0].numpy())

    def _crops(self) -> dict[str, list[CropData]]:
        """Open the crops that the network was trained and validated on."""
        datasplit = self.plan.paths.datasplit(self.network)
        if not datasplit.is_file():
            raise InputError(
                f"{datasplit} does not exist, which lists the crops of the training: make it with "
                f"`snakemake --profile profiles/local {datasplit}`"
            )
        own = self.task.training_settings
        statistics = {}
        if own.normalize != "range":
            statistics = read_raw_statistics(self.plan.paths.training_raw_statistics(self.network))
        return open_crops(datasplit, own.classes, own.voxel_size, False, own.normalize, statistics)

    def _reference(self, raw: RawKind) -> Any:
        """Return a function that predicts stored raw as `predict` does, on the CPU."""
        predictor = Predictor([self.task], self.channels, self.training.window, Inference(), CPU)

        @torch.inference_mode()
        def predict(stored: Tensor) -> Tensor:
            standardized = torch.from_numpy(raw.standardize(stored.numpy()))
            values, finite = predictor.probabilities(standardized)
            if not finite.all():
                raise InputError(
                    f"{self.checkpoint}: the network returns values that are not finite (NaN or "
                    "infinity) in the middle of a crop: export another checkpoint"
                )
            return values

        return predict

    def _stride(self) -> tuple[int, int, int] | None:
        own = self.task.training_settings
        name = own.model["architecture"]
        # The stride of a family's networks is not known.
        fixed = find_architecture(name).fixed_size or ":" in name
        if fixed or name in FIXED_WINDOW_ARCHITECTURES:
            return None
        return total_stride(own.model, own.patch_size, own.voxel_size)

    def _scores(self) -> dict[str, Any] | None:
        return read_json_if_present(self.plan.paths.validation_scores(training_of(self.network)))

    def _averaged(self) -> str | None:
        """Tell what `predict` averages over, if anything."""
        inference = self.training.inference
        averaged = []
        if (folds := len(self.plan.networks_of(training_of(self.network)))) > 1:
            averaged.append(f"the networks of {folds} folds")
        if inference.checkpoints > 1:
            averaged.append(f"the {inference.checkpoints} best checkpoints")
        if inference.symmetries > 1:
            averaged.append(f"{inference.symmetries} symmetries of the input")
        return f"averages over {' and '.join(averaged)}" if averaged else None
