"""What a voxel of one class says about the others, from the challenge's class table.

Format (cellmap-segmentation-challenge, classes.csv): a CSV without header whose rows are
`name,id,"ids of the included classes"`; a class that includes none is an atom. No voxel is of two
atoms at once, and a class is the union of its atoms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.tables import csv_lines, is_number, read_csv_text


def read_class_table(path: Path) -> dict[str, frozenset[int]]:
    """The atoms of each class of the table at `path`, by their ids.

    Included ids are followed through composites; an id that has no row is an atom.

    Raises
    ------
    InputError
        The table cannot be read; a row is malformed, repeats a name or an id, or includes itself
        (with its line number).
    """
    text = read_csv_text(path, "class table", "give the path of the challenge's classes.csv")
    return parse_class_table(text, str(path))


def parse_class_table(text: str, path: str) -> dict[str, frozenset[int]]:
    """The atoms of each class of a table given as text; `path` is what errors call it."""
    id_of: dict[str, int] = {}
    included: dict[int, list[int]] = {}
    line_of: dict[int, int] = {}
    for line, fields in csv_lines(text, path):
        where = f"{path} line {line}"
        name, number, includes = _parse_row(fields, where)
        if name in id_of or number in line_of:
            raise InputError(
                f"{where}: class {name!r} or id {number} stands in another line already: each "
                "class has one row and an id of its own"
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
    """Which annotated classes decide about a wanted one where they are present.

    Parameters
    ----------
    annotated, wanted
        Names of classes; those that are not in `table` relate to nothing.
    table
        The atoms of each class, as `read_class_table` gives them.

    Returns
    -------
    Per wanted class the annotated classes whose voxels are of it, too (all their atoms are its
    own), and those whose voxels are not (they share no atom), in the order of `annotated`.
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
    """Those of `classes` that together make `label`, no voxel twice; none where they don't."""
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
    """The atoms of class `number`, which is being resolved for the classes `inside`."""
    if number in inside:
        raise InputError(f"{where}: class {number} includes itself, directly or through others")
    parts = included.get(number, ())
    if not parts:
        return {number}
    return set().union(*(_atoms(part, included, (*inside, number), where) for part in parts))
