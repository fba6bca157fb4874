"""Malicious and broken zip files: ``check`` rejects each and writes nothing."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import zarr
from numcodecs import Zstd

from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.submission.check import check
from tests.support.spoiled import (
    file_contents,
    pattern,
    truncate,
)


def zip_bomb(path: Path) -> None:
    """Replace a chunk by one of some kilobytes that unpacks to a quarter of a gigabyte."""
    replace_chunk(path, Zstd().encode(bytes(2**28)))


def omit_size(path: Path) -> None:
    """Replace a chunk by a Zstandard frame (RFC 8878) of one block, without its content size."""
    header, voxels = b"\x28\xb5\x2f\xfd\x00\x58", bytes(32**3)
    replace_chunk(path, header + (len(voxels) << 3 | 1).to_bytes(3, "little") + voxels)


def replace_chunk(path: Path, content: bytes) -> None:
    """Replace a chunk of a label that is compressed with Zstandard."""
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("crop3/mito/.zarray"))
    metadata["compressor"] = Zstd().get_config()
    rezip(path, {"crop3/mito/.zarray": json.dumps(metadata).encode(), "crop3/mito/0.0.0": content})


def rezip(path: Path, changed: dict[str, bytes]) -> None:
    """Replace and add entries of a zip file."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name, content in (entries | changed).items():
            new.writestr(name, content)


SUBMISSIONS = {
    "a zip bomb": (
        "crop3/mito: a chunk cannot be decoded (0.0.0: …): package the labels again",
        zip_bomb,
    ),
    "a Zstandard frame without its size": (
        "crop3/mito: a chunk cannot be decoded (0.0.0: it is cut off, or its header is broken or "
        "does not declare its size…): package the labels again",
        omit_size,
    ),
    "metadata that fill the memory": (
        "mito/.zarray has 100000000 bytes, far more than metadata take: package the labels again",
        lambda path: rezip(path, {"crop3/mito/.zarray": bytes(10**8)}),
    ),
    "an entry outside the archive": (
        "'../crop3/x' leaves the archive: package the labels again",
        lambda path: rezip(path, {"../crop3/x": b""}),
    ),
    "a truncated zip": (
        "s.zip is not a zip file, or is cut off: package the labels again",
        truncate,
    ),
}


@pytest.mark.parametrize(("message", "spoil"), SUBMISSIONS.values(), ids=SUBMISSIONS)
def test_bad_zips_are_rejected(folder, message, spoil):
    path = folder.path / "s.zip"
    zarr.open_group(str(folder.ground_truth / "crop3"), mode="a")
    zarr.open_group(str(folder.ground_truth), mode="a")
    shutil.make_archive(str(path.with_suffix("")), "zip", folder.ground_truth)
    rows = read_manifest(folder.manifest)
    spoil(path)
    before = file_contents(folder.path)
    found = [problem for problem in check(path, rows) if problem.severity == "rejected"]
    assert any(re.search(pattern(message), str(problem)) for problem in found), found
    assert file_contents(folder.path) == before
