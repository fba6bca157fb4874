"""The opening page of the report."""

import html
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_parts
from jinja2 import Environment

from cellmap_pipeline.classes import CLASSES
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.report.opening_page import Opening, Preview, write_opening_page
from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES, rules_named

GRID = Grid((8, 8, 8), (0, 0, 0), (16, 16, 16))
MITO, NUC, PM = (CropLabel(5, "d", label, GRID) for label in ("mito", "nuc", "pm"))
MITO_6 = replace(MITO, crop=6)
SELECTION = pd.DataFrame(
    [
        ("mito", "8 8 8", "small", "0.25", "yes"),
        ("mito", "4 4 4", "large", "0.75", "yes"),
        ("mito", "4 4 4", "small", "0.65", ""),
        ("pm", "8 8 8", "large", "0.5", "yes"),
    ],
    columns=["label", "voxel_size", "training", "score", "chosen"],
)
JOBS = pd.DataFrame(
    [("train", 2.0, 4.0), ("train", 1.0, 2.0), ("predict", 0.5, np.nan)],
    columns=["rule", "hours", "gpu_hours"],
)


@pytest.fixture
def opening(tmp_path):
    zip_path = tmp_path / "submission.zip"
    zip_path.write_bytes(bytes(2_500_000))
    return Opening(
        rows=[MITO, MITO_6, PM],
        submitted=[MITO, MITO_6, PM],
        empty=[],
        zip_path=zip_path,
        problems=[],
        selection=SELECTION,
        scores=None,
        rules=rules_named(NEWEST_RULES),
        jobs=JOBS,
        previews=[],
    )


def page_of(opening, description="The end."):
    """The page as Snakemake's report shows it, and its text."""
    path = opening.zip_path.parent / "opening.rst"
    write_opening_page(opening, description, path)
    page = publish_parts(Environment().from_string(path.read_text()).render(), writer="html5")[
        "html_body"
    ]
    assert "system-message" not in page
    return page, " ".join(re.sub("<style>.*</style>|<[^>]*>", " ", page, flags=re.S).split())


def test_a_complete_submission_shows_validation_scores(opening):
    page, text = page_of(opening)
    assert "submission.zip contains 3 of 3 labels, in 2 crops (2.5 MB). Its check found no" in text
    score = opening.rules.overall_score([0.5], [0.5])
    assert f"{score:.3f} is the score of 2 validated classes on validation crops" in text
    assert "mito 0.500 2 of 2 small, large" in text
    assert "the ground truth of the test crops is not known" in text
    assert "All jobs together took 3.5 h, and 6.0 GPU hours; most of it: train: 3.0 h," in text
    assert "Missing" not in text
    assert text.endswith("The end.")


def test_official_scores_go_before_validation_scores(opening):
    labels = {"mito": {"combined_score": 0.125}, "pm": {"iou": 0.625}}
    scores = {
        "label_scores": labels,
        "overall_score": 0.28,
        "overall_instance_score": 0.125,
        "overall_semantic_score": 0.625,
    }
    _, text = page_of(replace(opening, scores=scores))
    assert "0.280 is the official score of the test crops" in text
    assert "mito 0.125 2 of 2" in text and "validation crops" not in text


def test_missing_labels_and_what_each_class_would_add_are_listed(opening):
    rows = [MITO, MITO_6, PM, NUC]
    _, text = page_of(replace(opening, rows=rows, submitted=[MITO, PM]))
    bounds = [
        opening.rules.overall_score([of_mito, of_nuc], [1.0])
        for of_mito, of_nuc in ((score_of(opening, 1, 1), 0), (1, 0), (score_of(opening, 1, 1), 1))
    ]
    assert "Of 4 labels, 2 are not submitted." in text
    assert f"about {bounds[0]:.3f} instead of 1" in text
    nuc, mito = f"{bounds[2] - bounds[0]:.3f}", f"{bounds[1] - bounds[0]:.3f}"
    assert f"nuc in all crops: {nuc} mito in 1 crop: {mito}" in text


def score_of(opening, found, missed):
    """Score of an instance class of which `found` objects are perfect and `missed` are missing."""
    from cellmap_pipeline.scoring.rules.base import Counts

    return opening.rules.score(Counts(tp=found, score_sum=float(found), fn=missed), instance=True)


def test_labels_that_are_submitted_empty_are_missing(opening):
    rows = [MITO, MITO_6, PM, NUC]
    _, missing = page_of(replace(opening, rows=rows))
    _, empty = page_of(replace(opening, rows=rows, submitted=rows, empty={NUC}))
    assert "contains 4 of 4 labels" in empty and "Of 4 labels, 1 is submitted empty." in empty
    _, both = page_of(replace(opening, rows=rows, submitted=[MITO, NUC], empty={NUC}))
    assert "Of 4 labels, 1 is submitted empty and 2 are not submitted." in both
    assert missing.partition("If all others")[2] == empty.partition("If all others")[2] != ""


def test_all_classes_from_sources_with_long_names_fit_the_page(opening):
    rows = [CropLabel(5, "d", label, GRID) for label in CLASSES]
    chosen = [(label, "8 8 8", f"source_{i}_{'x' * 80}", "0.5", "yes")
              for label in CLASSES for i in range(3)]  # fmt: skip
    selection = pd.DataFrame(chosen, columns=SELECTION.columns)
    problems = [{"severity": "costs", "crop": "", "label": "", "message": "word " * 3000}]
    _, text = page_of(
        replace(opening, rows=rows, submitted=rows, selection=selection, problems=problems)
    )
    assert f"{CLASSES[-1]} 0.500 1 of 1 source_0_" in text


@pytest.mark.parametrize(
    ("size", "shown"), [(40_000, "0.04 MB"), (250_400_000, "250 MB"), (2**31, "2,147 MB")]
)
def test_the_size_of_the_submission_is_readable(opening, size, shown):
    with opening.zip_path.open("wb") as file:
        file.truncate(size)
    assert f"({shown})" in page_of(opening)[1]


def test_a_run_without_benchmarks_says_so(opening):
    assert "The times of the jobs were not recorded." in page_of(replace(opening, jobs=JOBS[:0]))[1]


def test_without_any_scores_the_page_says_so(opening):
    selection = SELECTION.assign(score="")
    _, text = page_of(replace(opening, selection=selection))
    assert "Neither the ground truth nor validation scores are known." in text
    assert "mito not known 2 of 2" in text


def test_problems_of_the_submission_are_listed(opening):
    problems = [
        {"severity": "costs", "crop": "crop5", "label": "mito", "message": f"<{i}> empty"}
        for i in range(7)
    ]
    page, text = page_of(replace(opening, problems=problems))
    assert "crop5/mito: &lt;0&gt; empty" in page
    assert "submission_check.json lists 2 more." in text


def test_pictures_are_embedded_and_braces_are_kept_from_jinja(opening, tmp_path):
    picture = tmp_path / "a.jpg"
    picture.write_bytes(bytes(range(256)) * 80)
    name = "d{{x}}%41"
    page, text = page_of(
        replace(opening, previews=[Preview(name, 5, picture, f"figures/{name}/crop5.jpg")])
    )
    assert f"{name}, crop 5" in text
    # Browsers decode a link's code, so that %41 would become A.
    (link,) = re.findall('href="javascript:([^"]*)"', page)
    assert f'"figures/{name}/crop5.jpg"' in unquote(html.unescape(link))
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)
    assert len("".join(data.split())) == 4 * -(-256 * 80 // 3)
    assert max(map(len, page.splitlines())) < 10_000
    assert "results[path].data_uri" in unquote(page)


def test_the_description_of_the_workflow_is_valid(opening):
    root = Path(__file__).parents[3]
    _, text = page_of(opening, (root / "workflow/report/workflow.rst").read_text())
    assert "This page describes one run" in text
