"""Pictures of the labels with the best and worst scores."""

import numpy as np
import pytest

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.figures.cases import ScoredLabel, best_and_worst, plot_cases
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.summary import combine, write_csv
from tests.support.figures import GRID, texts_in, write_label


def make_scores(n, missing=()):
    """Scores of `er` in crops 1 to n, which increase with the number of the crop."""
    per_crop = {
        f"crop{i}": {"er": {"tp": i, "fp": 10 - i, "fn": 1, "status": "scored"}}
        for i in range(1, n + 1)
    }
    for i in missing:
        per_crop[f"crop{i}"]["er"]["status"] = "missing"
    return per_crop | combine(per_crop, RULES["2026-06-30"])


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (9, ["best 9", "best 8", "best 7", "worst 1", "worst 2", "worst 3"]),
        (3, ["best 3", "best 2", "worst 1"]),
        (1, ["best 1"]),
    ],
    ids=["nine scored labels", "three scored labels", "one scored label"],
)
def test_labels_with_the_best_and_the_worst_scores_are_chosen(tmp_path, n, expected):
    write_csv(make_scores(n), tmp_path / "scores.csv")
    rows = [CropLabel(i, "a-1", "er", GRID) for i in range(1, n + 1)]
    cases = best_and_worst(tmp_path / "scores.csv", rows)
    assert [f"{case.kind} {case.row.crop}" for case in cases] == expected
    assert cases[0].score == pytest.approx(n / 11)


def test_only_labels_that_were_predicted_and_scored_are_chosen(tmp_path):
    per_crop = make_scores(4, missing=[3])
    per_crop["crop2"]["er"] |= {"tp": 0, "fn": 0}  # absent from the ground truth
    per_crop["crop1"]["er_mask"] = per_crop["crop1"]["er"]
    write_csv(per_crop, tmp_path / "scores.csv")
    rows = [CropLabel(i, "a-1", "er", GRID) for i in (1, 2, 3)]
    (case,) = best_and_worst(tmp_path / "scores.csv", rows)
    assert (case.row, case.kind) == (rows[0], "best")


def test_labels_are_drawn_with_ground_truth_and_prediction(tmp_path, drawn):
    rng = np.random.default_rng(0)
    values = (rng.random(GRID.shape) < 0.2).astype(np.uint8)
    for folder in ("predicted/a-1/crop1", "truth/crop1"):
        (tmp_path / folder).mkdir(parents=True)
        write_label(tmp_path / folder, "er", values)
    cases = [ScoredLabel(kind, CropLabel(1, "a-1", "er", GRID), 0.5) for kind in ("best", "worst")]
    raw = Volume.open(write_label(tmp_path, "raw", values).volume.path)
    plot_cases(cases, {"a-1": raw}, tmp_path / "predicted", tmp_path / "truth", tmp_path / "a.png")
    titles = [ax.get_title() or ax.get_title(loc="left") for ax in drawn[0].axes]
    assert titles == [
        "best: er, crop 1: 0.500", "ground truth", "prediction",
        "worst: er, crop 1: 0.500", "ground truth", "prediction",
    ]  # fmt: skip
    plot_cases([], {}, tmp_path, tmp_path, tmp_path / "b.png")
    assert [text for ax in drawn[1].axes for text in texts_in(ax)] == ["no label was scored"]
