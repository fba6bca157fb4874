"""Read and check the configuration of a run and the files of its trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.messages import validated
from cellmap_pipeline.config.optimization import DEFAULT_WEIGHT_DECAY
from cellmap_pipeline.config.run import RunConfig
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError, did_you_mean
from cellmap_pipeline.io.yaml_files import read_yaml


def parse_run(config: Mapping[str, Any], source: str) -> RunConfig:
    """Check the run's configuration.

    Parameters
    ----------
    config
        The configuration as read from YAML.
    source
        How errors refer to it.

    Raises
    ------
    InputError
        A key is unknown, or a value has the wrong type or is out of range.
    """
    run = validated(RunConfig, config, source, {"config/training/{name}.yaml": Training})
    for name, external in run.predictions.items():
        if name in run.trainings:
            raise InputError(f"{source}: predictions: {name!r} is already the name of a training")
        missing = [p for p in ("{dataset}", "{crop}", "{label}") if p not in external.path]
        if missing:
            raise InputError(
                f"{source}: predictions: {name}: {external.path!r} lacks {', '.join(missing)}"
            )
        try:
            external.path.format(dataset="", crop="", label="")
        except (KeyError, IndexError, ValueError):
            raise InputError(
                f"{source}: predictions: {name}: {external.path!r} has braces other than those "
                "of {dataset}, {crop} and {label}: rename it"
            ) from None
    return run


def read_run(path: Path) -> RunConfig:
    """Read the run's configuration from a file, without Snakemake.

    Raises
    ------
    InputError
        The file does not exist, or as `parse_run`.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: name the run's configuration with --configfile")
    return parse_run(read_yaml(path), str(path))


def load_training(name: str, folders: Sequence[Path]) -> Training:
    """Read `{name}.yaml` from the first of `folders` that has it.

    Raises
    ------
    InputError
        No folder has it, or it is not valid.
    """
    paths = [folder / f"{name}.yaml" for folder in folders]
    path = next((path for path in paths if path.exists() or path.is_symlink()), None)
    if path is None:
        known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
        raise InputError(
            f"trainings: there is no file for {name!r}{did_you_mean(name, known)} (looked for "
            f"{', '.join(str(p) for p in paths)}); there are: {', '.join(known) or 'none'}"
        )
    training = validated(Training, read_yaml(path), str(path), {"config/config.yaml": RunConfig})
    # Only files are refused: checkpoints of older versions may hold such settings.
    if training.optimizer != "adamw" and training.weight_decay != DEFAULT_WEIGHT_DECAY:
        raise InputError(
            f"{path}: `weight_decay: {training.weight_decay:g}` has no effect with `optimizer: "
            f"{training.optimizer}`: leave it out, or choose `optimizer: adamw`"
        )
    if training.optimizer == "sgd" and training.adam_eps is not None:
        raise InputError(
            f"{path}: `adam_eps: {training.adam_eps:g}` has no effect with `optimizer: sgd`: leave "
            "it out, or choose `optimizer: adamw` or `adam`"
        )
    return training
