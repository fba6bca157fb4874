"""Checks of the data folder: links, permissions, names, and folders at the wrong level."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path

from cellmap_pipeline.data.layout import crop_folders

LABELS = "labels/groundtruth"


class Layout:
    """Problems of the folders of crops in `{dataset}/{dataset}.zarr/recon-*/…`.

    Parameters
    ----------
    data_root
        Folder of the datasets.
    datasets, numbers, classes
        Datasets, crop numbers and classes to check; None checks all.

    Attributes
    ----------
    problems, warnings
        A line each.
    empty
        Whether the data folder contains no crops at all.
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
        self._data_root = data_root.resolve()
        crops: dict[tuple[str, int], list[Path]] = defaultdict(list)
        for dataset in self._folders(data_root, "*", datasets):
            for recon in self._reconstructions(dataset):
                for path in self._folders(recon / LABELS, "crop*"):
                    number = path.name.removeprefix("crop")
                    if not (number.isascii() and number.isdecimal()):
                        self.warnings.append(
                            f"{path} is ignored: its name is not `crop` and a number"
                        )
                    elif numbers is None or int(number) in numbers:
                        crops[dataset.name, int(number)].append(path)
                        self._folders(path, "*", classes)
        for paths in crops.values():
            if len(paths) > 1:
                self.problems.append(
                    f"{paths[0]} and {paths[1]} have the same dataset and crop number: move one "
                    "out of the data folder, or renumber it"
                )
        self.empty = not crops and not crop_folders(data_root)
        if self.empty and not self.problems:
            self.problems.append(
                f"data_root: {data_root} contains no {{dataset}}/{{dataset}}.zarr/recon-1/{LABELS}/"
                f"crop{{number}}: {_remedy(data_root)}"
            )

    def _reconstructions(self, dataset: Path) -> list[Path]:
        """List the reconstructions of a dataset that have labels."""
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
        self, folder: Path, pattern: str, allowed: Collection[str] | None = None
    ) -> list[Path]:
        """List the entries of a folder with allowed names, and record their problems."""
        try:
            names = sorted(os.listdir(folder))
        except NotADirectoryError:
            return []
        except OSError as error:
            self.problems.append(
                f"{folder} cannot be listed ({error.strerror}): ask its owner for read permission"
            )
            return []
        paths = [
            folder / name
            for name in names
            if not name.startswith(".")
            and fnmatch(name, pattern)
            and (allowed is None or name in allowed)
        ]
        return [path for path in paths if not path.is_symlink() or self._check_link(path)]

    def _check_link(self, link: Path) -> bool:
        """Whether a link's target exists; warn if it is outside the data folder."""
        if not os.path.exists(link):
            self.problems.append(
                f"{link} is a link to {os.readlink(link)}, which does not exist or is not readable"
                ": correct or remove the link"
            )
            return False
        target = link.resolve()
        if not target.is_relative_to(self._data_root):
            self.warnings.append(
                f"{link} is a link to {target}, outside the data folder: it must exist on every "
                "machine that runs jobs"
            )
        return True


def _remedy(data_root: Path) -> str:
    """Suggest how to correct a data folder without crops."""
    corrections: Sequence[tuple[str, Path]] = [
        ("recon-*", data_root.absolute().parent.parent),
        ("*.zarr/recon-*", data_root.absolute().parent),
    ]
    for pattern, corrected in corrections:
        if any(data_root.glob(pattern)):
            return f"it is inside a dataset; set data_root to {corrected}"
    for recon in data_root.glob("*/*/*.zarr/recon-*"):
        return f"set data_root to {recon.parents[2]}"
    for recon in data_root.glob("*/*.zarr/recon-*"):
        dataset = recon.parents[1].name
        if recon.parent.name != f"{dataset}.zarr":
            return f"rename {recon.parent} to {dataset}.zarr, like its folder"
    n5 = any(data_root.glob("*/*.n5"))
    note = "labels must be zarr, only raw may be n5; " if n5 else ""
    return f"{note}see docs/own-data.md for the layout"
