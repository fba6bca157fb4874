"""Where raw and labels of a crop lie below the data folder."""

from __future__ import annotations

from pathlib import Path


def crop_folders(data_root: str | Path, number: int | str = "*") -> list[Path]:
    """The folders of labels that are here, of all crops or of one: those of other names than
    `{dataset}/{dataset}.zarr/…/crop{number}` are none.
    """
    found = Path(data_root).glob(f"*/*.zarr/recon-*/labels/groundtruth/crop{number}")
    return sorted(
        folder
        for folder in found
        if folder.parents[3].name == f"{folder.parents[4].name}.zarr"
        and folder.name.removeprefix("crop").isdecimal()
    )


RAW = "em/fibsem-uint8"


def raw_path(data_root: str | Path, dataset: str) -> Path:
    """Where the raw of `dataset` lies."""
    zarr = Path(data_root) / dataset / f"{dataset}.zarr"
    # Where there is no zarr the official tools read n5.
    for store in (zarr, zarr.with_suffix(".n5")):
        found = sorted(store.glob(f"recon-*/{RAW}"))
        if found:
            return found[0]
    return zarr / "recon-1" / RAW
