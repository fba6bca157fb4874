"""Layout of the data folder: the paths of raw and labels."""

from __future__ import annotations

from pathlib import Path


def crop_folders(data_root: str | Path, number: int | str = "*") -> list[Path]:
    """List the local label folders of all crops, or of the crop `number`.

    Folders that do not match `{dataset}/{dataset}.zarr/…/crop{number}` are ignored.
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
    """Return the path of the raw of `dataset`."""
    zarr = Path(data_root) / dataset / f"{dataset}.zarr"
    # The official tools read n5 if there is no zarr.
    for store in (zarr, zarr.with_suffix(".n5")):
        found = sorted(store.glob(f"recon-*/{RAW}"))
        if found:
            return found[0]
    return zarr / "recon-1" / RAW


def label_path(data_root: str | Path, dataset: str, crop: int, label: str) -> Path:
    """Return the path of a new label of a crop of `dataset`."""
    recon = Path(data_root) / dataset / f"{dataset}.zarr/recon-1"
    return recon / f"labels/groundtruth/crop{crop}/{label}"
