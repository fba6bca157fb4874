"""The section `augment`, and the numbers that older files have in it."""

from pathlib import Path

import pytest

from cellmap_pipeline.config.augmentation import Augmentation
from cellmap_pipeline.config.load import load_training
from cellmap_pipeline.errors import InputError

CHANGES = [
    name for name in Augmentation.model_fields if name not in ("flip", "transpose", "rotate90")
]


def augment(**values):
    return Augmentation.model_validate(values)


def test_numbers_of_older_files_mean_what_they_meant():
    made = augment(contrast=0.2, gamma=0.2, noise=0.02, rotate=180)
    assert (made.contrast.probability, made.contrast.range) == (1, (0.8, 1.2))
    # Half of 0.2 in units of raw is 0.4 in units of the normalized raw.
    assert (made.offset.probability, made.offset.range) == (1, pytest.approx((-0.4, 0.4)))
    assert not made.brightness.on
    assert (made.gamma.probability, made.gamma.range) == (1, pytest.approx((1 / 1.2, 1.2)))
    assert not made.gamma.keep_statistics
    assert not made.inverted_gamma.on
    assert (made.noise.probability, made.noise.range) == (1, pytest.approx((0, 0.08)))
    assert (made.rotate.probability, made.rotate.range) == (0.5, (0, 180))


def test_a_number_for_blur_no_longer_touches_every_patch():
    blur = augment(blur=1.0).blur
    assert (blur.probability, blur.range) == (0.1, (0, 1))


def test_a_number_leaves_what_the_file_says_of_other_changes():
    made = augment(
        contrast=0.2, gamma=0.2, brightness={}, offset=0, inverted_gamma={"range": [1, 2]}
    )
    assert made.brightness == augment().brightness
    assert not made.offset.on
    assert made.inverted_gamma.range == (1, 2)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert augment(noise="2e-2") == augment(noise=0.02)


@pytest.mark.parametrize("key", CHANGES)
def test_0_switches_a_change_off(key):
    assert not getattr(augment(**{key: 0}), key).on


def test_0_for_contrast_and_gamma_includes_related_changes():
    made = augment(contrast=0, gamma=0)
    assert not any(c.on for c in (made.contrast, made.brightness, made.offset))
    assert not any(c.on for c in (made.gamma, made.inverted_gamma))


@pytest.mark.parametrize("key", CHANGES)
def test_a_part_of_a_section_keeps_the_other_defaults(key):
    default = getattr(augment(), key)
    changed = getattr(augment(**{key: {"probability": 0.77}}), key)
    assert changed == default.model_copy(update={"probability": 0.77})


def test_settings_survive_a_checkpoint():
    for made in (augment(), augment(contrast=0.2, gamma=0.1, noise=0.02, blur=1, rotate=90)):
        assert Augmentation.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("contrast: 2", "augment.contrast: 2 is not within 0..0.99"),
        ("rotate: 200", "augment.rotate: 200 is not within 0..180"),
        ("scaling: 0.2", "augment.scaling: 0.2 is no section: write {probability: …"),
        ("noise: on", "augment.noise: YAML reads yes, no, on"),
        ("blur: {range: [2, 1]}", "augment.blur.range: begins above its end: write [1, 2]"),
        ("blur: {range: [0, 9]}", "augment.blur.range.1: Input should be less than or equal to 5"),
        (
            "gamma: {probability: 2}",
            "augment.gamma.probability: Input should be less than or equal",
        ),
        ("gamma: {probabilty: 1}", "augment.gamma.probabilty: unknown key"),
    ],
)
def test_errors_name_the_key(tmp_path, value, message):
    (tmp_path / "a.yaml").write_text(
        f"classes: [mito]\nvoxel_size: 8\nmodel: {{architecture: monai_basic_unet3d}}\n"
        f"patch_size: 32\naugment: {{{value}}}\n"
    )
    with pytest.raises(InputError) as error:
        load_training("a", [tmp_path])
    assert message in str(error.value)


def test_shipped_trainings_stay_valid(repo_root: Path):
    for path in (repo_root / "config/training").glob("*.yaml"):
        load_training(path.stem, [path.parent])
