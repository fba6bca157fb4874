"""Settings of trainings that a plan takes from other files."""

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.lineage import label_lineage
from tests.support.plans import ROWS

TABLE = 'mem,1,""\nlum,2,""\nnuc,3,""\nmito,4,"1,2"\n'
HIERARCHY = {"classes": ["mito", "nuc"], "voxel_size": 8, "serves": [8], "hierarchy": True}
EXCLUSION = {"classes": ["mito", "nuc"], "voxel_size": 8, "serves": [8]}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text(TABLE)
    return path


def test_hierarchy_becomes_the_atoms_of_the_classes(plan, table):
    fine = plan({"fine": HIERARCHY}, class_table=str(table)).trainings["fine"]
    assert fine.hierarchy == [["mito"], ["nuc"]]
    assert fine.channels == ["mito", "mito_boundary", "nuc", "nuc_boundary"]
    assert fine.outputs == [
        "atom:mito", "atom:nuc", "atom:none", "mito_boundary", "nuc_boundary"
    ]  # fmt: skip


def test_atoms_may_be_listed_in_the_file(plan):
    atoms = [["mito"], ["nuc", "mito"]]
    fine = plan({"fine": HIERARCHY | {"hierarchy": atoms}}).trainings["fine"]
    assert fine.hierarchy == atoms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "training fine: `hierarchy: true` takes the classes' relations from the run's"),
        (
            'mem,1,""\n',
            "training fine: `hierarchy: true`: the run's `class_table` has none of",
        ),
    ],
)
def test_hierarchy_needs_a_table_with_its_classes(plan, table, text, message):
    changes = {}
    if text:
        table.write_text(text)
        changes = {"class_table": str(table)}
    with pytest.raises(InputError, match=message):
        plan({"fine": HIERARCHY}, **changes)


def test_exclusion_needs_a_table_with_its_classes(plan, table):
    table.write_text('other,1,""\n')
    files = {"fine": EXCLUSION | {"mutual_exclusion": str(table)}}
    with pytest.raises(InputError, match=r"training fine: mutual_exclusion: .* has none of mito"):
        plan(files)


def test_all_that_a_training_lacks_is_reported_at_once(plan):
    with pytest.raises(InputError) as error:
        plan({"fine": HIERARCHY | {"validation": "folds"}})
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and "split: {folds: 5}" in lines[0] and "class_table" in lines[1]


@pytest.mark.parametrize("training", [HIERARCHY, EXCLUSION])
def test_labels_depend_on_the_content_of_the_table_not_on_its_path(plan, tmp_path, training):
    lineages = []
    for name, text in [
        ("one.csv", TABLE),
        ("two.csv", TABLE),
        # A class of no training.
        ("three.csv", TABLE + 'er,9,""\n'),
        ("four.csv", TABLE.replace('"1,2"', '"1,3"')),
    ]:
        path = tmp_path / name
        path.write_text(text)
        files = {"fine": training | {"mutual_exclusion": str(path)}}
        lineages.append(label_lineage(plan(files, class_table=str(path)), ROWS[0]))
    assert lineages[0] == lineages[1] == lineages[2] != lineages[3]
