"""Packaging of a folder of labels as submission.zip."""

import errno
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.scoring.instances import score_instance
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.semantic import score_semantic
from cellmap_pipeline.scoring.submission import score_submission
from cellmap_pipeline.submission.check import check
from cellmap_pipeline.submission.package import package
from tests.support.drawn_volumes import draw_pair, write_array

GRID = Grid((3.48, 4, 4), (23837.13, 7600, 36000), (70, 20, 30))
MANIFEST = [
    CropLabel(crop, "a-1", label, GRID) for crop in (10, 9) for label in ("mito", "er", "er_mem")
]
PROBABILITY = {"cellmap_pipeline": {"kind": "probability"}}


def ids(dtype: str = "u2") -> NDArray:
    voxels = np.zeros(GRID.shape, dtype)
    voxels[60:, 3:7, 3:7], voxels[2:9, 10:, 10:] = 1, 300
    return voxels


def write(folder: Path, row: CropLabel, voxels: NDArray, **options: dict) -> Path:
    path = folder / row.dataset / f"crop{row.crop}" / row.label
    create(path, GRID, voxels.dtype.name, **options).write(voxels).result()
    return path


@pytest.fixture
def segmentations(tmp_path: Path) -> Path:
    folder = tmp_path / "segmentations"
    for row in MANIFEST:
        voxels = ids() if row.label == "mito" else (ids() > 0).astype("u1")
        write(folder, row, voxels)
    return folder


def test_submission_has_the_official_format(segmentations: Path, tmp_path: Path) -> None:
    (segmentations / "a-1" / "crop9" / "mito" / ".snakemake_timestamp").touch()
    (segmentations / "a-1" / "crop9" / "mito" / "s0" / "notes.txt").write_text("no")
    result = package(segmentations, MANIFEST, tmp_path / "submission.zip")
    names = [f"crop{c}/{label}" for c in (10, 9) for label in ("er", "er_mem", "mito")]
    assert result == {"copied": names, "converted": [], "missing": []}
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        entries = archive.infolist()
        assert [e.filename for e in entries] == sorted(e.filename for e in entries)
        assert {e.date_time for e in entries} == {(1980, 1, 1, 0, 0, 0)}
        assert {e.external_attr >> 16 for e in entries} == {0o100644}
        assert {e.create_system for e in entries} == {3}
        assert {e.compress_type for e in entries} == {zipfile.ZIP_STORED}
        assert {e.filename.split("/")[-1] for e in entries} == {
            ".zgroup", ".zarray", ".zattrs", "0.0.0", "1.0.0"
        }  # fmt: skip
        assert json.loads(archive.read(".zgroup")) == {"zarr_format": 2}
        assert json.loads(archive.read("crop9/.zgroup")) == {"zarr_format": 2}
        assert json.loads(archive.read("crop9/er/.zattrs")) == {
            "voxel_size": [3.48, 4, 4],
            "translation": [23837.13, 7600, 36000],
            "shape": [70, 20, 30],
        }
        stored = segmentations / "a-1" / "crop9" / "mito" / "s0" / "1" / "0" / "0"
        assert archive.read("crop9/mito/1.0.0") == stored.read_bytes()
    with zarr.ZipStore(str(tmp_path / "submission.zip"), mode="r") as store:
        group = zarr.open_group(store, mode="r")
        np.testing.assert_array_equal(group["crop10/mito"][:], ids())
        assert group["crop10/er"].dtype == np.uint8
    assert check(tmp_path / "submission.zip", MANIFEST) == []


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_reads_the_submission(segmentations: Path, tmp_path: Path) -> None:
    package(segmentations, MANIFEST, tmp_path / "s.zip")
    command = ["unzip", "-t", str(tmp_path / "s.zip")]
    assert "No errors detected" in subprocess.run(command, capture_output=True, text=True).stdout


def test_submission_of_many_files_is_a_zip64(
    segmentations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    package(segmentations, MANIFEST, tmp_path / "s.zip")
    assert b"PK\6\6" in (tmp_path / "s.zip").read_bytes()
    assert check(tmp_path / "s.zip", MANIFEST) == []


def test_same_labels_give_the_same_bytes(segmentations: Path, tmp_path: Path) -> None:
    write(segmentations, MANIFEST[0], ids("i8"))
    package(segmentations, MANIFEST, tmp_path / "a.zip")
    shutil.copytree(segmentations, tmp_path / "copy")
    package(tmp_path / "copy", list(reversed(MANIFEST)), tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.is_file()) == [".zip", ".zip"]


def test_missing_labels_are_left_out_and_reported(segmentations: Path, tmp_path: Path) -> None:
    shutil.rmtree(segmentations / "a-1" / "crop9" / "er")
    shutil.rmtree(segmentations / "a-1" / "crop10")
    result = package(segmentations, MANIFEST, tmp_path / "s.zip")
    assert result["missing"] == ["crop10/er", "crop10/er_mem", "crop10/mito", "crop9/er"]
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert not [n for n in archive.namelist() if n.startswith(("crop10", "crop9/er/"))]
    with pytest.raises(InputError, match="holds none of the manifest's labels"):
        package(tmp_path / "nothing", MANIFEST, tmp_path / "n.zip")


def test_failure_keeps_the_old_submission(segmentations: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.zip"
    output.write_text("old")
    write(segmentations, MANIFEST[0], ids("i4") * -1)
    with pytest.raises(InputError, match=r"crop10/mito/s0: mito is an instance class"):
        package(segmentations, MANIFEST, output)
    assert output.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zip", "segmentations"]


def test_plain_arrays_of_any_layout_are_packaged(tmp_path: Path) -> None:
    row = MANIFEST[0]
    path = tmp_path / "in" / "a-1" / "crop10" / "mito"
    array = zarr.open(
        str(path), mode="w", shape=GRID.shape, dtype="u4", chunks=(16, 20, 11), order="F",
        compressor=zarr.Zlib(1), dimension_separator=".",
    )  # fmt: skip
    array[:] = ids("u4") * 1000
    array.attrs.update(voxel_size=GRID.voxel_size, translation=GRID.translation)
    assert package(tmp_path / "in", [row], tmp_path / "s.zip")["copied"] == ["crop10/mito"]
    with zarr.ZipStore(str(tmp_path / "s.zip"), mode="r") as store:
        packed = zarr.open_group(store, mode="r")["crop10/mito"]
        np.testing.assert_array_equal(packed[:], ids("u4") * 1000)
        assert packed.dtype == np.uint32
    assert check(tmp_path / "s.zip", [row]) == []


def without_size(frame: bytes) -> bytes:
    """Return a Zstandard frame as tools write it that compress a stream of unknown length."""
    flag, single = frame[4] >> 6, frame[4] >> 5 & 1
    assert single
    window = b"\x58"  # 2 MiB
    return frame[:4] + bytes([frame[4] & 0b111]) + window + frame[5 + (1, 2, 4, 8)[flag] :]


@pytest.fixture
def zstd_label(tmp_path: Path) -> Path:
    """Write ids of mito in five chunks; that of the first chunk does not declare its size."""
    path = tmp_path / "in" / "a-1" / "crop10" / "mito"
    array = zarr.open(
        str(path), mode="w", shape=GRID.shape, dtype="u2", chunks=(16, 20, 30), fill_value=0,
        compressor=zarr.Zstd(6),
    )  # fmt: skip
    array[:] = ids() + 1
    array.attrs.update(voxel_size=GRID.voxel_size, translation=GRID.translation)
    chunk = path / "0.0.0"
    chunk.write_bytes(without_size(chunk.read_bytes()))
    return path


def test_zstd_frames_without_a_size_get_one(zstd_label: Path, tmp_path: Path) -> None:
    metadata = json.loads((zstd_label / ".zarray").read_text())
    metadata["compressor"] = {"id": "zstd", "level": 6, "checksum": False}
    (zstd_label / ".zarray").write_text(json.dumps(metadata))
    assert package(tmp_path / "in", MANIFEST[:1], tmp_path / "s.zip")["copied"] == ["crop10/mito"]
    with zarr.ZipStore(str(tmp_path / "s.zip"), mode="r") as store:
        np.testing.assert_array_equal(zarr.open_group(store, mode="r")["crop10/mito"][:], ids() + 1)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        compressor = json.loads(archive.read("crop10/mito/.zarray"))["compressor"]
        assert compressor == {"id": "zstd", "level": 6}
        for chunk in ("1.0.0", "4.0.0"):
            assert archive.read(f"crop10/mito/{chunk}") == (zstd_label / chunk).read_bytes()
    assert check(tmp_path / "s.zip", MANIFEST[:1]) == []


@pytest.mark.parametrize("size", [16 * 20 * 30 * 2 - 2, 16 * 20 * 30 * 2 + 2])
def test_a_zstd_frame_of_another_size_is_an_error(
    zstd_label: Path, tmp_path: Path, size: int
) -> None:
    (zstd_label / "0.0.0").write_bytes(without_size(zarr.Zstd().encode(bytes(size))))
    with pytest.raises(InputError, match=r"mito/0\.0\.0 cannot be decoded .*write the label again"):
        package(tmp_path / "in", MANIFEST[:1], tmp_path / "s.zip")


def test_a_chunk_that_is_no_zstd_frame_is_an_error(zstd_label: Path, tmp_path: Path) -> None:
    (zstd_label / "0.0.0").write_bytes(b"no frame at all")
    with pytest.raises(InputError, match="cannot be decoded .it is not a Zstandard frame"):
        package(tmp_path / "in", MANIFEST[:1], tmp_path / "s.zip")


def test_written_translation_is_placed_correctly_by_the_evaluator(tmp_path: Path) -> None:
    grid = Grid((3.48, 4, 4), (20.88, 8, 12), (9, 8, 7))
    row = CropLabel(3, "a-1", "mito", grid)
    voxels = np.arange(grid.size).reshape(grid.shape).astype("u2") // 60
    create(tmp_path / "in/a-1/crop3/mito", grid, "uint16").write(voxels).result()
    package(tmp_path / "in", [row], tmp_path / "s.zip")
    assert check(tmp_path / "s.zip", [row]) == []
    attributes = {"voxel_size": grid.voxel_size, "translation": grid.translation}
    write_array(tmp_path / "truth.zarr/crop3/mito", voxels, attributes)
    scores = score_submission(tmp_path / "s.zip", tmp_path / "truth.zarr", [row])
    assert scores["label_scores"]["mito"]["combined_score"] == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seeds=st.lists(st.integers(0, 10_000), min_size=1, max_size=3),
    layout=st.sampled_from(["ours", "plain", "F", "deflated chunks"]),
)
@example(seeds=[363], layout="F")
def test_submission_passes_the_check_and_scores_as_its_arrays_do(
    seeds: list[int], layout: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, arrays = [], {}
        for i, seed in enumerate(seeds):
            kind, pred, truth, voxel_size = draw_pair(seed)
            label = "mito" if seed % 2 else "er"
            if kind in ("float", "signed"):
                pred = np.abs(np.trunc(pred)).astype("u2")
            if label == "er":
                pred, truth = (pred > 0).astype("u1"), (truth > 0).astype("u1")
            # The floor division of some of these translations is exact, of others not.
            origin = [round(v * (i + 6), 2) for v in voxel_size]
            row = CropLabel(i, "a-1", label, Grid(voxel_size, origin, pred.shape))
            path = folder / "in" / "a-1" / f"crop{i}" / label
            attributes = {"voxel_size": voxel_size, "translation": origin}
            if layout == "ours":
                pred = pred.astype(f"u{max(1, pred.dtype.itemsize)}")
                create(path, row.grid, pred.dtype.name).write(pred).result()
            else:
                stored = {"chunks": (7, 5, 9), "order": "F" if layout == "F" else "C"}
                stored["compressor"] = zarr.Zlib() if layout.startswith("deflated") else None
                write_array(path, pred, attributes, stored)
            write_array(folder / "truth" / f"crop{i}" / label, truth, attributes)
            rows.append(row)
            arrays[f"crop{i}/{label}"] = pred, truth, voxel_size
        result = package(folder / "in", rows, folder / "s.zip")
        assert result["missing"] == []
        problems = check(folder / "s.zip", rows)
        assert [p for p in problems if "too many objects" not in p.message] == []
        scores = score_submission(folder / "s.zip", folder / "truth", rows, rules="2026-06-30")
        for row in rows:
            score = scores[f"crop{row.crop}"][row.label]
            name = f"crop{row.crop}/{row.label}"
            pred, truth, voxel_size = arrays[name]
            # The evaluator numbers components in memory order, which conversion does not keep.
            keeps_order = layout == "F" and name in result["copied"]
            pred = np.asarray(pred, order="F" if keeps_order else "C")
            expected = (
                score_instance(pred, truth, voxel_size, RULES["2026-06-30"])
                if row.label == "mito"
                else score_semantic(pred, truth, RULES["2026-06-30"])
            )
            assert {key: score[key] for key in expected} == expected


def test_chunks_with_other_names_than_the_metadata_say_are_refused(
    segmentations: Path, tmp_path: Path
) -> None:
    file = segmentations / "a-1/crop9/er/s0/.zarray"
    file.write_text(file.read_text().replace('"dimension_separator":"/"', '"x":1'))
    with pytest.raises(InputError, match=r"er/s0 has no chunk named as .zarray says"):
        package(segmentations, MANIFEST, tmp_path / "submission.zip")


def test_labels_without_chunks_are_reported(
    segmentations: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(segmentations / "a-1/crop9/er/s0/0")
    shutil.rmtree(segmentations / "a-1/crop9/er/s0/1")
    package(segmentations, MANIFEST, tmp_path / "submission.zip")
    (record,) = caplog.records
    assert record.getMessage().endswith("crop9/er/s0 has no chunks and is packaged as empty")


def test_chunks_are_packaged_although_their_folder_cannot_be_inspected(
    segmentations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(segmentations, MANIFEST, tmp_path / "a.zip")
    stat = os.stat

    def fail_in_chunks(path, *arguments, **options):
        if str(path).endswith("s0/1"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", fail_in_chunks)
    package(segmentations, MANIFEST, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_failing_disk_is_an_error_instead_of_a_missing_chunk(
    segmentations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def fail_for_chunks(path: Path) -> bytes:
        if path.name.isdecimal():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail_for_chunks)
    with pytest.raises(UnavailableError, match="s0.* cannot be read now .Input/output error"):
        package(segmentations, MANIFEST, tmp_path / "submission.zip")
    assert not (tmp_path / "submission.zip").exists()
