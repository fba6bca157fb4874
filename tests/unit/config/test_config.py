import pytest
import yaml

from cellmap_pipeline.config.load import load_training, parse_run
from cellmap_pipeline.errors import InputError

RUN = {"data_root": "data", "test_crops": "m.csv", "trainings": ["a"]}
TRAINING = {
    "classes": ["mito", "pm"],
    "voxel_size": 8,
    "model": {"architecture": "monai_basic_unet3d"},
    "patch_size": 64,
}


def training(tmp_path, **changes):
    values = {key: value for key, value in (TRAINING | changes).items() if value is not None}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    return load_training("a", [tmp_path])


def test_defaults_and_one_number_for_three_axes(tmp_path):
    made = training(tmp_path)
    assert made.voxel_size == (8, 8, 8)
    assert made.patch_size == (64, 64, 64)
    assert made.epochs == 100
    assert made.scheduler.name == "constant"


def test_yaml_exponents_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(TRAINING) + "learning_rate: 1e-3\n")
    assert load_training("a", [tmp_path]).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "a.yaml: epoch: unknown key (did you mean 'epochs'?)"),
        ({"augment": {"flop": True}}, "augment.flop: unknown key (did you mean 'flip'?)"),
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1, not 0"),
        ({"epochs": "many"}, "epochs: Input should be a valid integer, not 'many'"),
        ({"classes": None}, "a.yaml: classes: is missing"),
        ({"classes": []}, "classes: is empty: name at least one"),
        ({"classes": ["mito", "mito"]}, "lists mito twice"),
        ({"classes": ["../mito"]}, "is not a name"),
        ({"voxel_size": -8}, "voxel_size"),
        ({"voxel_size": [8, 8]}, "voxel_size"),
        ({"patch_size": 60}, "patch_size"),
        ({"model": {"architecture": "nonet"}}, "nonet"),
        ({"model": {"architecture": "mednext", "size": "XXL"}}, "size"),
        ({"loss": "mse"}, "loss"),
        ({"inference": {"overlap": 0.9}}, "inference.overlap"),
        ({"postprocess": {"er": {}}}, "postprocess"),
        ({"postprocess": {"mito": {"threshold": 3}}}, "threshold"),
        (
            {"postprocess": {"mito": {"method": "mutex_watershed"}}},
            "targets: {mito: [affinities]}",
        ),
    ],
)
def test_what_is_not_allowed_is_named(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        training(tmp_path, **changes)
    assert str(tmp_path / "a.yaml") in str(error.value)
    assert message in str(error.value)


def test_files_that_are_no_trainings(tmp_path):
    with pytest.raises(InputError, match="no file for 'b'.*there are: a"):
        training(tmp_path)
        load_training("b", [tmp_path])
    (tmp_path / "tabs.yaml").write_text("a:\n\t- b\n")
    with pytest.raises(InputError, match="tabs.yaml is not YAML"):
        load_training("tabs", [tmp_path])
    (tmp_path / "text.yaml").write_text("just text")
    with pytest.raises(InputError, match="must hold keys and values"):
        load_training("text", [tmp_path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_rot": "x"}, "config.yaml: data_rot: unknown key (did you mean 'data_root'?)"),
        ({"trainings": []}, "trainings"),
        ({"trainings": ["a", "a"]}, "lists a twice"),
        ({"trainings": "a"}, "trainings: Input should be a valid list, not 'a'"),
        ({"submission": {"crops": "some"}}, "submission.crops"),
        ({"submission": {"select": "worst"}}, "submission.select"),
        ({"predictions": {"a": "x"}}, "name of a training"),
        ({"predictions": {"b": "x/{crop}/{label}"}}, "lacks ['{dataset}']"),
    ],
)
def test_run_errors(changes, message):
    with pytest.raises(InputError) as error:
        parse_run(RUN | changes, "config.yaml")
    assert str(error.value).startswith("config.yaml: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainings": ["a", "a"]}, "trainings: lists a twice"),
        ({"trainings": ["a b"]}, "trainings.0: 'a b' is not a name (letters, digits, _, -)"),
        ({"trainings": []}, "trainings: is empty: name at least one"),
        ({"trainings": None}, "trainings: has no value: give one"),
        ({"submission": None}, "submission: has no value: give one, or leave it out"),
        ({"submission": 3}, "submission: Input should be a valid dictionary, not 3"),
        (
            {"submission": {"crops": "some"}},
            "submission.crops: Input should be 'all'; or Input should be a valid list, not 'some'",
        ),
        (
            {"submission": {"select": {"mito": {"abc": "a"}}}},
            "submission.select.mito.abc: 'abc' is not a voxel size in nm, such as 8 or '3.48 4 4'",
        ),
        (
            {"submission": {"select": {"mito": {"8": "a b"}}}},
            "submission.select.mito.8: 'a b' is not a name (letters, digits, _, -)",
        ),
        ({"submission": {"select": {"mito": ["a", "a"]}}}, "submission.select.mito: lists a twice"),
        ({"submission": {"crops": []}}, "submission.crops: is empty: name at least one"),
    ],
)
def test_one_line_says_all(changes, message):
    with pytest.raises(InputError) as error:
        parse_run(RUN | changes, "config.yaml")
    assert str(error.value) == f"config.yaml: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": "big"}, "patch_size: Input should be a valid integer, not 'big'"),
        ({"voxel_size": "8nm"}, "voxel_size: Input should be a valid number, not '8nm'"),
        ({"voxel_size": [8, "x", 8]}, "voxel_size.1: Input should be a valid number, not 'x'"),
        ({"crops": []}, "crops: is empty: name at least one"),
        ({"voxel_size": [8] * 4}, "voxel_size: holds 4 values, but takes 3"),
        ({"serves": [8, "x"]}, "serves.1: Input should be a valid number, not 'x'"),
        (
            {"inference": {"batch": "x"}},
            "inference.batch: Input should be a valid integer; or Input should be 'auto', not 'x'",
        ),
        (
            {"inference": {"batch": 0}},
            "inference.batch: Input should be greater than or equal to 1, not 0",
        ),
        ({"loss": {"dice": -1}}, "loss.dice: Input should be greater than 0, not -1"),
        ({"scheduler": "exp"}, "scheduler: Input should be 'constant', 'cosine' or 'polynomial', "
         "not 'exp'"),
    ],
)  # fmt: skip
def test_one_line_says_all_of_a_training(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        training(tmp_path, **changes)
    assert str(error.value) == f"{tmp_path / 'a.yaml'}: {message}"


def test_an_unknown_architecture_is_named_and_no_more(tmp_path):
    with pytest.raises(InputError) as error:
        training(tmp_path, model={"architecture": "nope"})
    assert ": model: there is no architecture 'nope'; choose one of" in str(error.value)
    assert str(error.value).endswith("pytc:NAME")


def test_a_missing_key():
    with pytest.raises(InputError, match="config.yaml: data_root: is missing"):
        parse_run({key: value for key, value in RUN.items() if key != "data_root"}, "config.yaml")


@pytest.mark.parametrize("name", [
    "demo", "mednext_cos7", "mednext_mito", "monai_unet_quick", "all48_4nm", "all48_8nm",
    "organelles_16nm", "organelles_32nm",
])  # fmt: skip
def test_shipped_trainings(repo_root, name):
    assert load_training(name, [repo_root / "config/training"]).classes


def test_the_references_settings(repo_root):
    folder = [repo_root / "config/training"]
    cos7 = load_training("mednext_cos7", folder)
    assert (cos7.epochs, cos7.batch_size, cos7.patch_size) == (500, 2, (128, 128, 128))
    assert cos7.model["size"] == "M" and cos7.model["kernel_size"] == 5
    mito = load_training("mednext_mito", folder)
    assert (mito.epochs, mito.batch_size, mito.learning_rate) == (1000, 1, 5e-4)
    quick = load_training("monai_unet_quick", folder)
    assert (quick.scheduler.name, quick.scheduler.minimum, quick.epochs) == ("cosine", 1e-6, 10)
    for made in (cos7, mito, quick):
        assert (made.accumulate_grad_batches, made.gradient_clip) == (4, 1.0)
        assert (made.iterations_per_epoch, made.validation_iterations) == (2000, 200)
        assert made.precision == "16-mixed"
