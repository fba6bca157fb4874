"""Checks of the crops that train and validate each network, as the split will have them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from cellmap_pipeline.config.sections import TEST_DATASETS_WEIGHT
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.datasplit import (
    find_labeled_crops,
    read_own_datasplit,
    usage_by_split,
)
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.data.split import (
    TRAIN,
    VALIDATE,
    SplitSettings,
    group_crops,
    read_earlier,
    split_crops,
)
from cellmap_pipeline.errors import did_you_mean
from cellmap_pipeline.plan.folds import fold_of, training_of
from cellmap_pipeline.plan.plan import Plan


class RunSplits:
    """The run's split and folds, each made when a training first uses it.

    Parameters
    ----------
    plan
        The plan of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._crops: list[LabeledCrop] | None = None
        self._parts: dict[Path, dict[str, str]] = {}

    def parts(self, training: str) -> dict[str, str]:
        """Return the part of each labeled crop that a training is given; {} if it uses no split.

        Labels that cannot be read are ignored: a training that uses them reports them.

        Raises
        ------
        InputError
            See `data.split.split_crops`.
        """
        plan = self._plan
        settings = plan.split_settings(training)
        if not settings:
            return {}
        path = plan.paths.folds if "folds" in settings else plan.paths.split
        if path not in self._parts:
            if self._crops is None:
                self._crops = find_labeled_crops(Path(plan.config.data_root), [])
            made = SplitSettings(**settings, test_datasets=plan.test_datasets)
            self._parts[path] = split_crops(self._crops, made, read_earlier(path, made))
        return self._parts[path]


def usage_by_network(
    plan: Plan, name: str, crops: Sequence[LabeledCrop], splits: RunSplits
) -> dict[str, list[str]]:
    """By network of a training, whether each crop trains or validates.

    Raises
    ------
    InputError
        See `data.datasplit.usage_by_split`, `RunSplits.parts` and
        `read_own_datasplit`.
    """
    training = plan.trainings[name]
    if training.datasplit and training.validation != "none":
        rows = read_own_datasplit(Path(training.datasplit), training.classes)
        return {name: [row.usage for row in rows]}
    parts = splits.parts(name)
    return {
        network: usage_by_split(crops, training.validation, parts, fold_of(network))
        for network in plan.networks_of(name)
    }


def check_sides(
    plan: Plan,
    name: str,
    crops: Sequence[LabeledCrop],
    usage: Mapping[str, Sequence[str]],
    problems: list[str],
    warnings: list[str],
) -> None:
    """Report classes of which one side has no labeled voxel.

    Parameters
    ----------
    plan
        The plan of the run.
    name
        The training.
    crops
        Its crops.
    usage
        By network, whether each crop trains or validates.
    problems, warnings
        Lists that lines are appended to.
    """
    training = plan.trainings[name]
    for network, sides in usage.items():
        holding = {
            label: [use for crop, use in zip(crops, sides, strict=True) if crop.present.get(label)]
            for label in training.classes
        }
        untrained = [label for label, uses in holding.items() if TRAIN not in uses]
        if untrained and len(usage) == 1:
            problems.append(
                f"training {name}: no crop that trains has a labeled voxel of "
                f"{', '.join(untrained)}: {_remedy(training)}, or leave it out of `classes`"
            )
        elif untrained:
            warnings.append(
                f"training {network}: no crop that trains has a labeled voxel of "
                f"{', '.join(untrained)}, so this fold's network does not learn it"
            )
    if training.validation == "held_out":
        groups = group_crops(crops, plan.config.split.by)
        together = {
            label
            for label in training.classes
            if len({g for g, c in zip(groups, crops, strict=True) if c.present.get(label)}) == 1
        }
        _check_validation(name, training, holding, together, problems, warnings)


def unknown_oversampled(
    plan: Plan, name: str, crops: Sequence[LabeledCrop], usage: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """List datasets that `oversample` names, but that no crop to train on comes from."""
    oversample = plan.trainings[name].oversample
    by_test = dict.fromkeys(plan.test_datasets, TEST_DATASETS_WEIGHT)
    # With `test`, datasets without crops to train on are no mistake.
    if not oversample or oversample.datasets in ("test", by_test):
        return
    known = {
        crop.dataset
        for sides in usage.values()
        for crop, use in zip(crops, sides, strict=True)
        if use == TRAIN
    }
    for dataset in oversample.datasets:
        if dataset not in known:
            yield (
                f"training {name}: oversample.datasets: no crop that trains is from {dataset!r}"
                f"{did_you_mean(dataset, sorted(known))}, only from {', '.join(sorted(known))}: "
                "correct the name, or leave it out"
            )


def leaked_validation(plan: Plan, sides: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """List networks that begin with, predict with, or learn from what saw their validation.

    Parameters
    ----------
    plan
        The plan of the run.
    sides
        By network, whether each crop trains or validates, by its name.
    """
    networks = {os.path.normpath(plan.paths.checkpoint(network)): network for network in sides}
    for network, uses in sides.items():
        for other, key in _all_origins(plan, network, networks).items():
            seen = sides.get(other, {})
            leaked = [c for c, use in uses.items() if use == VALIDATE and seen.get(c) == TRAIN]
            if leaked:
                yield (
                    f"training {network}: {key}: {other!r} trains on {len(leaked)} of the crops "
                    f"that validate {network!r}, such as {leaked[0]}, so their scores would say "
                    "nothing: take a network with the same split, or set `validation: "
                    "none` and `settings_from`"
                )


def _all_origins(plan: Plan, network: str, networks: Mapping[str, str]) -> dict[str, str]:
    """Find all networks that a network owes knowledge to, also through others.

    Returns
    -------
    By network, the key that leads to it. `networks` are those of the plan by the path of their
    checkpoint.
    """
    found: dict[str, str] = {}
    waiting = list(_origins(plan, network, networks))
    while waiting:
        key, other = waiting.pop(0)
        if other not in found:
            found[other] = key
            waiting += [(key, further) for _, further in _origins(plan, other, networks)]
    return found


def _origins(plan: Plan, network: str, networks: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the networks that a network directly learns from, each with the key that says so."""
    training = plan.trainings[training_of(network)]
    paths = {"inference.checkpoint": training.inference.checkpoint}
    if training.initial_weights:
        paths["initial_weights"] = training.initial_weights.path
    for key, path in paths.items():
        if (normal := os.path.normpath(path)) in networks:
            yield key, networks[normal]
    if teacher := plan.teacher_of(network):
        yield "teach.from", teacher


def _check_validation(
    name: str,
    training: Training,
    holding: Mapping[str, Sequence[str]],
    together: Collection[str],
    problems: list[str],
    warnings: list[str],
) -> None:
    """Report classes that no crop validates, given the sides of the crops that hold each class.

    One that a single crop holds, or crops that stay `together`, must train; with other crops, it is
    a fault of the split.
    """
    lacking = [label for label, uses in holding.items() if VALIDATE not in uses]
    avoidable = [label for label in lacking if label not in together]
    if avoidable and not training.datasplit:
        problems.append(
            f"training {name}: no crop that validates has a labeled voxel of "
            f"{', '.join(avoidable)}, although several crops have: {_remedy(training)}, or leave "
            "it out of `classes`"
        )
    elif lacking == list(training.classes):
        warnings.append(
            f"training {name}: no crop that validates has a labeled voxel of any class, so the "
            "validation loss decides which epoch is best, and no settings are tuned"
        )
    elif lacking:
        warnings.append(
            f"training {name}: no crop that validates has a labeled voxel of "
            f"{', '.join(lacking)}, so nothing shows how well it is learned, and its settings are "
            "not tuned"
        )


def _remedy(training: Training) -> str:
    """How to move a crop to the other side."""
    if training.datasplit:
        return f"move one of its crops to the other side in {training.datasplit}"
    return "set another `split.seed`, or list the sides of the crops in an own `datasplit`"
