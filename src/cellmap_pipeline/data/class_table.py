"""Relations between classes, from the challenge's class table.

Format (cellmap-segmentation-challenge, classes.csv): a CSV without header whose rows are
`name,id,"ids of the included classes"`; a class that includes none is an atom. No voxel belongs to
two atoms, and a class is the union of its atoms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.tables import csv_lines, is_number, read_csv_text


def read_class_table(path: Path) -> dict[str, frozenset[int]]:
    """Read the ids of the atoms of each class from the table at `path`.

    Included ids are resolved recursively; an id without a row is an atom.

    Raises
    ------
    InputError
        The table cannot be read; or a row is malformed, repeats a name or an id, or includes
        itself. The message has its line number.
    """
    text = read_csv_text(path, "class table", "give the path of the challenge's classes.csv")
    return parse_class_table(text, str(path))


def parse_class_table(text: str, path: str) -> dict[str, frozenset[int]]:
    """Parse the ids of the atoms of each class from a table's text; errors name it `path`."""
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
        name: frozenset(_atoms(number, included, (), f"{path} line {line_of[number]}"))
        for name, number in id_of.items()
    }


def implied(
    annotated: Sequence[str], wanted: Sequence[str], table: Mapping[str, frozenset[int]]
) -> dict[str, tuple[list[str], list[str]]]:
    """Find the annotated classes whose voxels imply whether a wanted class is present.

    Parameters
    ----------
    annotated, wanted
        Names of classes; those missing from `table` are unrelated to all others.
    table
        The atoms of each class, as returned by `read_class_table`.

    Returns
    -------
    Per wanted class the annotated classes whose voxels also belong to it (it has all their atoms),
    and those whose voxels do not (they share no atom), in the order of `annotated`.
    """
    decides: dict[str, tuple[list[str], list[str]]] = {}
    for label in wanted:
        others = [c for c in annotated if c != label and c in table and label in table]
        decides[label] = (
            [c for c in others if table[c] <= table[label]],
            [c for c in others if table[c].isdisjoint(table[label])],
        )
    return decides


def parts_of(label: str, classes: Sequence[str], table: Mapping[str, frozenset[int]]) -> list[str]:
    """List disjoint members of `classes` that together compose `label`; empty if they cannot."""
    atoms = table.get(label, frozenset())
    inside = [c for c in classes if c != label and c in table and table[c] <= atoms]
    parts, covered = set[str](), frozenset[int]()
    for name in sorted(inside, key=lambda c: -len(table[c])):
        if table[name].isdisjoint(covered):
            parts.add(name)
            covered |= table[name]
    return [c for c in inside if c in parts] if covered == atoms else []


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


def _atoms(
    number: int, included: Mapping[int, Sequence[int]], inside: tuple[int, ...], where: str
) -> set[int]:
    """Resolve the atoms of class `number`, which is included by the classes `inside`."""
    if number in inside:
        raise InputError(f"{where}: class {number} includes itself, directly or through others")
    parts = included.get(number, ())
    if not parts:
        return {number}
    return set().union(*(_atoms(part, included, (*inside, number), where) for part in parts))
