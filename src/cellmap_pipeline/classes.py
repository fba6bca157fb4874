"""The classes of the challenge: which are scored as instances, and their style in figures.

Colors are those of Okabe and Ito (https://jfly.uni-koeln.de/color) without black and with the wine
of Paul Tol's palettes. They can be distinguished with any color vision; hatches, markers and line
styles distinguish the classes in black and white.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#F0E442",
)  # fmt: skip
# The number of hatches and markers (11) has no common factor with that of colors (8): together they
# give 88 styles.
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "---", "+++", "|||", "///...", "OO")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)))
# The classes of the challenge (its classes.csv), the most common ones first. Neighbors in this list
# have the most different styles.
CLASSES = (
    "nuc", "mito", "er", "golgi", "ves", "pm", "ne", "mito_mem", "cell", "ecs", "cyto", "mito_lum",
    "er_mem", "er_lum", "ves_mem", "ves_lum", "endo", "lyso", "ld", "perox", "np", "mt", "vim",
    "golgi_mem", "golgi_lum", "endo_mem", "endo_lum", "lyso_mem", "lyso_lum", "ld_mem", "ld_lum",
    "ne_mem", "ne_lum", "perox_mem", "perox_lum", "eres", "eres_mem", "eres_lum", "mito_ribo",
    "np_out", "np_in", "chrom", "hchrom", "nhchrom", "echrom", "nechrom", "nucpl", "nucleo",
    "mt_out", "mt_in", "er_mem_all", "ne_mem_all", "cent", "cent_dapp", "cent_sdapp", "cent_all",
    "ribo", "glyco", "rbc", "isg", "isg_mem", "isg_lum", "isg_ins", "actin", "tbar", "bm",
    "chloroplast", "chloroplast_mem", "chloroplast_lum", "chloroplast_sg", "vacuole",
    "vacuole_mem", "vacuole_lum", "plasmodesmata",
)  # fmt: skip


# The official evaluator's list (cellmap-segmentation-challenge, config.INSTANCE_CLASSES).
INSTANCE_CLASSES: frozenset[str] = frozenset(
    {"nuc", "vim", "ves", "endo", "lyso", "ld", "perox", "mito", "np", "mt", "cell", "instance"}
)


def is_instance(label: str) -> bool:
    """Whether the evaluator matches the objects of `label` one to one, or else counts voxels."""
    return label in INSTANCE_CLASSES


@dataclass(frozen=True)
class ClassStyle:
    """How a class is drawn in figures.

    Attributes
    ----------
    color
        Color, as a hexadecimal string.
    hatch, marker, line
        Hatch, marker and line style of matplotlib.
    """

    color: str
    hatch: str
    marker: str
    line: Any


def style_of(label: str) -> ClassStyle:
    """Return the style of a class; it is fixed, also for classes unknown to the challenge."""
    n = CLASSES.index(label) if label in CLASSES else zlib.crc32(label.encode())
    return ClassStyle(
        COLORS[n % len(COLORS)],
        HATCHES[n % len(HATCHES)],
        MARKERS[n % len(MARKERS)],
        LINES[n % len(LINES)],
    )


def in_class_order(labels: Sequence[str]) -> list[str]:
    """Sort `labels` as all figures list them: known classes first, the rest by name."""
    known = {label: i for i, label in enumerate(CLASSES)}
    return sorted(labels, key=lambda label: (known.get(label, len(known)), label))
