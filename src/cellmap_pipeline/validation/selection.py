"""Selection of the source of each label: by validation score, per class and voxel size."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import size_ratio
from cellmap_pipeline.plan.sources import AVERAGE, format_voxel_size, named_sources, origin
from cellmap_pipeline.scoring.summary import Scores
from cellmap_pipeline.segmentation.final_labels import segment_crop
from cellmap_pipeline.segmentation.probabilities import Prediction

log = logging.getLogger(__name__)
COLUMNS = ["label", "voxel_size", "training", "score", "score_at_half", "measured_at", "crops",
           "chosen"]  # fmt: skip


def chosen_sources(
    row: CropLabel,
    sources: Sequence[str],
    select: str | Mapping[str, Any],
    scores: Mapping[str, Any],
) -> list[str]:
    """Choose the sources of a row's label: a single one, or several that are averaged.

    A source without a validation score for the label is chosen only if no source has one.

    Parameters
    ----------
    row
        A label of a test crop.
    sources
        Sources that can provide the label, in the order of the configuration.
    select
        `submission.select` of the run's configuration.
    scores
        Validation `scores.json` by name of a training or of external predictions.
    """
    if select == AVERAGE or named_sources(row, select):
        return list(sources)
    # The first one in the configuration wins a tie.
    return [max(sources, key=lambda name: score_entry(row, name, scores).get("score", -1.0))]


def score_entry(row: CropLabel, source: str, scores: Mapping[str, Any]) -> Scores:
    """Return the validation result of a source at the voxel size nearest to the row's, or {}."""
    classes = scores.get(origin(source), {}).get("classes", {})
    return nearest_entry(classes.get(row.label, {}).get("voxel_sizes", []), row)


def nearest_entry(entries: Sequence[dict[str, Any]], row: CropLabel) -> dict[str, Any]:
    """Return the entry whose `voxel_size` is nearest to a row's; {} if there are no entries."""
    return min(entries, key=lambda e: size_ratio(e["voxel_size"], row.grid.voxel_size), default={})


def selection_table(
    rows: Iterable[tuple[CropLabel, Sequence[str]]],
    select: str | Mapping[str, Any],
    scores: Mapping[str, Any],
) -> list[dict[str, str]]:
    """Make a table of the score of each source by label and voxel size, and whether it is chosen.

    Parameters
    ----------
    rows
        Labels that are submitted, each with the sources that can provide it.
    select, scores
        As for `chosen_sources`.
    """
    kinds = {(row.label, row.grid.voxel_size): (row, sources) for row, sources in rows}
    table = []
    for _, (row, sources) in sorted(kinds.items()):
        chosen = chosen_sources(row, sources, select, scores)
        for name in sources:
            found = score_entry(row, name, scores)
            table.append(
                {
                    "label": row.label,
                    "voxel_size": format_voxel_size(row.grid.voxel_size),
                    "training": name,
                    "score": f"{found['score']:.6f}" if found else "",
                    "score_at_half": f"{found['score_at_half']:.6f}" if found else "",
                    "measured_at": format_voxel_size(found["measured_at"]) if found else "",
                    "crops": str(len(found["crops"])) if found else "",
                    "chosen": "yes" if name in chosen else "no",
                }
            )
        if len(sources) > 1 and not any(score_entry(row, name, scores) for name in sources):
            log.warning(
                "%s at %s nm: no source has a validation score, %s is taken: name another in "
                "submission.select",
                row.label,
                format_voxel_size(row.grid.voxel_size),
                ", ".join(chosen),
            )
    return table


def select_map(table: Iterable[Mapping[str, str]]) -> str:
    """Format the choice as a `select:` map for the configuration.

    With it, only the chosen sources are predicted.
    """
    chosen: dict[str, dict[str, list[str]]] = {}
    for row in table:
        if row["chosen"] == "yes":
            chosen.setdefault(row["label"], {}).setdefault(row["voxel_size"], []).append(
                row["training"]
            )
    return "select: {" + ", ".join(f"{k}: {_choice(v)}" for k, v in chosen.items()) + "}"


def write_selection(table: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the table as `selection.csv`."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def read_scores(paths: Mapping[str, Path]) -> Scores:
    """Read JSON files, by name."""
    return {name: json.loads(path.read_text()) for name, path in paths.items()}


def _choice(by_size: Mapping[str, Sequence[str]]) -> str:
    texts = {
        size: names[0] if len(names) == 1 else f"[{', '.join(names)}]"
        for size, names in by_size.items()
    }
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    # A single number stands for three equal ones.
    keys = {size: size.split()[0] if len(set(size.split())) == 1 else f"'{size}'" for size in texts}
    return "{" + ", ".join(f"{keys[size]}: {text}" for size, text in texts.items()) + "}"


def select_and_segment(
    row: CropLabel,
    *,
    predictions: Mapping[str, Prediction],
    select: str,
    scores: Mapping[str, Any],
    tuned: Mapping[str, Any],
    configured: Mapping[str, Mapping[str, Any]],
    output: Path,
    threads: int = 1,
) -> None:
    """Make the label of a manifest row from the source with the best score, or the mean of several.

    Parameters
    ----------
    row
        Which label of which crop, on which grid.
    predictions
        Predictions of the label, by source.
    select
        `best` or `average`.
    scores
        Validation `scores.json` by name of a training or of external predictions.
    tuned
        Validation `postprocess.json`, by the same names and `average`.
    configured
        Post-processing settings of the configuration for the label, by source; they override tuned
        ones.
    output
        Where the label is written; see `segmentation.final_labels.segment_crop`.
    threads
        Number of threads or processes; it does not change the result.
    """
    chosen = chosen_sources(row, list(predictions), select, scores)
    entry: dict[str, Any] = {}
    names = [AVERAGE, *chosen] if len(chosen) > 1 else chosen
    for name in names:
        entry = nearest_entry(tuned.get(origin(name), {}).get(row.label, []), row)
        if entry:
            log.info(
                "%s from %s, with the settings tuned for %s", row.label, ", ".join(chosen), name
            )
            break
    else:
        log.info("%s from %s, with default settings", row.label, ", ".join(chosen))
    segment_crop(
        row,
        [predictions[name] for name in chosen],
        entry.get("settings", {}),
        configured.get(chosen[0], {}),
        output,
        threads,
    )
