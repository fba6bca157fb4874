"""The report's opening page: what was submitted, how good it is, what is missing, and its cost."""

from __future__ import annotations

import base64
import html
import json
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from cellmap_pipeline.classes import in_class_order, is_instance, style_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.report.figures.resources import duration_text
from cellmap_pipeline.scoring.rules.base import Rules
from cellmap_pipeline.scoring.summary import primary_score
from cellmap_pipeline.scoring.upper_bound import score_upper_bound

MAX_LISTED_RULES = 5
MAX_LISTED_PROBLEMS = 5
MAX_LISTED_CLASSES = 12
CROPS_TEXT = (
    "<p>Final labels over the raw, in the colors of the table above; labels that cover more than "
    "half of a picture are left out. A click opens the figure of the crop.</p>"
)
# Shows a figure of Snakemake's report, with its caption.
OPEN_FIGURE = (
    "((path) => app.setView({navbarMode: 'resultinfo', resultPath: path, "
    "content: 'img', contentPath: results[path].data_uri}))(%s)"
)
# Docutils refuses a page with a line of more than 10,000 characters.
MAX_LINE_LENGTH = 4000
# Snakemake's page centers its contents, which puts the head of a long page out of reach.
STYLE = """<style>
.h-screen:has(.opening) { align-items: flex-start; }
.opening table { font-size: 0.8rem; margin: 0.4em 0 1em 0; }
.opening td, .opening th { padding: 0.1em 0.7em 0.1em 0; text-align: left; }
.opening .bar { background: #e5e7eb; display: inline-block; height: 0.7em; width: 8em; }
.opening .bar span { display: block; height: 100%; }
.opening figure { display: inline-block; margin: 0 0.6em 0.6em 0; vertical-align: top; }
.opening img { display: block; margin: 0; max-width: 240px; }
.opening .big { font-size: 2rem; font-weight: bold; margin: 0.2em 0; }
</style>"""


@dataclass(frozen=True)
class Preview:
    """A picture of a test crop on the opening page.

    Attributes
    ----------
    dataset, crop
        The test crop.
    picture
        JPEG to embed.
    figure
        Path of the report's full figure of the crop, which a click opens.
    """

    dataset: str
    crop: int
    picture: Path
    figure: str


@dataclass(frozen=True)
class Opening:
    """Contents of the opening page.

    Attributes
    ----------
    rows
        All labels that the challenge asks for.
    submitted
        Labels that the submission contains.
    empty
        Labels among them that no source provides, so that they are empty (`missing: empty`).
    zip_path
        The submission.
    problems
        Problems that its check found, as `submission.check.Problem` has them.
    selection
        `selection.csv`, all columns as text.
    scores
        Official scores of the submission; None if the ground truth is not known.
    rules
        The evaluator's rules.
    jobs
        Time and GPU use of each job, as `read_benchmarks` returns them.
    previews
        A picture of each test crop.
    """

    rows: Sequence[CropLabel]
    submitted: Sequence[CropLabel]
    empty: Collection[CropLabel]
    zip_path: Path
    problems: Sequence[Mapping[str, Any]]
    selection: pd.DataFrame
    scores: Mapping[str, Any] | None
    rules: Rules
    jobs: pd.DataFrame
    previews: Sequence[Preview]


def write_opening_page(opening: Opening, description: str, path: Path) -> None:
    """Write the opening page as reStructuredText, the form that Snakemake's report takes.

    Parameters
    ----------
    opening
        Its contents.
    description
        Text about the workflow that follows, reStructuredText.
    path
        File to write.
    """
    page = "\n".join(
        [STYLE, '<div class="opening">']
        + _submission_html(opening)
        + _scores_html(opening)
        + _missing_html(opening)
        + _time_html(opening.jobs)
        + _crops_html(opening.previews)
        + ["</div>"]
    )
    # Snakemake renders the text by Jinja, so that a name with braces must be kept from it.
    raw = "\n".join(f"   {line}" for line in page.splitlines())
    with atomic_write(path) as tmp:
        tmp.write_text(
            f"{{% raw %}}\n.. raw:: html\n\n{raw}\n{{% endraw %}}\n\n{description}",
            encoding="utf-8",
        )


def _submission_html(opening: Opening) -> list[str]:
    crops = len({row.crop for row in opening.submitted})
    parts = [
        "<h1>The submission</h1>",
        f"<p>{html.escape(opening.zip_path.name)} contains {len(opening.submitted)} of "
        f"{len(opening.rows)} labels, in {_count(crops, 'crop')} "
        f"({_size_text(opening.zip_path.stat().st_size)}).",
    ]
    if not opening.problems:
        return [*parts, " Its check found no problems.</p>"]
    messages = [_problem_text(problem) for problem in opening.problems]
    items = _items(messages, MAX_LISTED_PROBLEMS, "submission_check.json lists {} more.")
    return [
        *parts,
        " It would be accepted, but its check found problems that cost score:</p>",
        f"<ul>{items}</ul>",
    ]


def _size_text(size_bytes: int) -> str:
    size_mb = size_bytes / 1e6
    return f"{size_mb:.2g} MB" if size_mb < 10 else f"{size_mb:,.0f} MB"


def _problem_text(problem: Mapping[str, Any]) -> str:
    place = "/".join(problem[key] for key in ("crop", "label") if problem[key])
    return f"{place}: {problem['message']}" if place else problem["message"]


def _scores_html(opening: Opening) -> list[str]:
    if opening.scores is not None:
        shown = {
            label: primary_score(score) for label, score in opening.scores["label_scores"].items()
        }
        overall = opening.scores["overall_score"]
        origin = f"the official score of the test crops, by the rules of {opening.rules.name}"
    else:
        shown = _validation_scores(opening)
        overall = opening.rules.overall_score(*_by_kind(shown).values())
        origin = (
            f"the score of {_count(len(shown), 'validated class', 'es')} on validation crops, by "
            f"the rules of {opening.rules.name}; the ground truth of the test crops is not known"
        )
    parts = ["<h1>How good it is</h1>"]
    if not shown:
        parts.append("<p>Neither the ground truth nor validation scores are known.</p>")
    else:
        means = [
            f"{kind} classes {sum(scores) / len(scores):.3f}" if scores else f"no {kind} class"
            for kind, scores in _by_kind(shown).items()
        ]
        parts.append(f'<p class="big">{overall:.3f}</p>')
        parts.append(f"<p>is {html.escape(origin)} ({', '.join(means)}).</p>")
    return [*parts, _class_table(opening, shown)]


def _by_kind(scores: Mapping[str, float]) -> dict[str, list[float]]:
    kinds: dict[str, list[float]] = {"instance": [], "semantic": []}
    for label, score in scores.items():
        kinds["instance" if is_instance(label) else "semantic"].append(score)
    return kinds


def _validation_scores(opening: Opening) -> dict[str, float]:
    """By class, the mean validation score of the sources that provide its labels."""
    chosen = opening.selection[opening.selection["chosen"] == "yes"]
    scores = pd.to_numeric(chosen["score"]).groupby(chosen["label"]).mean().dropna()
    return {str(label): float(score) for label, score in scores.items()}


def _class_table(opening: Opening, scores: Mapping[str, float]) -> str:
    asked = _count_by_class(opening.rows)
    submitted = _count_by_class(opening.submitted)
    chosen = opening.selection[opening.selection["chosen"] == "yes"]
    sources = chosen.groupby("label")["training"].unique()
    lines = ["<tr><th>class</th><th>score</th><th></th><th>labels</th><th>from</th></tr>"]
    for label in in_class_order(sorted(submitted)):
        score = scores.get(label)
        color = style_of(label).color
        bar = f'<div class="bar"><span style="width:{100 * (score or 0):.0f}%;background:{color}">'
        lines.append(
            f"<tr><td>{html.escape(label)}</td>"
            f"<td>{'not known' if score is None else f'{score:.3f}'}</td>"
            f"<td>{bar}</span></div></td>"
            f"<td>{submitted[label]} of {asked[label]}</td>"
            f"<td>{html.escape(', '.join(sources.get(label, ())))}</td></tr>"
        )
    return "\n".join(["<table>", *lines, "</table>"])


def _missing_html(opening: Opening) -> list[str]:
    provided = set(opening.submitted) - set(opening.empty)
    missing = [row for row in opening.rows if row not in provided]
    if not missing:
        return []
    bound = _bound(opening, provided)
    counts, asked = _count_by_class(missing), _count_by_class(opening.rows)
    entries = []
    for label in in_class_order(sorted(counts)):
        gain = _bound(opening, provided | {row for row in missing if row.label == label}) - bound
        place = "all crops" if counts[label] == asked[label] else _count(counts[label], "crop")
        entries.append((gain, f"{label} in {place}: {gain:.3f}"))
    n_empty = len(set(missing) & set(opening.empty))
    how = [
        f"{number} {'is' if number == 1 else 'are'} {text}"
        for number, text in (
            (n_empty, "submitted empty"), (len(missing) - n_empty, "not submitted"),
        )
        if number
    ]  # fmt: skip
    text = (
        f"Of {len(opening.rows)} labels, {' and '.join(how)}. If all others "
        f"were perfect, the overall score would be about {bound:.3f} instead of 1. This is what "
        "perfect labels of a class would add:"
    )
    entries.sort(key=lambda entry: -entry[0])
    items = _items([text for _, text in entries], MAX_LISTED_CLASSES, "{} more classes")
    return ["<h1>Missing labels and what they cost</h1>", f"<p>{text}</p>", f"<ul>{items}</ul>"]


def _bound(opening: Opening, submitted: Collection[CropLabel]) -> float:
    return score_upper_bound(opening.rows, submitted, opening.rules)["overall"]


def _time_html(jobs: pd.DataFrame) -> list[str]:
    title = "<h1>What it took</h1>"
    if jobs.empty:
        return [title, "<p>The times of the jobs were not recorded.</p>"]
    hours = jobs.groupby("rule")["hours"].sum().sort_values(ascending=False)
    gpu_hours = float(jobs["gpu_hours"].sum())
    text = f"All jobs together took {duration_text(float(hours.sum()))}"
    text += f", and {gpu_hours:.1f} GPU hours" if gpu_hours else ""
    listed = [
        f"{rule}: {duration_text(float(hours[rule]))}" for rule in hours.index[:MAX_LISTED_RULES]
    ]
    return [
        title,
        f"<p>{text}; most of it: {html.escape(', '.join(listed))}. Of a job that was interrupted "
        "and resumed, only the last run counts.</p>",
    ]


def _crops_html(previews: Sequence[Preview]) -> list[str]:
    parts = ["<h1>The test crops</h1>", CROPS_TEXT]
    for preview in previews:
        data = base64.b64encode(preview.picture.read_bytes()).decode("ascii")
        data = "\n".join(textwrap.wrap(data, MAX_LINE_LENGTH))
        name = html.escape(f"{preview.dataset}, crop {preview.crop}")
        # Browsers decode the code of a link before they run it.
        link = "javascript:" + quote(OPEN_FIGURE % json.dumps(preview.figure))
        parts.append(
            f'<figure><a href="{html.escape(link)}">'
            f'<img alt="{name}" src="data:image/jpeg;base64,{data}"></a>'
            f"<figcaption>{name}</figcaption></figure>"
        )
    return parts


def _items(entries: Sequence[str], most: int, rest: str) -> str:
    shown = [html.escape(entry) for entry in entries[:most]]
    if len(entries) > most:
        shown.append(html.escape(rest.format(len(entries) - most)))
    wrapped = (textwrap.fill(entry, MAX_LINE_LENGTH, break_on_hyphens=False) for entry in shown)
    return "\n".join(f"<li>{entry}</li>" for entry in wrapped)


def _count_by_class(rows: Iterable[CropLabel]) -> Counter[str]:
    return Counter(row.label for row in rows)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
