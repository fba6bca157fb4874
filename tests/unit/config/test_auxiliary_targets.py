"""Auxiliary targets: from the offsets in a training's file to the names of channels."""

import pytest

from cellmap_pipeline.channels import AFFINITY_SUFFIXES, DESCRIPTOR_SUFFIXES
from cellmap_pipeline.config.auxiliary_targets import (
    Affinities,
    auxiliary_suffixes,
    channels_of_settings,
    rounding_notes,
)
from tests.support.patches import training

NEAREST = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
VNC = (45, 9.2, 9.2)


def suffixes(offsets, voxel_size=(8, 8, 8), **options):
    return auxiliary_suffixes([Affinities(affinities=offsets, **options)], voxel_size)


def test_nearest_offsets_are_the_affinities_without_offsets():
    assert suffixes(NEAREST) == auxiliary_suffixes(["affinities"], (8, 8, 8))
    assert suffixes([[-1, 0, 0], *NEAREST[1:]]) == list(AFFINITY_SUFFIXES)


def test_long_range_channels_carry_their_offset_in_nm():
    made = suffixes([*NEAREST, [4, 0, 0], [0, -9, 0], [0, 2, -2]], VNC)
    assert made[3:] == [
        "_affinity_180_0_0nm", "_affinity_0_82.8_0nm", "_affinity_0_18.4_-18.4nm"
    ]  # fmt: skip


def test_offsets_in_nm_are_rounded_to_voxels():
    offsets = [[45, 0, 0], [0, 9.2, 0], [0, 0, 9], [0, 80, 0], [200, 0, 0]]
    affinities = Affinities(affinities=offsets, unit="nm")
    assert affinities.offsets(VNC)[3:] == [(0, 9, 0), (4, 0, 0)]
    notes = rounding_notes({"cell": [affinities]}, VNC)
    assert [note.removeprefix("the affinity of cell at ")[:38] for note in notes] == [
        "[0, 0, 9] nm is that at [0, 0, 9.2] nm",
        "[0, 80, 0] nm is that at [0, 82.8, 0] ",
        "[200, 0, 0] nm is that at [180, 0, 0] ",
    ]


@pytest.mark.parametrize(
    ("offsets", "options", "message"),
    [
        ([*NEAREST, [0, 0, 0]], {}, r"\[0, 0, 0\] voxels is no voxel away"),
        ([*NEAREST, [2.5, 0, 0]], {}, "no whole number of voxels: round it"),
        ([*NEAREST, [0, -4, 0], [0, 4, 0]], {}, "listed already"),
        ([[1, 0, 0], [0, 0, 1], [4, 0, 0]], {}, r"add \[0, 1, 0\]"),
        ([[8, 0, 0], [0, 8, 0], [0, 0, 8], [0, 0, 3]], {"unit": "nm"}, "is no voxel away"),
    ],
)
def test_offsets_that_make_no_sense_are_refused(offsets, options, message):
    with pytest.raises(ValueError, match=message):
        suffixes(offsets, **options)


def test_a_training_refuses_offsets_longer_than_a_patch():
    offsets = [*NEAREST, [0, 0, 32]]
    with pytest.raises(ValueError, match="no two voxels of a patch are"):
        training(classes=["mito"], targets={"mito": [{"affinities": offsets}]})


def test_a_kind_and_its_offsets_together_are_refused():
    with pytest.raises(ValueError, match="targets`: mito: lists _affinity_x.*twice"):
        targets = {"mito": ["affinities", {"affinities": NEAREST}]}
        training(classes=["mito"], targets=targets)


@pytest.mark.parametrize("label", ["cell_boundary", "er_affinity_z", "er_affinity_0_8_0nm"])
def test_classes_are_not_named_like_channels(label):
    with pytest.raises(ValueError, match=f"names '{label}', which would be a channel of"):
        training(classes=["pm", label])


def test_channels_of_a_checkpoint():
    made = training(
        classes=["er", "mito"],
        targets={"mito": ["boundary", {"affinities": [*NEAREST, [0, 0, 3]]}]},
    )
    assert made.channels == [
        "er", "mito", "mito_boundary", "mito_affinity_z", "mito_affinity_y", "mito_affinity_x",
        "mito_affinity_0_0_24nm",
    ]  # fmt: skip
    assert channels_of_settings(made.model_dump(mode="json")) == made.channels


def test_descriptors_have_ten_channels_whatever_their_sigma():
    made = training(
        classes=["mito", "er"],
        targets={"mito": ["boundary", {"descriptors": {"sigma_nm": 40}}], "er": ["descriptors"]},
    )
    mito, er = ([label + suffix for suffix in DESCRIPTOR_SUFFIXES] for label in ("mito", "er"))
    assert made.channels == ["mito", "mito_boundary", *mito, "er", *er]
    assert made.descriptor_sigmas_nm == {"mito": 40, "er": 80}
    assert channels_of_settings(made.model_dump(mode="json")) == made.channels


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([{"descriptors": {"sigma_nm": 7.9}}], "reaches no neighbor at 8 nm per voxel: raise it"),
        ([{"descriptors": {"sigma_nm": 0}}], "greater than 0"),
        ([{"descriptors": {"sigma": 80}}], "sigma"),
        (["descriptors", {"descriptors": {}}], "twice: remove one"),
    ],
)
def test_descriptors_that_make_no_sense_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        training(classes=["mito"], targets={"mito": targets})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "focal"}, "such as mito_lsd_offset_z, cannot be learned by it"),
        ({"loss": {"dice": 1, "focal": {"gamma": 1}}}, "cannot be learned by it"),
        (
            {"inference": {"store": ["descriptors"]}, "targets": {}},
            "which no class has: add them to its `targets`",
        ),
    ],
)
def test_keys_that_do_not_go_with_descriptors(changes, message):
    values = {"classes": ["mito"], "targets": {"mito": ["descriptors"]}}
    assert training(**values, inference={"symmetries": 8})
    with pytest.raises(ValueError, match=message):
        training(**values | changes)


def test_distances_do_not_go_with_the_focal_loss():
    distance = {"classes": ["mito"], "targets": {"mito": ["boundary", "distance"]}}
    assert training(**distance)
    assert training(classes=["mito"], targets={"mito": ["boundary"]}, loss="focal")
    with pytest.raises(ValueError, match="such as mito_distance, cannot be learned by it"):
        training(**distance, loss="focal")
