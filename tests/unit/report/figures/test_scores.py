"""Figures of scores."""

import json

import pytest

from cellmap_pipeline.report.figures.scores import (
    plot_leaderboard,
    plot_scores,
    plot_selection,
    plot_validation,
)
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.summary import combine, write_csv
from tests.support.figures import curves_in, texts_by_cell, texts_in


def voxel_size_scores(curve):
    return {"curve": curve, "measured_at": [3.48, 4, 4]}


def test_validation_shows_tuned_and_untuned_scores_and_curves(tmp_path, drawn):
    curve = [{"threshold": t, "score": s} for t, s in ((0.7, 0.3), (0.3, 0.6), (0.5, 0.5))]
    scores = {
        "classes": {
            "pm": {"score": 0.2, "score_at_half": 0.2, "voxel_sizes": [voxel_size_scores([])]},
            "mito": {
                "score": 0.6, "cross_fitted_score": 0.55, "score_at_half": 0.5,
                "voxel_sizes": [voxel_size_scores(curve)],
            },
        },
        "overall_score": 0.3464,
        "overall_instance_score": 0.6,
        "overall_semantic_score": 0.2,
    }  # fmt: skip
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    settings = {"method": "watershed_boundary", "threshold": 0.3}
    tuned = [{"voxel_size": [3.48, 4, 4], "settings": settings}]
    tuned.append({"voxel_size": [8, 8, 8], "settings": settings | {"threshold": 0.4}})
    plain = {"voxel_size": [8, 8, 8], "settings": {"method": "threshold", "threshold": 0.55}}
    (tmp_path / "post.json").write_text(json.dumps({"mito": tuned, "pm": [plain, plain]}))
    plot_validation(tmp_path / "scores.json", tmp_path / "post.json", tmp_path / "a.png")
    bars, curves = drawn[0].get_axes() or [ax for sub in drawn[0].subfigs for ax in sub.axes]
    assert texts_in(bars) == [
        "0.600",
        "0.200",
        "3.48 × 4 × 4 nm: watershed_boundary ≥ 0.30; 8 nm: watershed_boundary ≥ 0.40",
        "threshold ≥ 0.55",
    ]
    assert [bar.get_width() for bar in bars.patches] == [0.6, 0.2]
    assert curves_in(bars)["not tuned: threshold 0.5"].tolist() == [[0.5, 0], [0.2, 1]]
    assert curves_in(bars)["cross-fitted: tuned on other crops"].tolist() == [[0.55, 0]]
    assert curves_in(curves)["mito, 3.48 × 4 × 4 nm"].tolist() == [
        [0.3, 0.6],
        [0.5, 0.5],
        [0.7, 0.3],
    ]
    assert [0.3, 0.6] in [
        line.get_xydata()[0].tolist() for line in curves.lines if len(line.get_xdata()) == 1
    ]
    assert "overall 0.346" in bars.get_title()


def test_chosen_sources_are_framed(tmp_path, drawn):
    path = tmp_path / "selection.csv"
    path.write_text(
        "label,voxel_size,training,score,shared_score,standard_error,open,chosen\n"
        "mito,16 16 16,a,0.500000,0.600000,0.050000,no,no\n"
        "mito,16 16 16,b,0.700000,0.700000,,no,yes\n"
        "mito,3.48 4 4,a,0.900000,,,,yes\npm,16 16 16,b,,,,,yes\n"
        "nuc,16 16 16,a,0.800000,0.820000,,yes,yes\n"
        "nuc,16 16 16,b,0.800000,0.810000,0.030000,yes,yes\n"
    )
    plot_selection(path, tmp_path / "a.png")
    axes, differences = drawn[0].axes
    rows = [tick.get_text() for tick in axes.get_yticklabels()]
    assert rows == ["nuc, 16 nm (open)", "mito, 3.48 × 4 × 4 nm", "mito, 16 nm", "pm, 16 nm"]
    texts = texts_by_cell(axes)
    assert texts == {
        (0, 0): "0.820 ✓", (1, 0): "0.810 ✓", (0, 1): "0.900 ✓", (0, 2): "0.600",
        (1, 2): "0.700 ✓", (1, 3): "no score ✓",
    }  # fmt: skip
    frames = [patch for patch in axes.patches if not patch.get_fill()]
    assert len(frames) == 5
    a, b = differences.containers
    assert a.lines[0].get_xdata().tolist() == pytest.approx([-0.1, 0])
    assert b.lines[0].get_xdata().tolist() == pytest.approx([0, -0.01])
    (bars,) = a.lines[2]
    assert bars.get_segments()[0][:, 0].tolist() == pytest.approx([-0.15, -0.05])


def test_scores_are_drawn_by_class_and_by_crop(tmp_path, drawn):
    instance = {"tp": 1, "fp": 0, "fn": 0, "hausdorff_norm_sum": 0.25, "n_hausdorff": 1}
    per_crop = {
        "crop12": {
            "mito": instance | {"status": "scored"},
            "pm": {"tp": 1, "fp": 1, "fn": 2, "status": "scored"},
        },
        "crop7": {"pm": {"tp": 0, "fp": 0, "fn": 4, "status": "missing"}},
    }
    write_csv(per_crop | combine(per_crop, RULES["2026-06-30"]), tmp_path / "scores.csv")
    plot_scores(tmp_path / "scores.csv", tmp_path / "a.png")
    bars, cells = drawn[0].axes
    assert texts_in(bars) == ["0.500", "0.125"]
    assert bars.get_title().endswith("\nrules of 2026-06-30")
    assert bars.get_xlabel() == "instances: combined score; others: IoU"
    assert curves_in(bars)["F1: objects found"].tolist() == [[1, 0]]
    assert curves_in(bars)["Hausdorff: outlines"].tolist() == [[0.25, 0]]
    assert [tick.get_text() for tick in cells.get_xticklabels()] == ["crop7", "crop12"]
    texts = texts_by_cell(cells)
    assert texts == {(1, 0): "0.50", (1, 1): "0.25", (0, 1): "missing"}
    assert len(cells.patches) == 2


def test_leaderboard_compares_trainings_and_the_submission(tmp_path, drawn):
    (tmp_path / "leaderboard.csv").write_text(
        "name,scored_on,rules,classes,overall_score,overall_instance_score,overall_semantic_score,mito,pm\n"
        "submission,test,2026-07,1,0.25,0.5,0.125,,0.125\nsmall,validation,2026-07,2,0.5,0.5,0.5,0.75,0.25\n"
    )
    plot_leaderboard(tmp_path / "leaderboard.csv", tmp_path / "a.png")
    (cells,) = drawn[0].axes
    columns = [tick.get_text() for tick in cells.get_xticklabels()]
    assert columns == ["submission\n(test)", "small\n(validation)"]
    rows = [tick.get_text() for tick in cells.get_yticklabels()]
    assert rows == [
        "overall score", "overall instance score", "overall semantic score", "mito", "pm"
    ]  # fmt: skip
    texts = texts_by_cell(cells)
    assert cells.get_title().startswith("scores by the rules of 2026-07;")
    assert texts[0, 0] == "0.250"
    assert texts[1, 3] == "0.750"
    assert (0, 3) not in texts
