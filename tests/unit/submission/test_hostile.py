"""Hostile submissions: ``check`` and ``score`` end with a message, in little memory and time."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring import zip_entries
from cellmap_pipeline.scoring.archive import Archive
from cellmap_pipeline.scoring.submission import score_submission
from cellmap_pipeline.scoring.zip_reader import ZipReader
from cellmap_pipeline.submission.check import check
from tests.support import hostile
from tests.support.fuzz import bounded


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Ground truth that equals the valid submission."""
    path = tmp_path / "truth.zarr"
    for name, content in hostile.valid_entries().items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def rejections(path: Path) -> str:
    found = [p for p in check(path, hostile.MANIFEST) if p.severity == "rejected"]
    return "\n".join(map(str, found))


def test_the_submission_without_changes_is_valid(truth: Path, tmp_path: Path) -> None:
    hostile.write_zip(tmp_path / "s.zip", hostile.valid_entries())
    assert check(tmp_path / "s.zip", hostile.MANIFEST) == []
    assert score_submission(tmp_path / "s.zip", truth, hostile.MANIFEST)["overall_score"] == 1


@pytest.mark.parametrize("write", hostile.BOMBS.values(), ids=hostile.BOMBS)
def test_small_inputs_take_little_memory_and_time(
    write: Callable[[Path], None], truth: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.zip"
    write(path)
    with bounded():
        assert rejections(path)
        with pytest.raises(InputError):
            score_submission(path, truth, hostile.MANIFEST)


@pytest.mark.parametrize(("message", "write"), hostile.REFUSED.values(), ids=hostile.REFUSED.keys())
def test_what_the_evaluator_stops_at_is_refused(
    message: str, write: Callable[[Path], None], truth: Path, tmp_path: Path
) -> None:
    write(tmp_path / "s.zip")
    assert message in rejections(tmp_path / "s.zip")
    with pytest.raises(InputError):
        score_submission(tmp_path / "s.zip", truth, hostile.MANIFEST)


@pytest.mark.parametrize(
    "changes", hostile.WRONG_METADATA.values(), ids=hostile.WRONG_METADATA.keys()
)
def test_wrong_metadata_end_with_a_message_that_names_the_key(
    changes: dict, truth: Path, tmp_path: Path
) -> None:
    hostile.write_zip(tmp_path / "s.zip", hostile.with_zarray(hostile.valid_entries(), **changes))
    (key,) = changes
    assert key.removesuffix("s") in rejections(tmp_path / "s.zip") or key == "compressor"
    with pytest.raises(InputError, match="crop1/er"):
        score_submission(tmp_path / "s.zip", truth, hostile.MANIFEST)


@pytest.mark.parametrize(
    ("chunk", "changes"), hostile.RARE_CHUNKS.values(), ids=hostile.RARE_CHUNKS.keys()
)
def test_chunks_that_zarr_reads_are_read(
    chunk: bytes, changes: dict, truth: Path, tmp_path: Path
) -> None:
    entries = hostile.with_chunks(hostile.valid_entries(), chunk, **changes)
    stored = zarr.open_array(zarr.storage.KVStore(entries), path="crop1/er", mode="r")
    assert np.all(stored[:] == 1)
    hostile.write_zip(tmp_path / "s.zip", entries)
    assert check(tmp_path / "s.zip", hostile.MANIFEST) == []
    assert score_submission(tmp_path / "s.zip", truth, hostile.MANIFEST)["overall_score"] == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_all_methods_of_zip_are_read(method: int, truth: Path, tmp_path: Path) -> None:
    hostile.write_zip(tmp_path / "s.zip", hostile.valid_entries(), method)
    assert check(tmp_path / "s.zip", hostile.MANIFEST) == []
    assert score_submission(tmp_path / "s.zip", truth, hostile.MANIFEST)["overall_score"] == 1


def test_an_empty_zip_is_rejected(truth: Path, tmp_path: Path) -> None:
    content = io.BytesIO()
    zipfile.ZipFile(content, "w").close()
    (tmp_path / "s.zip").write_bytes(content.getvalue())
    assert "holds none of the manifest's crops" in rejections(tmp_path / "s.zip")
    with pytest.raises(InputError, match="has no crop in common"):
        score_submission(tmp_path / "s.zip", truth, hostile.MANIFEST)


def test_files_are_bounded_by_the_manifest_before_they_are_unpacked(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zip"
    hostile.method_bomb(zipfile.ZIP_DEFLATED, hostile.MUCH_BYTES, "crop1/more")(path)
    labels = zip_entries.MAX_BYTES_PER_VOXEL * sum(row.grid.size for row in hostile.MANIFEST)
    monkeypatch.setattr(zip_entries, "MAX_OTHER_BYTES", hostile.MUCH_BYTES)
    assert not rejections(path)
    assert score_submission(path, truth, hostile.MANIFEST)["overall_score"] == 1
    monkeypatch.setattr(zip_entries, "MAX_OTHER_BYTES", hostile.MUCH_BYTES - labels)

    def unpack(*_: object) -> None:
        raise AssertionError("it is unpacked")

    monkeypatch.setattr(ZipReader, "verify", unpack)
    monkeypatch.setattr(Archive, "array", unpack)
    with pytest.raises(InputError, match="0.1 GiB unpacked, above the limit of 0.1 GiB"):
        score_submission(path, truth, hostile.MANIFEST)
    monkeypatch.undo()
    monkeypatch.setattr(zip_entries, "MAX_OTHER_BYTES", 1000)
    assert "GiB unpacked, above the limit of 0.0 GiB" in rejections(path)
