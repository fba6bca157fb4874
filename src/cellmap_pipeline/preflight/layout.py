"""The data folder as it lies there: links, rights, names, and folders at the wrong height."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path

from cellmap_pipeline.data.layout import crop_folders

LABELS = "labels/groundtruth"


class Layout:
    """What is wrong with the folders of the crops in `{dataset}/{dataset}.zarr/recon-*/…`.

    Parameters
    ----------
    data_root
        Folder of the datasets.
    datasets, numbers, classes
        That are looked at; None: all.

    Attributes
    ----------
    problems, warnings
        A line each.
    empty
        Whether no crop is there, whichever the trainings look at.
    """

    def __init__(
        self,
        data_root: Path,
        datasets: Collection[str] | None = None,
        numbers: Collection[int] | None = None,
        classes: Collection[str] | None = None,
    ) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._home = data_root.resolve()
        same: dict[tuple[str, int], list[Path]] = defaultdict(list)
        for dataset in self._folders(data_root, "*", datasets):
            for recon in self._reconstructions(dataset):
                for path in self._folders(recon / LABELS, "crop*"):
                    number = path.name.removeprefix("crop")
                    if not (number.isascii() and number.isdecimal()):
                        self.warnings.append(
                            f"{path} is left out: its name is not `crop` and a number"
                        )
                    elif numbers is None or int(number) in numbers:
                        same[dataset.name, int(number)].append(path)
                        self._folders(path, "*", classes)
        for paths in same.values():
            if len(paths) > 1:
                self.problems.append(
                    f"{paths[0]} and {paths[1]} are the same crop by dataset and number: move one "
                    "of the two out of the data, or give it another number"
                )
        self.empty = not same and not crop_folders(data_root)
        if self.empty and not self.problems:
            self.problems.append(
                f"data_root: {data_root} holds no {{dataset}}/{{dataset}}.zarr/recon-1/{LABELS}/"
                f"crop{{number}}: {_remedy(data_root)}"
            )

    def _reconstructions(self, dataset: Path) -> list[Path]:
        """Those of a dataset in whose zarr labels are looked for."""
        zarr = dataset / f"{dataset.name}.zarr"
        if not dataset.is_dir() or zarr not in self._folders(dataset, "*.zarr"):
            return []
        return [
            recon
            for recon in self._folders(zarr, "recon-*")
            if recon / "labels" in self._folders(recon, "labels")
            and self._folders(recon / "labels", "groundtruth")
        ]

    def _folders(
        self, folder: Path, pattern: str, among: Collection[str] | None = None
    ) -> list[Path]:
        """What lies in a folder by names that are looked for; what is wrong with it is noted."""
        try:
            names = sorted(os.listdir(folder))
        except NotADirectoryError:
            return []
        except OSError as error:
            self.problems.append(
                f"{folder} cannot be listed ({error.strerror}): ask its owner for the right to read"
            )
            return []
        paths = [
            folder / name
            for name in names
            if not name.startswith(".")
            and fnmatch(name, pattern)
            and (among is None or name in among)
        ]
        return [path for path in paths if not path.is_symlink() or self._leads_somewhere(path)]

    def _leads_somewhere(self, link: Path) -> bool:
        if not os.path.exists(link):
            self.problems.append(
                f"{link} is a link to {os.readlink(link)}, which does not exist here or may not be "
                "read: correct or remove the link"
            )
            return False
        target = link.resolve()
        if not target.is_relative_to(self._home):
            self.warnings.append(
                f"{link} is a link out of the data, to {target}: that must be there on every "
                "machine that runs jobs"
            )
        return True


def _remedy(data_root: Path) -> str:
    """What to set `data_root` to instead, as far as can be seen."""
    ways: Sequence[tuple[str, Path]] = [
        ("recon-*", data_root.absolute().parent.parent),
        ("*.zarr/recon-*", data_root.absolute().parent),
    ]
    for pattern, instead in ways:
        if any(data_root.glob(pattern)):
            return f"that is a dataset itself; set data_root to {instead}"
    for deeper in data_root.glob("*/*/*.zarr/recon-*"):
        return f"set data_root to {deeper.parents[2]}"
    for other in data_root.glob("*/*.zarr/recon-*"):
        dataset = other.parents[1].name
        if other.parent.name != f"{dataset}.zarr":
            return f"{other.parent} is to have the name of its folder, {dataset}.zarr"
    n5 = any(re.search(r"\.n5$", str(path)) for path in data_root.glob("*/*.n5"))
    lack = "labels are read from zarr, only raw from n5; " if n5 else ""
    return f"{lack}see docs/own-data.md for the layout"
