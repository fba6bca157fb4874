"""Relations between classes, from the challenge's class table.

Format (cellmap-segmentation-challenge, classes.csv): a CSV without header whose rows are
`name,id,"ids of the included classes"`; a class that includes none is a leaf. No voxel belongs to
two leaves, and a class is the union of its leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.tables import csv_lines, is_number, read_csv_text

# The ids of the leaves of each class, by name.
ClassTable = Mapping[str, frozenset[int]]


def read_class_table(path: Path) -> dict[str, frozenset[int]]:
    """Read the ids of the leaves of each class from the table at `path`.

    Included ids are resolved recursively; an id without a row is a leaf.

    Raises
    ------
    InputError
        The table cannot be read; or a row is malformed, repeats a name or an id, or includes
        itself. The message has its line number.
    """
    text = read_csv_text(path, "class table", "give the path of the challenge's classes.csv")
    return parse_class_table(text, str(path))


def parse_class_table(text: str, path: str) -> dict[str, frozenset[int]]:
    """Parse the ids of the leaves of each class from a table's text; errors name it `path`."""
    id_of: dict[str, int] = {}
    included: dict[int, list[int]] = {}
    line_of: dict[int, int] = {}
    for line, fields in csv_lines(text, path):
        where = f"{path} line {line}"
        name, number, includes = _parse_row(fields, where)
        if name in id_of or number in line_of:
            raise InputError(
                f"{where}: class {name!r} or id {number} is already on another line: each class "
                "has one row and a unique id"
            )
        id_of[name], included[number], line_of[number] = number, includes, line
    if not id_of:
        raise InputError(f"{path} has no rows: it must list the classes as name,id,included ids")
    return {
        name: frozenset(_leaves(number, included, (), f"{path} line {line_of[number]}"))
        for name, number in id_of.items()
    }


def implied(
    annotated: Sequence[str], wanted: Sequence[str], table: ClassTable
) -> dict[str, tuple[list[str], list[str]]]:
    """Find the annotated classes whose voxels imply whether a wanted class is present.

    Parameters
    ----------
    annotated, wanted
        Names of classes; those missing from `table` are unrelated to all others.
    table
        The leaves of each class, as returned by `read_class_table`.

    Returns
    -------
    Per wanted class the annotated classes whose voxels also belong to it (it has all their leaves),
    and those whose voxels do not (they share no leaf), in the order of `annotated`.
    """
    decides: dict[str, tuple[list[str], list[str]]] = {}
    for label in wanted:
        others = [c for c in annotated if c != label and c in table and label in table]
        decides[label] = (
            [c for c in others if table[c] <= table[label]],
            [c for c in others if table[c].isdisjoint(table[label])],
        )
    return decides


def parts_of(label: str, classes: Sequence[str], table: ClassTable) -> list[str]:
    """List disjoint members of `classes` that together compose `label`; empty if they cannot."""
    leaves = table.get(label, frozenset())
    inside = [c for c in classes if c != label and c in table and table[c] <= leaves]
    parts, covered = set[str](), frozenset[int]()
    for name in sorted(inside, key=lambda c: -len(table[c])):
        if table[name].isdisjoint(covered):
            parts.add(name)
            covered |= table[name]
    return [c for c in inside if c in parts] if covered == leaves else []


def find_atoms(classes: Sequence[str], table: ClassTable) -> list[list[str]]:
    """Find the smallest disjoint parts that the unions of `classes` tell apart.

    Leaves of the table that the same classes include form one atom, so a class that is not in
    `classes` separates nothing. The classes need not form a tree: they may overlap in part.

    Parameters
    ----------
    classes
        Names of classes; those missing from `table` are in no atom.
    table
        The leaves of each class, as returned by `read_class_table`.

    Returns
    -------
    For each atom, the members of `classes` that contain it, in their order; atoms are sorted by
    their first leaf. Leaves that none of the classes contains are left out.
    """
    leaves = sorted(set().union(*(table.get(label, ()) for label in classes)))
    containing = ([label for label in classes if leaf in table.get(label, ())] for leaf in leaves)
    return list(map(list, dict.fromkeys(map(tuple, containing))))


def _parse_row(fields: list[str], where: str) -> tuple[str, int, list[int]]:
    if len(fields) != 3:
        raise InputError(
            f'{where}: {len(fields)} columns, but a row is name,id,"ids of the included classes"'
        )
    name, number, includes = fields
    ids = [part.strip() for part in includes.split(",")] if includes else []
    wrong = [part for part in (number, *ids) if not is_number(part)]
    if not name or wrong:
        raise InputError(
            f"{where}: {wrong[0] if wrong else name!r} is not "
            f"{'an id (a whole number)' if wrong else 'the name of a class'}; a row is "
            'name,id,"ids of the included classes"'
        )
    return name, int(number), [int(part) for part in ids]


def _leaves(
    number: int, included: Mapping[int, Sequence[int]], inside: tuple[int, ...], where: str
) -> set[int]:
    """Resolve the leaves of class `number`, which is included by the classes `inside`."""
    if number in inside:
        raise InputError(f"{where}: class {number} includes itself, directly or through others")
    parts = included.get(number, ())
    if not parts:
        return {number}
    return set().union(*(_leaves(part, included, (*inside, number), where) for part in parts))
