"""Checks of a submission.zip."""

import errno
import json
import lzma
import multiprocessing
import os
import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import LZ4, GZip, Zstd

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.errors import UnavailableError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.run import pools
from cellmap_pipeline.scoring import zip_entries
from cellmap_pipeline.scoring.submission import score_submission
from cellmap_pipeline.submission import check_voxels
from cellmap_pipeline.submission.check import check, exit_code
from cellmap_pipeline.submission.check_zip import Problem

GRID = Grid((3.48, 4, 4), (23837.13, 7600, 36000), (10, 12, 8))
MANIFEST = [CropLabel(crop, "a-1", label, GRID) for crop in (1, 2) for label in ("er", "mito")]
REJECTED, COSTS = "rejected", "costs"
ER, MITO, CROP, ALL = ("crop1", "er"), ("crop1", "mito"), ("crop1", None), (None, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of a valid submission, not zipped yet."""
    group = zarr.open_group(str(tmp_path / "submission"), mode="w")
    for row in MANIFEST:
        group.require_group(f"crop{row.crop}")
        write(tmp_path / "submission" / f"crop{row.crop}" / row.label, voxels("u1"))
    return tmp_path / "submission"


def voxels(dtype: str, value: Any = 1) -> np.ndarray:
    array = np.zeros(GRID.shape, dtype)
    array[4:7, 4:7, 4:7] = value
    return array


def write(path: Path, array: np.ndarray, options: dict[str, Any] | None = None, **attributes: Any):
    stored = zarr.open(
        str(path), mode="w", shape=array.shape, dtype=array.dtype,
        **({"chunks": (8, 8, 8)} | (options or {})),
    )  # fmt: skip
    stored[:] = array
    own = {"voxel_size": GRID.voxel_size, "translation": GRID.translation, "shape": GRID.shape}
    own |= attributes
    stored.attrs.update({key: value for key, value in own.items() if value is not ...})


def zipped(folder: Path, prefix: str = "", method: int = zipfile.ZIP_STORED) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def described(problem: Problem) -> tuple[str, str | None, str | None]:
    return problem.severity, problem.crop, problem.label


def test_valid_submission_has_no_problems(folder: Path) -> None:
    for path in (
        zipped(folder),
        zipped(folder, "submission.zarr/"),
        zipped(folder, "a/b/submission.zarr/"),
        zipped(folder, method=zipfile.ZIP_DEFLATED),
        zipped(folder, method=zipfile.ZIP_BZIP2),
    ):
        assert check(path, MANIFEST) == []
        assert check(path, MANIFEST, workers=2) == []
    assert exit_code([]) == 0


def test_every_layout_that_the_evaluator_accepts(folder: Path) -> None:
    """Accept other codecs, layouts and attribute names, and crops named by their number."""
    (folder / "crop1").rename(folder / "1")
    (folder / "crop2").rename(folder / "2")
    crop = folder / "1"
    attributes = {"voxel_size": ..., "translation": ...}
    attributes |= {"resolution": GRID.voxel_size, "offset": GRID.translation}
    write(crop / "er", voxels("u1"), {"compressor": GZip(), "order": "F"}, **attributes)
    write(crop / "mito", voxels(">u2"[1:], 900), {"compressor": LZ4(), "dimension_separator": "/"})
    write(folder / "2" / "er", voxels("bool"), {"compressor": None, "chunks": (10, 12, 8)})
    write(folder / "2" / "mito", voxels("u8", 2**40), {"compressor": Zstd(), "fill_value": 0,
                                                       "write_empty_chunks": False})  # fmt: skip
    assert check(zipped(folder), MANIFEST) == []


def test_golden_submission(shared: Path) -> None:
    golden = shared / "golden" / "submission"
    manifest = read_manifest(golden / "test_crop_manifest.csv")
    problems = check(golden / "submission.zip", manifest)
    assert [described(p) for p in problems] == [
        (COSTS, "crop102", "ecs"), (COSTS, "crop103", None), (COSTS, None, None),
    ]  # fmt: skip
    assert "golgi, mito" in problems[1].message


def remove(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def overwrite(name: str, content: bytes) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return damage


def er(array: np.ndarray, options: dict[str, Any] | None = None, **attributes: Any):
    return lambda folder: write(folder / "crop1" / "er", array, options, **attributes)


def mito(array: np.ndarray, options: dict[str, Any] | None = None, **attributes: Any):
    return lambda folder: write(folder / "crop1" / "mito", array, options, **attributes)


def metadata(**values: Any) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        path = folder / "crop1" / "er" / ".zarray"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def zarr_3(folder: Path) -> None:
    (folder / "crop1" / "er" / ".zarray").rename(folder / "crop1" / "er" / "zarr.json")


def as_a_group(folder: Path) -> None:
    zarr.open_group(str(folder / "crop1" / "er"), mode="w").create_dataset("s0", data=voxels("u1"))


def wrong_separator(folder: Path) -> None:
    write(folder / "crop1" / "er", voxels("u1"), {"dimension_separator": "/"})
    metadata(dimension_separator=".")(folder)


def lost_chunk(folder: Path) -> None:
    write(folder / "crop1" / "er", voxels("u1"), {"chunks": (4, 4, 4), "write_empty_chunks": True})
    (folder / "crop1" / "er" / "1.1.1").unlink()


def undefined_chunk(folder: Path) -> None:
    write(folder / "crop1" / "er", voxels("u1"), {"fill_value": None})
    (folder / "crop1" / "er" / "1.1.0").unlink()


def specks(n: int) -> np.ndarray:
    array = np.zeros(GRID.shape, "u1")
    places = np.argwhere(np.ones([-(-side // 2) for side in GRID.shape]))[:n] * 2
    array[tuple(places.T)] = 1
    return array


def touching_ids() -> np.ndarray:
    return np.arange(1, 1 + np.prod(GRID.shape)).reshape(GRID.shape).astype("u2")


DAMAGE: list[tuple[Callable[[Path], Any], str, tuple[str | None, str | None], str]] = [
    # groups
    (remove(".zgroup"), REJECTED, ALL, '.zgroup is missing, which the format requires'),
    (remove("crop1/.zgroup"), REJECTED, CROP, "crop1/.zgroup is missing"),
    (overwrite("crop1/.zgroup", b"{"), REJECTED, CROP, "crop1/.zgroup cannot be read"),
    (overwrite(".zgroup", b'{"zarr_format": 3}'), REJECTED, ALL, 'does not say {"zarr_format": 2}'),
    (overwrite("crop1/.zarray", b"{}"), REJECTED, CROP, "makes an array of a crop"),
    (zarr_3, REJECTED, ER, "zarr.json is zarr 3"),
    # metadata
    (metadata(shape=None), REJECTED, ER, "broken zarr 2 metadata"),
    (metadata(zarr_format=3), REJECTED, ER, "broken zarr 2 metadata"),
    (overwrite("crop1/er/.zarray", b"\xff\xfe"), REJECTED, ER, "broken zarr 2 metadata"),
    (overwrite("crop1/er/.zattrs", b"{"), REJECTED, ER, ".zattrs cannot be read"),
    (overwrite("crop1/er/.zattrs", b"[1]"), REJECTED, ER, ".zattrs must hold attributes by name"),
    (metadata(chunks=[9999] * 3), REJECTED, ER, "above 2 GiB"),
    (metadata(shape=[10**4] * 3), REJECTED, ER, "times the crop's voxels"),
    (metadata(compressor={"id": "none-such"}), REJECTED, ER, "the compressor none-such"),
    (metadata(filters=[{"id": "pickle"}]), REJECTED, ER, "the filter pickle is not one"),
    (metadata(filters=[{"id": "json2"}]), REJECTED, ER, "the filter json2"),
    (metadata(dtype="<M8[ns]"), REJECTED, ER, "has the type datetime64[ns]"),
    (er(np.zeros((1, *GRID.shape), "u1")), REJECTED, ER, "must have the axes z, y, x"),
    (mito(voxels(">u2")), REJECTED, MITO, "big-endian"),
    (er(voxels("u1"), translation="here"), REJECTED, ER, "the evaluator cannot place it"),
    (er(voxels("u1"), translation=[0, float("nan"), 0]), REJECTED, ER, "cannot place it"),
    (er(voxels("u1"), voxel_size=8), REJECTED, ER, "the evaluator cannot place it"),
    (er(voxels("u1"), voxel_size=[0, 4, 4]), REJECTED, ER, "must be above 0 on each axis"),
    (er(voxels("u1"), voxel_size=[4, 4]), REJECTED, ER, "the evaluator cannot place it"),
    (er(voxels("u1"), voxel_size=[1e5] * 3), REJECTED, ER, "billion voxels: correct it"),
    # chunks
    (overwrite("crop1/er/0.0.0", b"broken"), REJECTED, ER, "a chunk cannot be decoded (0.0.0: "),
    (overwrite("crop1/er/0.0.0", b""), REJECTED, ER, "a chunk cannot be decoded (0.0.0: "),
    (metadata(compressor=None), REJECTED, ER, "bytes, but a chunk has 512"),
    (metadata(chunks=[8, 8, 9]), REJECTED, ER, "but a chunk has 576"),
    (wrong_separator, COSTS, ER, "files such as 0/0/0 are not chunks according to .zarray"),
    (overwrite("crop1/er/9.0.0", b"?"), COSTS, ER, "1 files such as 9.0.0 are not chunks"),
    (lost_chunk, COSTS, ER, "1 of 18 chunks are missing, though empty ones are stored"),
    (undefined_chunk, COSTS, ER, "1 of 4 chunks are missing and .zarray has no fill_value"),
    # crops and labels
    (remove("crop1/er"), COSTS, ER, "the label is missing, and counts all 960 voxels"),
    (remove("crop1/mito"), COSTS, MITO, "all objects of the ground truth as missed"),
    (lambda f: shutil.copytree(f / "crop1", f / "crop9"), COSTS, ("crop9", None),
     "the manifest has no such crop"),
    (lambda f: shutil.copytree(f / "crop1" / "er", f / "crop1" / "ER"), COSTS, ("crop1", "ER"),
     "does not ask for this label"),
    (lambda f: shutil.copytree(f / "crop1" / "er", f / "crop1" / "er_mask"), REJECTED,
     ("crop1", "er_mask"), "the name of a ground-truth mask"),
    (as_a_group, COSTS, ER, "is a group, which the evaluator treats as missing"),
    # grids
    (er(voxels("u1"), voxel_size=[4, 4, 4]), COSTS, ER,
     "voxel_size is [4.0, 4.0, 4.0] but the manifest says [3.48, 4.0, 4.0]"),
    (er(voxels("u1"), translation=[0, 0, 0]), COSTS, ER, "translation is [0.0, 0.0, 0.0]"),
    # A translation half a picometer too low is floored to the previous voxel by the evaluator.
    (er(voxels("u1"), translation=[23837.13, 7599.9995, 36000]), COSTS, ER, "floors such arrays"),
    (er(voxels("u1"), voxel_size=...), COSTS, ER, "the attribute voxel_size is missing"),
    (er(voxels("u1"), translation=None), COSTS, ER, "the attribute translation is missing"),
    (er(voxels("u1")[1:]), COSTS, ER, "the shape is [9, 12, 8]"),
    # voxels
    (er(voxels("u1", 255)), COSTS, ER, "values other than 0 and 1"),
    (er(voxels("i8")), COSTS, ER, "has the type int64: write uint8"),
    (mito(voxels("i8")), COSTS, MITO, "write ids in an unsigned type"),
    (mito(voxels("u8", 2**63)), REJECTED, MITO, "ids of 2**63 or more"),
    (mito(specks(60)), COSTS, MITO, "far too many objects: 60 connected components, 60 of them"),
    (mito(touching_ids()), COSTS, MITO, "far too many objects: 960 connected components"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "severity", "where", "message"), DAMAGE, ids=[row[3][:40] for row in DAMAGE]
)
def test_each_kind_of_damage_is_reported(
    folder: Path,
    damage: Callable[[Path], Any],
    severity: str,
    where: tuple[str | None, str | None],
    message: str,
) -> None:
    damage(folder)
    problem = only(check(zipped(folder), MANIFEST))
    assert described(problem) == (severity, *where)
    assert message in problem.message
    assert str(problem).startswith(severity)
    # Every message tells what to do.
    assert ": " in problem.message or " to " in problem.message
    assert exit_code([problem]) == {REJECTED: 1, COSTS: 2}[severity]


def test_floats(folder: Path) -> None:
    write(folder / "crop1" / "er", voxels("f4", np.nan))
    write(folder / "crop2" / "mito", voxels("f4", -0.5))
    problems = [(p.crop, p.label, p.message.split(":")[0]) for p in check(zipped(folder), MANIFEST)]
    assert problems == [
        ("crop1", "er", "has the type float32"),
        ("crop1", "er", "holds NaN"),
        ("crop1", "er", "holds values other than 0 and 1, and all above 0 count as inside"),
        ("crop2", "mito", "has the type float32"),
        ("crop2", "mito", "holds fractions, and every value becomes a separate object"),
        ("crop2", "mito", "holds ids below 0"),
    ]


def test_upper_bound_without_missing_labels(folder: Path) -> None:
    remove("crop1")(folder)
    remove("crop2/er")(folder)
    problems = check(zipped(folder), MANIFEST)
    assert [described(p) for p in problems] == [
        (COSTS, "crop1", None), (COSTS, "crop2", "er"), (COSTS, None, None),
    ]  # fmt: skip
    # er: half of the voxels; mito: half of the objects, so an F1 of 2/3, and half of the distances.
    half = ((2 / 3 * 0.5) ** 0.5 * 0.5) ** 0.5
    assert (
        f"(er, mito), without which the overall score can reach {half:.4f}" in problems[0].message
    )
    assert "can reach 0.7071 at most" in problems[1].message
    assert "3 of 4 labels are missing" in problems[2].message
    assert "0.0000 at most" in problems[2].message


def test_all_problems_are_listed_rejections_first(folder: Path) -> None:
    write(folder / "crop1" / "er", voxels("u1", 7))
    overwrite("crop1/mito/0.0.0", b"no")(folder)
    remove("crop2/mito")(folder)
    write(folder / "crop2" / "er", voxels("u1"), translation="x")
    problems = check(zipped(folder), MANIFEST)
    assert [described(p) for p in problems] == [
        (REJECTED, "crop1", "mito"), (REJECTED, "crop2", "er"),
        (COSTS, "crop2", "mito"), (COSTS, "crop1", "er"),
    ]  # fmt: skip
    assert check(zipped(folder), MANIFEST, workers=2) == problems


def test_no_crop_of_the_manifest(folder: Path) -> None:
    (folder / "crop1").rename(folder / "crop11")
    (folder / "crop2").rename(folder / "crop12")
    problems = check(zipped(folder), MANIFEST)
    assert described(problems[0]) == (REJECTED, None, None)
    assert "holds none of the manifest's crops (it has: crop11, crop12)" in problems[0].message
    assert "name them crop{id}" in problems[0].message


def test_crops_in_a_subfolder(folder: Path) -> None:
    problems = check(zipped(folder, "my_submission/"), MANIFEST)
    message = next(p.message for p in problems if "none of the manifest's crops" in p.message)
    assert "(it has: my_submission)" in message
    assert "zip the contents of that folder" in message


def test_broken_directory(folder: Path) -> None:
    path = zipped(folder)
    content = path.read_bytes()
    start = content.index(b"PK\1\2")
    path.write_bytes(content[:start] + b"what" + content[start + 4 :])
    problem = only(check(path, MANIFEST))
    assert "the zip's directory cannot be read" in problem.message
    with pytest.raises(ValueError, match="the zip's directory cannot be read"):
        score_submission(path, folder, MANIFEST)


def test_path_that_is_not_a_zip(tmp_path: Path) -> None:
    (tmp_path / "s.zip").write_text("no")
    for path in (tmp_path / "s.zip", tmp_path / "nothing.zip", tmp_path):
        problem = only(check(path, MANIFEST))
        assert problem.severity == "rejected"
        assert "is not a zip file" in problem.message


def add(path: Path, **entries: bytes) -> None:
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in entries.items():
            archive.writestr(name, data)


def test_links_and_paths_out_of_the_archive(folder: Path) -> None:
    path = zipped(folder)
    link = zipfile.ZipInfo("crop1/er/1.0.0.link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    add(path, **{"../outside": b"", "/outside": b"", "crop2/mito/0.0.0": b"", "crop1/er": b""})
    problems = check(path, MANIFEST)
    assert [described(p) for p in problems] == [
        (REJECTED, "crop1", "er"), (REJECTED, None, None), (REJECTED, None, None),
        (REJECTED, "crop2", "mito"), (REJECTED, "crop1", None), (REJECTED, "crop2", "mito"),
    ]  # fmt: skip
    assert "is a link" in problems[0].message
    assert "'../outside' leaves the archive" in problems[1].message
    assert "in the zip twice" in problems[3].message
    assert "crop1/er is a file and a folder at once" in problems[4].message
    # Of two entries with the same name the later one is read.
    assert "a chunk cannot be decoded" in problems[5].message


def test_problems_are_reported_by_workers_that_open_the_zip_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked workers inherit the open zip; forkserver is the default from Python 3.14."""
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(pools, "multiprocessing", SimpleNamespace(get_context=lambda: context))
    path = zipped(folder)
    link = zipfile.ZipInfo("crop1/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "x")
    assert any("is a link" in problem.message for problem in check(path, MANIFEST, workers=2))


@pytest.mark.parametrize(("given", "expected"), [(1.5, 3 * 2**29), (None, None)])
def test_memory_is_that_of_all_workers(folder: Path, monkeypatch, given, expected) -> None:
    limits = []

    def bounded(work, tasks, *, memory_bytes, **others):
        limits.append(memory_bytes)
        return pools.run_bounded(work, tasks, memory_bytes=memory_bytes, **others)

    monkeypatch.setattr("cellmap_pipeline.submission.check.run_bounded", bounded)
    assert check(zipped(folder), MANIFEST, memory_gb=given) == []
    assert limits == [expected]


def test_unpacked_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_entries, "MAX_UNPACKED_BYTES", 1000)
    assert "above the limit" in only(check(zipped(folder), MANIFEST)).message


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("b.zarr/.zgroup", "several zarr folders (a.zarr, b.zarr)"),
        ("a.zarr/crop1/x.zarr/.zgroup", "several zarr folders (a.zarr, a.zarr/crop1/x.zarr)"),
        ("__MACOSX/a.zarr/._x", "remove what macOS added"),
        ("crop3/.zgroup", "crop3 lies outside the zarr folder a.zarr/"),
    ],
)
def test_all_crops_must_be_in_one_zarr_folder(folder: Path, entry: str, message: str) -> None:
    path = zipped(folder, "a.zarr/")
    add(path, **{entry: b"{}"})
    problem = only(check(path, MANIFEST))
    assert problem.severity == REJECTED
    assert message in problem.message


def change(path: Path, name: str, after: int, data: bytes) -> None:
    """Overwrite bytes of a zip, `after` bytes from the start of an entry."""
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset + after
    content = path.read_bytes()
    path.write_bytes(content[:start] + data + content[start + len(data) :])


def test_entries_that_do_not_match_the_directory(folder: Path) -> None:
    path = zipped(folder)
    content = path.read_bytes()
    for after, data, message in (
        (80, bytes(4), "checksum"),
        (0, b"what", "is not where the directory says"),
    ):
        path.write_bytes(content)
        change(path, "crop1/er/0.0.0", after, data)
        problem = only(check(path, MANIFEST))
        assert described(problem) == (REJECTED, "crop1", "er")
        assert message in problem.message
    path.write_bytes(content[:-100])
    assert only(check(path, MANIFEST)).severity == REJECTED


def declare(path: Path, name: str, compressed: int, size: int) -> None:
    """Set the sizes of an entry in the directory."""
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2", 0, content.rindex(name.encode()))
    content[at + 20 : at + 28] = compressed.to_bytes(4, "little") + size.to_bytes(4, "little")
    path.write_bytes(content)


def test_zip_bombs_are_not_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not trust the sizes in headers, and unpack no more bytes than a chunk holds."""
    much = bytes(1 << 24)
    bombs = {
        "zstd": (Zstd().get_config(), Zstd().encode(much)),
        "lz4": (LZ4().get_config(), (1 << 30).to_bytes(4, "little") + b"x" * 20),
        "gzip": (GZip().get_config(), GZip().encode(much)),
        "lzma": ({"id": "lzma", "format": 1, "check": -1, "preset": None, "filters": None},
                 lzma.compress(much)),
    }  # fmt: skip
    for config, bomb in bombs.values():
        metadata(compressor=config)(folder)
        for chunk in (folder / "crop1" / "er").glob("?.?.?"):
            chunk.write_bytes(bomb)
        problem = only(check(zipped(folder), MANIFEST))
        assert "a chunk cannot be decoded" in problem.message
    # One entry unpacks to more than it declares, another declares far too much.
    overwrite("crop1/er/0.0.0", much)(folder)
    path = zipped(folder, method=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        compressed = archive.getinfo("crop1/er/0.0.0").compress_size
    declare(path, "crop1/er/0.0.0", compressed, 400)
    assert "checksum" in only(check(path, MANIFEST)).message
    overwrite("crop1/er/.zarray", b" " * (2 << 20))(folder)
    assert "far more than metadata take" in only(check(zipped(folder), MANIFEST)).message


def test_objects_are_counted_across_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a thin sheet through all chunks as one object, but touching ids as two."""
    array = np.zeros(GRID.shape, "u2")
    array[:, 5, :] = 3
    array[0] = 4
    write(folder / "crop1" / "mito", array, {"chunks": (3, 4, 5)})
    sizes = []
    monkeypatch.setattr(
        "cellmap_pipeline.submission.check_label._object_messages",
        lambda found, rules: sizes.append(sorted(found.tolist())) or [],
    )
    assert check(zipped(folder), MANIFEST) == []
    assert sizes == [[72, 96], [27]]


def test_no_object_though_its_parts_are_labeled(folder: Path) -> None:
    manifest = [*MANIFEST, CropLabel(1, "a-1", "mito_mem", GRID)]
    write(folder / "crop1" / "mito_mem", voxels("u1"))
    assert check(zipped(folder), manifest) == []
    write(folder / "crop1" / "mito", voxels("u1", 0))
    problem = only(check(zipped(folder), manifest))
    assert described(problem) == (COSTS, "crop1", "mito")
    assert "holds no object, though mito_mem is labeled" in problem.message


def test_number_of_objects_in_the_ground_truth(folder: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.zarr"
    for label, array in (("er", voxels("u1")), ("mito", voxels("u1"))):
        write(truth / "crop1" / label, array)
    assert check(zipped(folder), MANIFEST, truth=truth) == []
    write(folder / "crop1" / "mito", voxels("u1", 0))
    problem = only(check(zipped(folder), MANIFEST, truth=truth))
    assert "holds no object, but the ground truth has up to 1" in problem.message
    # These are larger than specks, so only the ground truth shows that there are too many.
    write(folder / "crop1" / "mito", touching_ids() // 9)
    assert check(zipped(folder), MANIFEST) == []
    problem = only(check(zipped(folder), MANIFEST, truth=truth))
    assert "more than 50.9 times the 1 objects of the ground truth" in problem.message
    assert "the evaluator skips the crop" in problem.message
    problem = only(check(zipped(folder), MANIFEST, truth=truth, rules="pq"))
    assert "the evaluator counts all of them as wrong" in problem.message
    with pytest.raises(ValueError, match="use the manifest that belongs to the ground truth"):
        write(truth / "crop1" / "mito", voxels("u1")[1:])
        check(zipped(folder), MANIFEST, truth=truth)


def test_objects_of_a_layer_too_large_for_memory_are_not_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "crop1" / "mito", specks(60))
    assert check(zipped(folder), MANIFEST) != []
    monkeypatch.setattr(check_voxels, "MAX_LAYER_BYTES", 100)
    assert check(zipped(folder), MANIFEST) == []


def test_a_disk_that_fails_is_no_reason_for_rejection(folder, monkeypatch):
    path = zipped(folder)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(UnavailableError, match=r"submission.zip cannot be read now \(Input/output"):
        check(path, MANIFEST)
