"""Which training's prediction becomes the label: by validation score, per class and voxel size."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.manifest import CropLabel


def chosen_sources(
    label: str, sources: Iterable[str], select: str | Mapping[str, str], scores: Mapping[str, Any]
) -> list[str]:
    """The sources whose mean makes `label`: one of them, or all for `select: average`.

    Parameters
    ----------
    sources : those that give the label, in the order of the configuration.
    select : `submission.select` of the run's configuration.
    scores : by training, its validation `scores.json`.

    Raises
    ------
    InputError
        The best is asked for among several sources and one has no validation score.
    """
    names = list(sources)
    if isinstance(select, Mapping) and label in select:
        return [select[label]]
    if select == "average" or len(names) == 1:
        return names
    unscored = [name for name in names if label not in scores.get(name, {}).get("classes", {})]
    if unscored:
        raise InputError(
            f"submission.select: {label}: {', '.join(unscored)} has no validation score to be "
            f"compared by: name the one to take, for example `select: {{{label}: {names[0]}}}`"
        )
    # The first of the configuration wins a tie.
    return [max(names, key=lambda name: scores[name]["classes"][label]["score"])]


def selection_table(
    rows: Iterable[tuple[CropLabel, Sequence[str]]],
    select: str | Mapping[str, str],
    scores: Mapping[str, Any],
) -> list[dict[str, str]]:
    """A row per label, voxel size and source: its validation score and whether it is chosen.

    Parameters
    ----------
    rows : what is submitted, each with the sources that give it.
    select, scores : as for `chosen_sources`.
    """
    kinds = {(row.label, row.grid.voxel_size): sources for row, sources in rows}
    table = []
    for (label, voxel_size), sources in sorted(kinds.items()):
        chosen = chosen_sources(label, sources, select, scores)
        for name in sources:
            score = scores.get(name, {}).get("classes", {}).get(label, {}).get("score")
            table.append(
                {
                    "label": label,
                    "voxel_size": " ".join(f"{v:g}" for v in voxel_size),
                    "training": name,
                    "score": "" if score is None else f"{score:.6f}",
                    "chosen": "yes" if name in chosen else "no",
                }
            )
    return table


def select_map(table: Iterable[Mapping[str, str]]) -> str:
    """The choice as a `select:` map to paste into the configuration, so that only what is chosen
    is predicted; of a label chosen from different trainings by voxel size, the first is named.
    """
    chosen: dict[str, str] = {}
    for row in table:
        if row["chosen"] == "yes":
            chosen.setdefault(row["label"], row["training"])
    return "select: {" + ", ".join(f"{label}: {name}" for label, name in chosen.items()) + "}"


def write_selection(table: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the table as `selection.csv`."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        columns = ["label", "voxel_size", "training", "score", "chosen"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def read_scores(paths: Mapping[str, Path]) -> dict[str, Any]:
    """By training, its validation scores."""
    return {name: json.loads(path.read_text()) for name, path in paths.items()}
