"""What is wrong with a submission.zip."""

import json
import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cellmap_pipeline import checking
from cellmap_pipeline.checking import Problem, check
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel, read_manifest

GRID = Grid((3.48, 4, 4), (23837.13, 7600, 36000), (10, 12, 8))
MANIFEST = [CropLabel(crop, "a-1", label, GRID) for crop in (1, 2) for label in ("er", "mito")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A submission that is fine, not zipped yet."""
    group = zarr.open_group(str(tmp_path / "submission"), mode="w")
    for row in MANIFEST:
        group.require_group(f"crop{row.crop}")
        replace(tmp_path / "submission" / f"crop{row.crop}" / row.label, voxels("u1"))
    return tmp_path / "submission"


def voxels(dtype: str, value: Any = 1) -> np.ndarray:
    array = np.zeros(GRID.shape, dtype)
    array[4:7, 4:7, 4:7] = value
    return array


def replace(path: Path, array: np.ndarray, **attributes: Any) -> None:
    stored = zarr.open(str(path), mode="w", shape=array.shape, dtype=array.dtype, chunks=(8, 8, 8))
    stored[:] = array
    own = {"voxel_size": GRID.voxel_size, "translation": GRID.translation, "shape": GRID.shape}
    stored.attrs.update(own | attributes)


def zipped(folder: Path, prefix: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_nothing_is_wrong(folder: Path) -> None:
    assert check(zipped(folder), MANIFEST) == []
    assert check(zipped(folder, "submission.zarr/"), MANIFEST) == []


def test_golden_submission(shared: Path) -> None:
    golden = shared / "golden" / "submission"
    manifest = read_manifest(golden / "test_crop_manifest.csv")
    problems = check(golden / "submission.zip", manifest)
    assert [(p.severity, p.crop, p.label) for p in problems] == [
        ("costs", "crop102", "ecs"),
        ("costs", "crop103", None),
    ]
    assert "golgi, mito" in problems[1].message


def break_chunk(folder: Path) -> None:
    (folder / "crop1" / "er" / "0.0.0").write_bytes(b"broken")


def zarr_3(folder: Path) -> None:
    (folder / "crop1" / "er" / ".zarray").rename(folder / "crop1" / "er" / "zarr.json")


def metadata(folder: Path, **values: Any) -> None:
    path = folder / "crop1" / "er" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "severity", "where", "message"),
    [
        (lambda f: (f / ".zgroup").unlink(), "rejected", (None, None), ".zgroup is missing: add"),
        (lambda f: (f / "crop1" / ".zgroup").unlink(), "rejected", ("crop1", None),
         "crop1/.zgroup is missing: add"),
        (zarr_3, "rejected", ("crop1", "er"), "zarr.json is zarr 3"),
        (break_chunk, "rejected", ("crop1", "er"), "a chunk cannot be decoded"),
        (lambda f: metadata(f, shape=None), "rejected", ("crop1", "er"), "broken zarr 2 metadata"),
        (lambda f: metadata(f, chunks=[9999, 9999, 9999]), "rejected", ("crop1", "er"),
         "above 2 GiB"),
        (lambda f: metadata(f, shape=[10**4] * 3), "rejected", ("crop1", "er"),
         "times the crop's voxels"),
        (lambda f: (f / "crop1" / "er" / ".zattrs").write_text("{"), "rejected", ("crop1", "er"),
         ".zattrs cannot be read"),
        (lambda f: replace(f / "crop1" / "er", np.zeros((1, *GRID.shape), "u1")), "rejected",
         ("crop1", "er"), "must have the axes z, y, x"),
        (lambda f: shutil.rmtree(f / "crop1" / "er"), "costs", ("crop1", "er"),
         "the label is missing: add it"),
        (lambda f: shutil.rmtree(f / "crop1"), "costs", ("crop1", None),
         "the crop is missing (er, mito)"),
        (lambda f: shutil.copytree(f / "crop1", f / "crop9"), "costs", ("crop9", None),
         "the manifest has no such crop"),
        (lambda f: shutil.copytree(f / "crop1" / "er", f / "crop1" / "ER"), "costs",
         ("crop1", "ER"), "does not ask for this label"),
        (lambda f: zarr.open_group(str(f / "crop1" / "er"), mode="w").create_dataset(
            "s0", data=voxels("u1")), "costs", ("crop1", "er"), "a group, which the evaluator"),
        (lambda f: replace(f / "crop1" / "er", voxels("u1"), voxel_size=[4, 4, 4]), "costs",
         ("crop1", "er"), "voxel_size is [4, 4, 4] but the manifest says [3.48, 4.0, 4.0]"),
        (lambda f: replace(f / "crop1" / "er", voxels("u1"), translation=[0, 0, 0]), "costs",
         ("crop1", "er"), "translation is [0, 0, 0]"),
        (lambda f: replace(f / "crop1" / "er", voxels("u1"), translation="here"), "costs",
         ("crop1", "er"), "translation is here"),
        (lambda f: replace(f / "crop1" / "er", voxels("u1")[1:]), "costs", ("crop1", "er"),
         "the shape is [9, 12, 8]"),
        (lambda f: replace(f / "crop1" / "er", voxels("u1", 255)), "costs", ("crop1", "er"),
         "values other than 0 and 1"),
        (lambda f: replace(f / "crop1" / "er", voxels("i8")), "costs", ("crop1", "er"),
         "has the type int64: write uint8"),
        (lambda f: replace(f / "crop1" / "mito", voxels("i8")), "costs", ("crop1", "mito"),
         "write ids in an unsigned type"),
    ],
)  # fmt: skip
def test_each_kind_is_named(
    folder: Path,
    damage: Callable[[Path], Any],
    severity: str,
    where: tuple[str | None, str | None],
    message: str,
) -> None:
    damage(folder)
    problem = only(check(zipped(folder), MANIFEST))
    assert (problem.severity, problem.crop, problem.label) == (severity, *where)
    assert message in problem.message
    assert str(problem).startswith(severity)


def test_floats(folder: Path) -> None:
    replace(folder / "crop1" / "er", voxels("f4", np.nan))
    replace(folder / "crop2" / "mito", voxels("f4", -0.5))
    problems = [(p.crop, p.label, p.message.split(":")[0]) for p in check(zipped(folder), MANIFEST)]
    assert problems == [
        ("crop1", "er", "has the type float32"),
        ("crop1", "er", "holds NaN"),
        ("crop1", "er", "holds values other than 0 and 1, and all above 0 counts as inside"),
        ("crop2", "mito", "has the type float32"),
        ("crop2", "mito", "holds fractions, and every value becomes an object of its own"),
        ("crop2", "mito", "holds ids below 0"),
    ]


def test_no_zip(tmp_path: Path) -> None:
    (tmp_path / "s.zip").write_text("no")
    for path in (tmp_path / "s.zip", tmp_path / "nothing.zip", tmp_path):
        problem = only(check(path, MANIFEST))
        assert problem.severity == "rejected"
        assert "is not a zip file" in problem.message


def test_links_and_paths_out_of_the_archive(folder: Path) -> None:
    path = zipped(folder)
    link = zipfile.ZipInfo("crop1/er/1.0.0.link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../outside", "")
        archive.writestr("/outside", "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr("crop2/mito/0.0.0", "")
    problems = check(path, MANIFEST)
    assert [(p.severity, p.crop, p.label) for p in problems] == [
        ("rejected", "crop1", "er"),
        ("rejected", None, None),
        ("rejected", None, None),
        ("rejected", "crop2", "mito"),
    ]
    assert "is a link" in problems[0].message
    assert "../outside leaves the archive" in problems[1].message
    assert "in the zip twice" in problems[3].message


def test_unpacked_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MAX_BYTES", 1000)
    assert "above the limit" in only(check(zipped(folder), MANIFEST)).message


def test_several_zarr_folders(folder: Path) -> None:
    path = zipped(folder, "a.zarr/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.zarr/.zgroup", "{}")
    assert "several zarr folders" in only(check(path, MANIFEST)).message


def test_truncated_chunk_and_archive(folder: Path) -> None:
    path = zipped(folder)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("crop1/er/0.0.0").header_offset
    path.write_bytes(data[: offset + 80] + bytes(4) + data[offset + 84 :])
    problem = only(check(path, MANIFEST))
    assert (problem.crop, problem.label) == ("crop1", "er")
    assert "a chunk cannot be decoded" in problem.message
    path.write_bytes(data[:-100])
    assert only(check(path, MANIFEST)).severity == "rejected"
