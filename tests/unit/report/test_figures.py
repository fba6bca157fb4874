"""Figures: what they show, and that a class looks the same in all of them."""

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cellmap_pipeline.classes import CLASSES, COLOURS, in_order, look_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.report import cases as figures_cases
from cellmap_pipeline.report import crops as figures_crop
from cellmap_pipeline.report import data as figures_data
from cellmap_pipeline.report import resources as figures_resources
from cellmap_pipeline.report import scores as figures_scores
from cellmap_pipeline.report import training as figures_training
from cellmap_pipeline.report.cases import Case, best_and_worst, plot_cases
from cellmap_pipeline.report.crops import OBJECT_COLOURS, most_labelled, paint, plot_crop, scale_bar
from cellmap_pipeline.report.data import labelled_crops, middle_slice, plot_data, spread
from cellmap_pipeline.report.resources import plot_resources, read_benchmarks
from cellmap_pipeline.report.scores import (
    plot_leaderboard,
    plot_scores,
    plot_selection,
    plot_validation,
)
from cellmap_pipeline.report.style import drawing, in_panels
from cellmap_pipeline.report.training import plot_datasplit, plot_training, plot_trainings
from cellmap_pipeline.run.snakemake import run_snakemake
from cellmap_pipeline.scoring.summary import combine, write_csv

GRID = Grid((10, 8, 8), (100, 200, 300), (12, 16, 20))


@pytest.fixture
def drawn(monkeypatch):
    """Figures that the code under test draws, kept instead of written."""
    kept = []

    @contextmanager
    def keep(path, width, height):
        kept.append(Figure((width, height), layout="constrained"))
        yield kept[-1]
        kept[-1].draw_without_rendering()

    for module in (
        figures_cases, figures_crop, figures_data, figures_resources, figures_scores,
        figures_training,
    ):  # fmt: skip
        monkeypatch.setattr(module, "drawing", keep)
    return kept


def label(folder: Path, name: str, values: np.ndarray) -> LabelVolume:
    """Write a label on `GRID` and open it."""
    create(folder / name, GRID, values.dtype.name)[...] = values
    return LabelVolume.open(folder / name)


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def curves_of(axes):
    """Drawn curves by their names in the legend."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}


# How classes look


def test_known_classes_are_all_told_apart_with_and_without_colour():
    looks = [look_of(name) for name in CLASSES]
    assert len(set(CLASSES)) == len(CLASSES)
    assert len({(look.colour, look.hatch) for look in looks}) == len(CLASSES)
    assert len({(look.colour, look.marker) for look in looks}) == len(CLASSES)


def test_classes_of_one_panel_differ_in_colour_hatch_and_marker():
    for panel in in_panels(CLASSES):
        for part in ("colour", "hatch", "marker"):
            assert len({getattr(look_of(name), part) for name in panel}) == len(panel)


def test_tested_classes_of_the_challenge_are_known(shared):
    lines = (shared / "data/challenge/tested_classes.csv").read_text().split()
    assert {line.split(",")[0] for line in lines} <= set(CLASSES)


@given(st.text(min_size=1))
def test_any_name_has_one_look(name):
    assert look_of(name) == look_of(name)
    assert look_of(name).colour in COLOURS


def test_order_is_that_of_the_list_then_by_name():
    assert in_order(["zebra", "pm", "apple", "mito", "nuc"]) == [
        "nuc",
        "mito",
        "pm",
        "apple",
        "zebra",
    ]


def test_a_drawing_is_whole_or_not_there(tmp_path):
    with pytest.raises(RuntimeError), drawing(tmp_path / "a.png", 2, 1):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for name in ("b.png", "c.png"):
        with drawing(tmp_path / name, 2, 1) as figure:
            figure.subplots().plot([0, 1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "c.png"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    with drawing(tmp_path / "d.jpg", 2, 1) as figure:
        figure.text(0.5, 0.5, "a picture")
    assert (tmp_path / "d.jpg").read_bytes().startswith(b"\xff\xd8")


# Crops


def test_slices_go_through_most_of_the_label(tmp_path):
    values = np.zeros(GRID.shape, np.uint8)
    values[2, 3:9, 4:7] = 1
    values[:, 5, 15] = 1
    assert most_labelled(GRID, [label(tmp_path, "pm", values)]) == (2, 5, 15)


def test_of_equal_slices_the_middle_one_is_shown(tmp_path):
    everywhere = np.ones(GRID.shape, np.uint8)
    assert most_labelled(GRID, [label(tmp_path, "cyto", everywhere)]) in {(5, 7, 9), (6, 8, 10)}
    assert most_labelled(GRID, [label(tmp_path, "pm", 0 * everywhere)]) == (5, 7, 9)


def test_a_small_label_counts_as_much_as_a_large_one(tmp_path):
    large, small = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint16)
    large[:10] = 1
    small[11, 3, 4] = 7
    volumes = [label(tmp_path, "nuc", large), label(tmp_path, "ves", small)]
    assert most_labelled(GRID, volumes) == (11, 3, 4)


def test_slices_are_found_across_slabs(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 2, GRID.shape).astype(np.uint8)
    volume = label(tmp_path, "pm", values)
    whole = most_labelled(GRID, [volume])
    monkeypatch.setattr(figures_crop, "SLAB", 5)
    assert most_labelled(GRID, [volume]) == whole


@given(st.floats(1, 1e7))
def test_scale_bars_are_round_and_fit(nm):
    length, name = scale_bar(nm)
    assert nm / 3 / 2.5 < length * (1 + 1e-9) and length <= nm / 3 * (1 + 1e-9)
    assert f"{length:.0e}"[0] in "125"
    number, unit = name.split()
    assert float(number) * {"nm": 1, "µm": 1000}[unit] == pytest.approx(length)


def test_scale_bar_of_known_widths():
    assert scale_bar(640) == (200, "200 nm")
    assert scale_bar(12_800) == (2000, "2 µm")


def test_objects_are_outlined_apart_and_background_stays():
    ids = np.zeros((12, 12), np.uint16)
    ids[2:10, 2:6], ids[2:10, 6:10] = 1, 2
    image = np.full((12, 12, 3), 0.5, np.float32)
    paint(image, ids, "mito")
    assert (image[ids == 0] == 0.5).all()
    assert np.allclose(image[4, 5], OBJECT_COLOURS[0]) and np.allclose(
        image[4, 6], OBJECT_COLOURS[1]
    )
    inner = image[4, 3]
    assert not np.allclose(inner, 0.5) and not np.allclose(inner, OBJECT_COLOURS[0])


def test_semantic_labels_have_the_colour_of_their_class_and_dashes_by_position():
    ids = np.zeros((30, 30), np.uint8)
    ids[3:27, 3:27] = 1
    outlined = []
    for position in range(3):
        image = np.zeros((30, 30, 3), np.float32)
        paint(image, ids, "pm", position)
        outlined.append(int(np.isclose(image, to_rgb(look_of("pm").colour)).all(axis=-1).sum()))
    assert outlined[0] == 4 * 24 - 4
    assert all(0.3 < n / outlined[0] < 0.7 for n in outlined[1:])


@pytest.fixture
def crop(tmp_path):
    """Raw, labels made (folder `made`) and, of `mito` only, the truth (folder `truth`)."""
    rng = np.random.default_rng(0)
    larger = GRID.padded((4, 4, 4))
    create(tmp_path / "raw", larger, "uint8")[...] = rng.integers(0, 255, larger.shape, np.uint8)
    rows = [CropLabel(7, "cell-1", name, GRID) for name in ("pm", "mito", "ne", "er", "ecs")]
    for row in rows:
        values = rng.integers(0, 2 if row.label != "mito" else 9, GRID.shape).astype(np.uint8)
        label(tmp_path / "made", row.label, values)
    label(tmp_path / "truth", "mito", np.ones(GRID.shape, np.uint8))
    return tmp_path, Volume.open(tmp_path / "raw"), rows


def shown(figure):
    """Titles of the cells that hold a picture, and texts of those that say that they hold none."""
    cells = [ax for ax in figure.axes if ax.images]
    titles = [(ax.get_title("left"), ax.get_title()) for ax in cells]
    return titles, [t for ax in figure.axes if not ax.images for t in texts_of(ax)]


def test_with_truth_each_label_is_shown_beside_it(crop, drawn):
    folder, raw, rows = crop
    plot_crop(raw, rows, folder / "made", folder / "truth", folder / "crop.png")
    titles, empty = shown(drawn[0])
    labels = [left for left, title in titles if title == "raw"]
    assert sorted(labels) == ["ecs", "er", "mito", "ne", "pm"] and labels[0] == "mito"
    assert [title for _, title in titles].count("truth") == 1
    assert [title for _, title in titles].count("prediction") == 5
    assert empty == ["no truth"] * 4


def test_without_truth_semantic_labels_share_pictures(crop, drawn):
    folder, raw, rows = crop
    plot_crop(raw, rows, folder / "made", None, folder / "crop.png")
    titles, empty = shown(drawn[0])
    assert [left for left, _ in titles if left] == ["mito", "er, pm, ne", "ecs"]
    assert not empty and "truth" not in {title for _, title in titles}
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["er", "pm", "ne"]


def test_pictures_have_the_crops_proportions(crop, drawn):
    folder, raw, rows = crop
    plot_crop(raw, rows[:1], folder / "made", None, folder / "crop.png")
    height, width, _ = drawn[0].axes[0].images[0].get_array().shape
    z, y, x = (n * v for n, v in zip(GRID.shape, GRID.voxel_size, strict=True))
    assert (width - figures_crop.GAP) / (height - figures_crop.GAP) == pytest.approx(
        (x + z) / (y + z), rel=0.02
    )


def test_truth_shows_on_the_pictures(crop, drawn):
    folder, raw, rows = crop
    row = next(row for row in rows if row.label == "mito")
    plot_crop(raw, [row], folder / "made", folder / "truth", folder / "crop.png")
    plain, truth, made = (np.asarray(ax.images[0].get_array()) for ax in drawn[0].axes if ax.images)
    grey = (plain == plain[..., :1]).all(axis=-1)
    assert grey.all()
    # The truth is one object that fills the crop; on white it paints nothing.
    pale = OBJECT_COLOURS[0] * figures_crop.FILL + (1 - figures_crop.FILL) * plain
    inside = plain[..., 0] < 1
    assert np.isclose(truth, pale, atol=0.01).all(axis=-1)[inside].mean() > 0.9
    assert not np.allclose(made, truth)


# Training


METRICS = """\
epoch,step,train_loss,val_loss,val_dice/mito,val_dice/mito_boundary,val_dice,learning_rate
0,10,1.4,1.2,0.5,0.3,0.4,0.001
1,20,1.0,0.8,,0.5,0.6,0.0005
2,30,0.9,0.9,0.6,0.4,0.5,0.0
"""


def test_training_curves_are_drawn_over_epochs(tmp_path, drawn):
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    plot_training(path, tmp_path / "a.png")
    loss, dice, rate = map(curves_of, drawn[0].axes)
    assert loss["train"].tolist() == [[1, 1.4], [2, 1.0], [3, 0.9]]
    assert loss["validate"].tolist() == [[1, 1.2], [2, 0.8], [3, 0.9]]
    assert dice["mito"].tolist() == [[1, 0.5], [3, 0.6]]
    assert dice["mito_boundary"].tolist() == [[1, 0.3], [2, 0.5], [3, 0.4]]
    assert dice["mean of all"].tolist() == [[1, 0.4], [2, 0.6], [3, 0.5]]
    assert {curves["best epoch"][0][0] for curves in (loss, dice, rate)} == {2}
    assert [[1, 0.001], [2, 0.0005], [3, 0]] in [line.tolist() for line in rate.values()]


@pytest.mark.parametrize("text", [None, "", "epoch,step,val_dice\n"])
def test_missing_curves_are_said(tmp_path, text):
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="metrics.csv"):
        plot_training(path, tmp_path / "a.png")


def test_many_classes_are_spread_over_panels(tmp_path, drawn):
    labels = CLASSES[:20]
    path = tmp_path / "metrics.csv"
    columns = ",".join(f"val_dice/{name}" for name in labels)
    numbers = ",0.5" * len(labels)
    path.write_text(f"epoch,learning_rate,val_dice,{columns}\n0,0.1,0.5{numbers}\n")
    plot_training(path, tmp_path / "a.png")
    _, *dice, _ = (curves_of(axes) for axes in drawn[0].axes)
    assert [len(curves.keys() & set(labels)) for curves in dice] == [8, 8, 4]


def test_datasplit_is_drawn_per_class_and_side(tmp_path, drawn):
    path = tmp_path / "summary.csv"
    path.write_text(
        "class,train_crops,validate_crops,train_um3,validate_um3,share\n"
        "pm,3,1,0.5,0.25,0.3333\nmito,2,0,0.125,0,0.0000\n"
    )
    plot_datasplit(path, tmp_path / "a.png")
    crops, volume = drawn[0].axes
    assert [tick.get_text() for tick in crops.get_yticklabels()] == ["mito", "pm"]
    # First what trains, from the top, then what validates.
    assert [bar.get_width() for bar in crops.patches] == [2, 3, 0, 1]
    assert [bar.get_width() for bar in volume.patches] == [0.125, 0.5, 0, 0.25]
    assert texts_of(volume) == ["0.125", "0.5", "0", "0.25"]
    assert volume.get_xscale() == "linear"


def test_volumes_far_apart_are_drawn_on_a_logarithmic_axis(tmp_path, drawn):
    path = tmp_path / "summary.csv"
    path.write_text(
        "class,train_crops,validate_crops,train_um3,validate_um3,share\n"
        "nuc,3,1,50,9,0.1525\nves,2,0,0.001,0,0.0000\n"
    )
    plot_datasplit(path, tmp_path / "a.png")
    assert drawn[0].axes[1].get_xscale() == "log"
    assert texts_of(drawn[0].axes[1]) == ["50", "0.001", "9", "0"]


def test_trainings_share_a_figure(tmp_path, drawn):
    paths = {}
    for i, name in enumerate(("fine", "coarse")):
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_text(
            f"epoch,train_loss,val_loss,val_dice\n0,0.9,0.8,0.{i + 1}\n1,0.5,0.6,0.{i + 3}\n"
        )
    plot_trainings(paths, tmp_path / "a.png")
    dice, train, _ = drawn[0].axes
    assert curves_of(dice)["fine"].tolist() == [[1, 0.1], [2, 0.3]]
    assert curves_of(dice)["coarse"].tolist() == [[1, 0.2], [2, 0.4]]
    assert curves_of(train)["fine"].tolist() == [[1, 0.9], [2, 0.5]]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in dice.lines}
    assert len(looks) == 2


# Data


@pytest.fixture
def datasplit(tmp_path):
    """Two crops of one dataset; the second has a label that the first lacks."""
    raw = np.random.default_rng(0).integers(0, 255, GRID.shape).astype(np.uint8)
    create(tmp_path / "raw", GRID, "uint8")[...] = raw
    rows = []
    for number, names in ((1, ["mito"]), (2, ["mito", "pm"])):
        folder = tmp_path / f"a.zarr/crop{number}"
        folder.mkdir(parents=True)
        for name in names:
            label(folder, name, np.ones(GRID.shape, np.uint8))
        usage = "train" if number == 1 else "validate"
        rows.append(f'{usage},{tmp_path}/raw,"{folder}/[{",".join(names)}]"\n')
    path = tmp_path / "datasplit.csv"
    path.write_text("".join(rows))
    return path


def test_a_slice_of_each_crop_with_its_labels(datasplit, tmp_path, drawn):
    plot_data([datasplit, datasplit], (8, 8, 8), tmp_path / "a.jpg")
    (figure,) = drawn
    first, second = figure.axes
    assert [ax.get_title() for ax in (first, second)] == ["a\ncrop 1", "a\ncrop 2 (held back)"]
    assert first.images[0].get_array().shape == (16, 20, 3)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mito", "pm"]


def test_a_crop_of_several_trainings_has_the_classes_of_all(datasplit, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(datasplit.read_text().replace("mito,pm", "er"))
    first, second = labelled_crops([datasplit, other])
    assert first.classes == ["mito"] and second.classes == ["mito", "pm", "er"]


def test_of_many_crops_some_are_drawn():
    assert spread(5, 300) == [0, 1, 2, 3, 4]
    assert len(spread(1000, 300)) == 300 and spread(1000, 300)[-1] == 999


def test_slices_have_square_pixels():
    plane = middle_slice(Grid((10, 8, 4), (0, 0, 0), (11, 400, 800)), (4, 4, 4))
    assert plane.shape == (1, 160, 160) and plane.voxel_size == (10, 20, 20)
    assert plane.translation[0] == 50


# Resources


def test_time_memory_and_gpu_by_rule(tmp_path, drawn):
    head = "s\th:m:s\tmax_rss\n"
    for name, seconds, memory in (("train/a", 7200, 2000), ("train/b", 3600, "-"), ("plan", 9, 5)):
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{head}{seconds}\t0:00:01\t{memory}\n")
    gpu = tmp_path / "logs/train/a.gpu.json"
    gpu.parent.mkdir(parents=True)
    gpu.write_text('{"gpus": ["A100"], "busy_percent": 91.0, "peak_memory_mb": 40000, "looks": 9}')
    jobs = read_benchmarks(tmp_path / "benchmarks", tmp_path / "logs")
    assert jobs["rule"].tolist() == ["plan", "train", "train"]
    assert jobs["hours"].tolist() == [9 / 3600, 2, 1]
    plot_resources(tmp_path / "benchmarks", tmp_path / "logs", tmp_path / "a.png")
    time, memory, busy, full = drawn[0].axes
    assert [tick.get_text() for tick in time.get_yticklabels()] == ["train (2)", "plan"]
    assert texts_of(time) == ["3.0 h", "9 s"]
    assert texts_of(memory) == ["2.0", "0.0"]
    assert (texts_of(busy), texts_of(full)) == (["91"], ["40.0"])


# Scores


def sized(curve):
    return {"curve": curve, "measured_at": [3.48, 4, 4]}


def test_validation_shows_tuned_and_plain_scores_and_curves(tmp_path, drawn):
    curve = [{"threshold": t, "score": s} for t, s in ((0.7, 0.3), (0.3, 0.6), (0.5, 0.5))]
    scores = {
        "classes": {
            "pm": {"score": 0.2, "score_at_half": 0.2, "voxel_sizes": [sized([])]},
            "mito": {"score": 0.6, "score_at_half": 0.5, "voxel_sizes": [sized(curve)]},
        },
        "overall_score": 0.3464,
        "overall_instance_score": 0.6,
        "overall_semantic_score": 0.2,
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    settings = {"method": "watershed_boundary", "threshold": 0.3}
    found = [{"voxel_size": [3.48, 4, 4], "settings": settings}]
    found.append({"voxel_size": [8, 8, 8], "settings": settings | {"threshold": 0.4}})
    plain = {"voxel_size": [8, 8, 8], "settings": {"method": "threshold", "threshold": 0.55}}
    (tmp_path / "post.json").write_text(json.dumps({"mito": found, "pm": [plain, plain]}))
    plot_validation(tmp_path / "scores.json", tmp_path / "post.json", tmp_path / "a.png")
    bars, curves = drawn[0].get_axes() or [ax for sub in drawn[0].subfigs for ax in sub.axes]
    assert texts_of(bars) == [
        "0.600",
        "0.200",
        "3.48 × 4 × 4 nm: watershed_boundary ≥ 0.30; 8 nm: watershed_boundary ≥ 0.40",
        "threshold ≥ 0.55",
    ]
    assert [bar.get_width() for bar in bars.patches] == [0.6, 0.2]
    assert curves_of(bars)["not tuned: threshold 0.5"].tolist() == [[0.5, 0], [0.2, 1]]
    assert curves_of(curves)["mito, 3.48 × 4 × 4 nm"].tolist() == [
        [0.3, 0.6],
        [0.5, 0.5],
        [0.7, 0.3],
    ]
    assert [0.3, 0.6] in [
        line.get_xydata()[0].tolist() for line in curves.lines if len(line.get_xdata()) == 1
    ]
    assert "overall 0.346" in bars.get_title()


def test_selection_frames_what_is_chosen(tmp_path, drawn):
    path = tmp_path / "selection.csv"
    path.write_text(
        "label,voxel_size,training,score,chosen\n"
        "mito,16 16 16,a,0.500000,no\nmito,16 16 16,b,0.700000,yes\n"
        "mito,3.48 4 4,a,0.900000,yes\npm,16 16 16,b,,yes\n"
    )
    plot_selection(path, tmp_path / "a.png")
    axes = drawn[0].axes[0]
    rows = [tick.get_text() for tick in axes.get_yticklabels()]
    assert rows == ["mito, 3.48 × 4 × 4 nm", "mito, 16 nm", "pm, 16 nm"]
    at = {tuple(int(v) for v in text.get_position()): text.get_text() for text in axes.texts}
    assert at == {(0, 0): "0.900 ✓", (0, 1): "0.500", (1, 1): "0.700 ✓", (1, 2): "no score ✓"}
    frames = [patch for patch in axes.patches if not patch.get_fill()]
    assert sorted((p.get_x() + 0.5, p.get_y() + 0.5) for p in frames) == [(0, 0), (1, 1), (1, 2)]


def test_scores_are_drawn_per_class_and_crop(tmp_path, drawn):
    one = {"tp": 1, "fp": 0, "fn": 0, "hausdorff_norm_sum": 0.25, "n_hausdorff": 1}
    per_crop = {
        "crop12": {
            "mito": one | {"status": "scored"},
            "pm": {"tp": 1, "fp": 1, "fn": 2, "status": "scored"},
        },
        "crop7": {"pm": {"tp": 0, "fp": 0, "fn": 4, "status": "missing"}},
    }
    write_csv(per_crop | combine(per_crop), tmp_path / "scores.csv")
    plot_scores(tmp_path / "scores.csv", tmp_path / "a.png")
    bars, cells = drawn[0].axes
    assert texts_of(bars) == ["0.500", "0.125"]
    assert curves_of(bars)["F1: objects found"].tolist() == [[1, 0]]
    assert curves_of(bars)["Hausdorff: outlines"].tolist() == [[0.25, 0]]
    assert [tick.get_text() for tick in cells.get_xticklabels()] == ["crop7", "crop12"]
    at = {tuple(int(v) for v in text.get_position()): text.get_text() for text in cells.texts}
    assert at == {(1, 0): "0.50", (1, 1): "0.25", (0, 1): "missing"}
    assert len(cells.patches) == 2


def test_trainings_and_the_submission_are_drawn_side_by_side(tmp_path, drawn):
    (tmp_path / "leaderboard.csv").write_text(
        "name,scored_on,classes,overall_score,overall_instance_score,overall_semantic_score,mito,pm\n"
        "submission,test,1,0.25,0.5,0.125,,0.125\nsmall,validation,2,0.5,0.5,0.5,0.75,0.25\n"
    )
    plot_leaderboard(tmp_path / "leaderboard.csv", tmp_path / "a.png")
    (cells,) = drawn[0].axes
    columns = [tick.get_text() for tick in cells.get_xticklabels()]
    assert columns == ["submission\n(test)", "small\n(validation)"]
    rows = [tick.get_text() for tick in cells.get_yticklabels()]
    assert rows == [
        "overall score", "overall instance score", "overall semantic score", "mito", "pm"
    ]  # fmt: skip
    at = {tuple(int(v) for v in text.get_position()): text.get_text() for text in cells.texts}
    assert at[0, 0] == "0.250"
    assert at[1, 3] == "0.750"
    assert (0, 3) not in at


def scored(n, skipped=()):
    """scores.csv of labels `er` in crops 1 to n, the better the higher the number."""
    per_crop = {
        f"crop{i}": {"er": {"tp": i, "fp": 10 - i, "fn": 1, "status": "scored"}}
        for i in range(1, n + 1)
    }
    for i in skipped:
        per_crop[f"crop{i}"]["er"]["status"] = "missing"
    return per_crop | combine(per_crop)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (9, ["best 9", "best 8", "best 7", "worst 1", "worst 2", "worst 3"]),
        (3, ["best 3", "best 2", "worst 1"]),
        (1, ["best 1"]),
    ],
)
def test_best_and_worst_cases(tmp_path, n, expected):
    write_csv(scored(n), tmp_path / "scores.csv")
    rows = [CropLabel(i, "a-1", "er", GRID) for i in range(1, n + 1)]
    cases = best_and_worst(tmp_path / "scores.csv", rows)
    assert [f"{case.kind} {case.row.crop}" for case in cases] == expected
    assert cases[0].score == pytest.approx(n / 11)


def test_cases_are_what_was_scored_and_made(tmp_path):
    per_crop = scored(4, skipped=[3])
    per_crop["crop2"]["er"] |= {"tp": 0, "fn": 0}  # nothing true
    per_crop["crop1"]["er_mask"] = per_crop["crop1"]["er"]
    write_csv(per_crop, tmp_path / "scores.csv")
    rows = [CropLabel(i, "a-1", "er", GRID) for i in (1, 2, 3)]
    (case,) = best_and_worst(tmp_path / "scores.csv", rows)
    assert (case.row, case.kind) == (rows[0], "best")


def test_cases_are_drawn_with_truth_and_prediction(tmp_path, drawn):
    rng = np.random.default_rng(0)
    values = (rng.random(GRID.shape) < 0.2).astype(np.uint8)
    for folder in ("made/a-1/crop1", "truth/crop1"):
        (tmp_path / folder).mkdir(parents=True)
        label(tmp_path / folder, "er", values)
    cases = [Case(kind, CropLabel(1, "a-1", "er", GRID), 0.5) for kind in ("best", "worst")]
    raw = Volume.open(label(tmp_path, "raw", values).volume.path)
    plot_cases(cases, {"a-1": raw}, tmp_path / "made", tmp_path / "truth", tmp_path / "a.png")
    titles = [ax.get_title() or ax.get_title(loc="left") for ax in drawn[0].axes]
    assert titles == [
        "best: er, crop 1: 0.500", "truth", "prediction",
        "worst: er, crop 1: 0.500", "truth", "prediction",
    ]  # fmt: skip
    plot_cases([], {}, tmp_path, tmp_path, tmp_path / "b.png")
    assert [text.get_text() for ax in drawn[1].axes for text in ax.texts] == ["no label was scored"]


# Snakemake called again


SNAKEFILE = """
configfile: "config.yaml"
rule all:
    input: [f"{name}.txt" for name in config["names"]], "gone.txt" if "gone" in config else []
rule first:
    output: "first.txt"
rule second:
    output: "second.txt"
"""


def test_snakemake_sees_the_given_configuration_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "config.yaml").write_text("names: [first]\ngone: true\n")
    graph = run_snakemake("Snakefile", [], {"names": ["second"]}, ["--rulegraph", "mermaid-js"])
    assert graph.startswith("---\ntitle: DAG")
    assert "[second]" in graph and "[first]" not in graph


def test_snakemake_that_fails_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "config.yaml").write_text("names: []\n")
    with pytest.raises(subprocess.CalledProcessError):
        run_snakemake("Snakefile", [], {"names": ["third"]}, ["--rulegraph", "mermaid-js"])
    assert "third.txt" in capsys.readouterr().err
