"""Training files: how they are found and read, and those that are shipped."""

import pytest
import yaml

from cellmap_pipeline.config.load import load_training
from cellmap_pipeline.errors import InputError
from tests.support.configs import TRAINING, training


def test_yaml_exponents_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(TRAINING) + "learning_rate: 1e-3\n")
    assert load_training("a", [tmp_path]).learning_rate == 1e-3


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


@pytest.mark.parametrize("name", [
    "demo", "mednext_cos7", "mednext_mito", "monai_unet_quick", "nnunet_quick", "all48_4nm",
    "all48_8nm", "organelles_16nm", "organelles_32nm",
])  # fmt: skip
def test_shipped_trainings_are_valid(repo_root, name):
    assert load_training(name, [repo_root / "config/training"]).classes


def test_reference_trainings_have_the_published_settings(repo_root):
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
