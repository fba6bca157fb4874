"""Figures of the training data and of trainings."""

import pytest

from cellmap_pipeline.classes import CLASSES
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.report.figures.training import plot_datasplit, plot_training, plot_trainings
from tests.support.figures import curves_in, texts_in

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
    loss, dice, rate = map(curves_in, drawn[0].axes)
    assert loss["train"].tolist() == [[1, 1.4], [2, 1.0], [3, 0.9]]
    assert loss["validate"].tolist() == [[1, 1.2], [2, 0.8], [3, 0.9]]
    assert dice["mito"].tolist() == [[1, 0.5], [3, 0.6]]
    assert dice["mito_boundary"].tolist() == [[1, 0.3], [2, 0.5], [3, 0.4]]
    assert dice["mean of all"].tolist() == [[1, 0.4], [2, 0.6], [3, 0.5]]
    assert {curves["best epoch"][0][0] for curves in (loss, dice, rate)} == {2}
    assert [[1, 0.001], [2, 0.0005], [3, 0]] in [line.tolist() for line in rate.values()]


def test_a_training_without_validation_has_curves_of_its_own_values_alone(tmp_path, drawn):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train_loss,learning_rate\n0,10,1.4,0.001\n1,20,1.0,0.0005\n")
    plot_training(path, tmp_path / "a.png")
    loss, rate = drawn[0].axes
    assert {name: line.tolist() for name, line in curves_in(loss).items()} == {
        "train": [[1, 1.4], [2, 1.0]]
    }
    assert [line.tolist() for line in curves_in(rate).values()] == [[[1, 0.001], [2, 0.0005]]]


@pytest.mark.parametrize(
    "text", [None, "", "epoch,step,val_dice\n"], ids=["no file", "empty file", "no epoch"]
)
def test_missing_metrics_are_an_error(tmp_path, text):
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="metrics.csv"):
        plot_training(path, tmp_path / "a.png")


def test_many_classes_are_split_into_panels(tmp_path, drawn):
    labels = CLASSES[:20]
    path = tmp_path / "metrics.csv"
    columns = ",".join(f"val_dice/{name}" for name in labels)
    numbers = ",0.5" * len(labels)
    path.write_text(f"epoch,learning_rate,val_dice,{columns}\n0,0.1,0.5{numbers}\n")
    plot_training(path, tmp_path / "a.png")
    _, *dice, _ = (curves_in(axes) for axes in drawn[0].axes)
    assert [len(curves.keys() & set(labels)) for curves in dice] == [8, 8, 4]


def test_datasplit_is_drawn_by_class_dataset_and_usage(tmp_path, drawn):
    path = tmp_path / "summary.csv"
    path.write_text(
        "by,name,train_crops,validate_crops,train_um3,validate_um3,share\n"
        "class,pm,3,1,0.5,0.25,0.3333\nclass,mito,2,0,0.125,0,0.0000\n"
        "dataset,jrc_a-1,3,1,2,1,0.3333\n"
    )
    plot_datasplit(path, tmp_path / "a.png")
    crops, volume, dataset_crops, dataset_volume = drawn[0].axes
    assert [tick.get_text() for tick in crops.get_yticklabels()] == ["mito", "pm"]
    # First training from top to bottom, then validation.
    assert [bar.get_width() for bar in crops.patches] == [2, 3, 0, 1]
    assert [bar.get_width() for bar in volume.patches] == [0.125, 0.5, 0, 0.25]
    assert texts_in(volume) == ["0.125", "0.5", "0", "0.25"]
    assert volume.get_xscale() == "linear"
    assert [tick.get_text() for tick in dataset_crops.get_yticklabels()] == ["jrc_a-1"]
    assert [bar.get_width() for bar in dataset_crops.patches] == [3, 1]
    assert texts_in(dataset_volume) == ["2", "1"]


def test_very_different_volumes_are_drawn_on_a_logarithmic_axis(tmp_path, drawn):
    path = tmp_path / "summary.csv"
    path.write_text(
        "by,name,train_crops,validate_crops,train_um3,validate_um3,share\n"
        "class,nuc,3,1,50,9,0.1525\nclass,ves,2,0,0.001,0,0.0000\n"
        "dataset,jrc_a-1,3,1,100,50,0.3333\n"
    )
    plot_datasplit(path, tmp_path / "a.png")
    assert drawn[0].axes[1].get_xscale() == "log"
    assert texts_in(drawn[0].axes[1]) == ["50", "0.001", "9", "0"]


def test_trainings_share_a_figure(tmp_path, drawn):
    paths = {}
    for i, name in enumerate(("fine", "coarse")):
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_text(
            f"epoch,train_loss,val_loss,val_dice\n0,0.9,0.8,0.{i + 1}\n1,0.5,0.6,0.{i + 3}\n"
        )
    plot_trainings(paths, tmp_path / "a.png")
    dice, train, _ = drawn[0].axes
    assert curves_in(dice)["fine"].tolist() == [[1, 0.1], [2, 0.3]]
    assert curves_in(dice)["coarse"].tolist() == [[1, 0.2], [2, 0.4]]
    assert curves_in(train)["fine"].tolist() == [[1, 0.9], [2, 0.5]]
    styles = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in dice.lines}
    assert len(styles) == 2


def test_trainings_without_validation_share_the_figure(tmp_path, drawn):
    """Each training is in the legend; panels of validation need one that has any."""
    paths = {name: tmp_path / f"{name}.csv" for name in ("held", "all")}
    paths["held"].write_text("epoch,train_loss,val_loss,val_dice\n0,0.9,0.8,0.1\n1,0.5,0.6,0.3\n")
    paths["all"].write_text("epoch,train_loss\n0,0.7\n1,0.4\n")
    plot_trainings(paths, tmp_path / "both.png")
    plot_trainings({"all": paths["all"]}, tmp_path / "one.png")
    dice, train, val_loss = drawn[0].axes
    assert [text.get_text() for text in dice.get_legend().get_texts()] == ["held", "all"]
    assert set(curves_in(dice)) == set(curves_in(val_loss)) == {"held"}
    assert curves_in(train)["all"].tolist() == [[1, 0.7], [2, 0.4]]
    (alone,) = drawn[1].axes
    assert alone.get_ylabel() == "loss, training patches"
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["all"]
