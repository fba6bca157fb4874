import subprocess
import sys

import pytest

from cellmap_pipeline.data.class_table import find_atoms, implied, parts_of, read_class_table
from cellmap_pipeline.errors import InputError

TABLE = 'membrane,1,""\nlumen,2,""\nribo,3,""\norganelle,4,"1,2"\ncell,5,"4,3,77"\nout,6,""\n'


def table_of(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "classes.csv"
    path.write_bytes(text.encode(encoding))
    return read_class_table(path)


@pytest.fixture
def challenge(shared):
    return read_class_table(shared / "data/challenge/classes.csv")


def test_atoms_are_found_through_composites(tmp_path):
    table = table_of(tmp_path, TABLE)
    assert table["membrane"] == {1}
    assert table["organelle"] == {1, 2}
    assert table["cell"] == {1, 2, 3, 77}  # Id 77 has no row.


def test_atoms_are_what_the_classes_tell_apart(tmp_path):
    table = table_of(tmp_path, TABLE)
    # No class names ribo or 77: they are the rest of the cell. `strange` is not in the table.
    assert find_atoms(["cell", "organelle", "lumen", "out", "strange"], table) == [
        ["cell", "organelle"],
        ["cell", "organelle", "lumen"],
        ["cell"],
        ["out"],
    ]
    assert find_atoms(["organelle"], table) == [["organelle"]]
    assert find_atoms(["strange"], table) == []


def test_scored_classes_of_the_challenge_have_34_atoms(challenge, shared):
    scored = (shared / "data/challenge/tested_classes.csv").read_text().replace(",", " ").split()
    scored = [label for label in scored if label in challenge]
    atoms = find_atoms(scored, challenge)
    assert (len(scored), len(atoms)) == (48, 34)
    # They are no tree: er and nuc overlap in part.
    assert any({"er", "nuc"} <= set(atom) for atom in atoms)
    assert any("er" in atom and "nuc" not in atom for atom in atoms)
    assert any("nuc" in atom and "er" not in atom for atom in atoms)


def test_voxels_imply_other_classes(tmp_path):
    table = table_of(tmp_path, TABLE)
    annotated = ["out", "organelle", "membrane", "ribo", "strange"]
    assert implied(annotated, ["cell", "organelle", "membrane", "other"], table) == {
        "cell": (["organelle", "membrane", "ribo"], ["out"]),
        "organelle": (["membrane"], ["out", "ribo"]),
        # A voxel of an organelle may or may not be membrane.
        "membrane": ([], ["out", "ribo"]),
        "other": ([], []),
    }


def test_row_order_and_whitespace_do_not_matter(tmp_path):
    lines = TABLE.splitlines()
    spelled = "\r\n\r\n".join(line.replace("1,2", " 1, 2 ") for line in lines[::-1])
    assert table_of(tmp_path, spelled, "utf-8-sig") == table_of(tmp_path, TABLE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("a,1\n", "line 1: 2 columns"),
        ('a,1,""\nb,x,""\n', "line 2: 'x' is not an id"),
        ('a,1,"2,-3"\n', "line 1: '-3' is not an id"),
        ('a,1,""\n,2,""\n', "line 2: '' is not the name"),
        ('a,1,""\n\na,2,""\n', "line 3: class 'a' or id 2"),
        ('a,1,""\nb,1,""\n', "line 2: class 'b' or id 1"),
        ('a,1,""\nb,2,"3"\nc,3,"1,2"\n', "line 2: class 2 includes itself"),
    ],
)
def test_errors_name_file_and_line(text, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        table_of(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "classes.csv"))


def test_unreadable_tables_are_refused(tmp_path):
    with pytest.raises(InputError, match="none.csv does not exist"):
        read_class_table(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"\xe9\xff")
    with pytest.raises(InputError, match="latin.csv line 1 is not UTF-8"):
        read_class_table(tmp_path / "latin.csv")


@pytest.mark.parametrize(
    ("voxel", "label", "positive"),
    [
        ("mito_mem", "mito", True),
        ("mito_mem", "cell", True),
        ("mito_mem", "er", False),
        ("mito", "mito_mem", None),
        ("ecs", "cell", False),
        ("nuc", "cell", True),
        ("nuc", "er", None),  # Both include the nuclear envelope.
        ("er", "nuc", None),
        ("ne", "er", True),
        ("ne", "nuc", True),
        ("chrom", "nuc", True),
        ("np_in", "ne_mem_all", True),
        ("mt_in", "mt", True),
        ("actin", "cell", True),
        ("mito", "mito", None),
    ],
)
def test_real_table_of_the_challenge_has_known_facts(voxel, label, positive, challenge):
    assert len(challenge) == 74
    yes, no = implied([voxel], [label], challenge)[label]
    assert (yes, no) == {
        True: ([voxel], []), False: ([], [voxel]), None: ([], []),
    }[positive]  # fmt: skip


def test_torch_is_not_imported():
    code = "import sys, cellmap_pipeline.data.class_table; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


ATOMS = {
    "mem": frozenset([1]), "lum": frozenset([2]), "ribo": frozenset([3]), "er": frozenset([4]),
    "inner": frozenset([2, 3]), "mito": frozenset([1, 2, 3]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "parts"),
    [
        (["mem", "lum", "ribo", "er"], ["mem", "lum", "ribo"]),
        (["ribo", "mem", "lum", "inner"], ["mem", "inner"]),
        (["mem", "lum"], []),
        (["mito", "mem", "inner", "unknown"], ["mem", "inner"]),
        ([], []),
    ],
    ids=str,
)
def test_parts_of_a_class(classes, parts):
    assert parts_of("mito", classes, ATOMS) == parts
    assert parts_of("nowhere", classes, ATOMS) == []
