"""Selection of the sources of each label: by validation score, per class and voxel size."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import size_ratio
from cellmap_pipeline.plan.sources import AVERAGE, format_voxel_size, named_sources, origin
from cellmap_pipeline.scoring.rules.registry import rules_named
from cellmap_pipeline.scoring.summary import Scores
from cellmap_pipeline.segmentation.final_labels import segment_crop
from cellmap_pipeline.segmentation.probabilities import Prediction
from cellmap_pipeline.validation.comparison import Comparison, compare

log = logging.getLogger(__name__)
COLUMNS = ["label", "voxel_size", "training", "score", "score_at_half", "measured_at", "crops",
           "shared_crops", "shared_score", "standard_error", "open", "chosen"]  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The sources that a row's label is made from.

    Attributes
    ----------
    sources
        A single one, or several that are averaged.
    tuned_for
        Names whose tuned settings may be used, first choice first.
    comparison
        Comparison of the sources with a score; None if there was nothing to compare.
    """

    sources: list[str]
    tuned_for: list[str]
    comparison: Comparison | None = None


def choose(
    row: CropLabel,
    sources: Sequence[str],
    select: str | Mapping[str, Any],
    scores: Mapping[str, Any],
) -> Choice:
    """Choose the sources of a row's label.

    A source without a validation score for the label is chosen only if no source has one. If noise
    could turn the choice of the best source, the average of all sources that may be as good is
    taken, or the first of them if they have different auxiliary channels.

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
        names = list(sources)
        return Choice(names, [AVERAGE, *names] if len(names) > 1 else names)
    entries = {name: entry for name in sources if (entry := score_entry(row, name, scores))}
    if len(entries) < 2:
        name = next(iter(entries), sources[0])
        return Choice([name], [name])
    # All scores of a run follow the same rules.
    rules = rules_named(scores[origin(next(iter(entries)))]["rules"])
    instance = is_instance(row.label)
    found = compare(
        {
            name: {crop: rules.counts(one, instance) for crop, one in entry["by_crop"].items()}
            for name, entry in entries.items()
        },
        rules,
        instance,
    )
    chosen = list(found.contenders)
    if len({tuple(entries[name]["auxiliary"]) for name in chosen}) > 1:
        chosen = chosen[:1]
    return Choice(chosen, [found.best, *chosen] if len(chosen) > 1 else chosen, found)


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
        As for `choose`.
    """
    kinds = {(row.label, row.grid.voxel_size): (row, sources) for row, sources in rows}
    table = []
    for _, (row, sources) in sorted(kinds.items()):
        choice = choose(row, sources, select, scores)
        entries = {name: score_entry(row, name, scores) for name in sources}
        for name, entry in entries.items():
            table.append(
                {
                    "label": row.label,
                    "voxel_size": format_voxel_size(row.grid.voxel_size),
                    "training": name,
                    "score": f"{entry['score']:.6f}" if entry else "",
                    "score_at_half": f"{entry['score_at_half']:.6f}" if entry else "",
                    "measured_at": format_voxel_size(entry["measured_at"]) if entry else "",
                    "crops": str(len(entry["crops"])) if entry else "",
                    **_comparison_columns(name, choice.comparison),
                    "chosen": "yes" if name in choice.sources else "no",
                }
            )
        _warn_of_scores(row, choice, any(entries.values()), len(sources))
    return table


def _comparison_columns(name: str, found: Comparison | None) -> dict[str, str]:
    if found is None or name not in found.scores:
        return dict.fromkeys(("shared_crops", "shared_score", "standard_error", "open"), "")
    return {
        "shared_crops": str(found.n_crops),
        "shared_score": f"{found.scores[name]:.6f}",
        "standard_error": f"{found.errors[name]:.6f}" if name in found.errors else "",
        "open": "yes" if found.is_open else "no",
    }


def _warn_of_scores(row: CropLabel, choice: Choice, scored: bool, n_sources: int) -> None:
    """Warn of a choice without a score, or by scores on different crops."""
    label = f"{row.label} at {format_voxel_size(row.grid.voxel_size)} nm"
    chosen = ", ".join(choice.sources)
    if n_sources > 1 and not scored:
        log.warning(
            "%s: no source has a validation score, %s is taken: name another in submission.select",
            label, chosen,
        )  # fmt: skip
    elif choice.comparison and not choice.comparison.n_crops:
        log.warning(
            "%s: %s share no validation crop with the label, so they are compared by scores on "
            "different crops, and %s is taken: let them validate on the same crops, or name one in "
            "submission.select",
            label, ", ".join(choice.comparison.scores), chosen,
        )  # fmt: skip


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
    choice = choose(row, list(predictions), select, scores)
    chosen = ", ".join(choice.sources)
    entry: dict[str, Any] = {}
    for name in choice.tuned_for:
        entry = nearest_entry(tuned.get(origin(name), {}).get(row.label, []), row)
        if entry:
            log.info("%s from %s, with the settings tuned for %s", row.label, chosen, name)
            break
    else:
        log.info("%s from %s, with default settings", row.label, chosen)
    segment_crop(
        row,
        [predictions[name] for name in choice.sources],
        entry.get("settings", {}),
        configured.get(choice.sources[0], {}),
        output,
        threads,
    )
