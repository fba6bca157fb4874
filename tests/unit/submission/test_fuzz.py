"""Drawn errors in submissions: the outcome is a result or a message, in little memory and time."""

import json
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import zarr
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.scoring.archive import Archive
from cellmap_pipeline.scoring.submission import score_submission
from cellmap_pipeline.submission.check import check
from cellmap_pipeline.submission.package import package
from tests.support import hostile
from tests.support.fuzz import bounded, edited, edits, fuzzed, nested

ENTRIES = hostile.valid_entries() | {"crop1/notes.txt": b"some text"}


def zipped(entries: hostile.Entries, method: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zip"
        hostile.write_zip(path, entries, method)
        return path.read_bytes()


ZIPS = [zipped(ENTRIES, method) for method in (0, 8, 12, 14)]
FEW = {name: data for name, data in ENTRIES.items() if not name[-1].isdigit()}
FEW |= {"crop1/er/0.0.0": hostile.CHUNK}
ZIPS += [zipped(FEW, method) for method in (0, 8, 12, 14)]


def assert_refused_or_read(content: bytes) -> None:
    """Check and score a zip. What `check` accepts, the evaluator's tools and `score` read."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        path = folder / "s.zip"
        path.write_bytes(content)
        truth = folder / "truth"
        for entry, data in hostile.valid_entries().items():
            (truth / entry).parent.mkdir(parents=True, exist_ok=True)
            (truth / entry).write_bytes(data)
        with bounded():
            problems = check(path, hostile.MANIFEST)
            is_rejected = any(problem.severity == "rejected" for problem in problems)
            try:
                score_submission(path, truth, hostile.MANIFEST)
                is_scored = True
            except InputError:
                is_scored = False
        if is_rejected:
            return
        # Chunks that are named otherwise than stated are no chunks to the evaluator.
        assert is_scored or any("are not chunks" in problem.message for problem in problems)
        if not is_scored:
            return
        unpacked = folder / "unpacked"
        with zipfile.ZipFile(path) as archive:
            archive.extractall(unpacked)
        submission = Archive.open(path)
        for label in submission.labels["crop1"]:
            theirs = zarr.open_array(str(unpacked / "crop1" / label), mode="r")
            if theirs.fill_value is not None:
                ours = submission.array("crop1", label)[:]
                np.testing.assert_array_equal(ours, theirs[:])
                assert ours.dtype == theirs.dtype


@fuzzed
@given(content=st.sampled_from(ZIPS), changes=edits, cut=st.integers(0, 3))
def test_fuzz_bytes_of_a_zip(content: bytes, changes: list, cut: int) -> None:
    assert_refused_or_read(edited(content, changes, cut))


@fuzzed
@given(
    content=st.sampled_from(ZIPS),
    entry=st.integers(0, 30),
    field=st.sampled_from([4, 6, 8, 10, 12, 16, 20, 24, 28, 30, 32, 34, 36, 38, 42]),
    value=st.binary(min_size=2, max_size=4),
    local=st.booleans(),
)
def test_fuzz_headers_of_a_zip(
    content: bytes, entry: int, field: int, value: bytes, local: bool
) -> None:
    signature = b"PK\3\4" if local else b"PK\1\2"
    starts = [i for i in range(len(content)) if content.startswith(signature, i)]
    at = starts[entry % len(starts)] + (field if not local else min(field, 26))
    assert_refused_or_read(content[:at] + value + content[at + len(value) :])


ZARRAYS = [
    hostile.ZARRAY | changes
    for changes in (
        {"compressor": hostile.LZMA},
        {"compressor": {"id": "zstd", "level": 1}, "dtype": "<u2", "order": "F"},
        {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 1, "blocksize": 0}},
        {"filters": [{"id": "delta", "dtype": "|u1", "astype": "|u1"}, {"id": "shuffle"}]},
        {"filters": [{"id": "fixedscaleoffset", "scale": 1, "offset": 0, "dtype": "|u1"}]},
        {"filters": [{"id": "packbits"}], "dtype": "|b1"},
        {"dimension_separator": "/", "fill_value": 1},
    )
]


@fuzzed
@given(stored=st.sampled_from(ZARRAYS).flatmap(nested), chunk=st.sampled_from([b"", hostile.CHUNK]))
def test_fuzz_zarray(stored: object, chunk: bytes) -> None:
    entries = {**FEW, "crop1/er/0.0.0": chunk} if chunk else dict(FEW)
    if not chunk:
        del entries["crop1/er/0.0.0"]
    entries["crop1/er/.zarray"] = json.dumps(stored).encode()
    assert_refused_or_read(zipped(entries, 0))


@fuzzed
@given(stored=nested(hostile.ZATTRS | {"offset": [0, 0, 0], "scale": [4, 4, 4]}))
def test_fuzz_zattrs(stored: object) -> None:
    assert_refused_or_read(zipped(FEW | {"crop1/er/.zattrs": json.dumps(stored).encode()}, 0))


ATTRIBUTES = hostile.ZATTRS | {
    "cellmap_pipeline": {"kind": "labels"},
    "cellmap": {
        "annotation": {
            "complement_counts": {"absent": 1},
            "annotation_type": {"type": "semantic_segmentation", "encoding": {"absent": 0}},
        }
    },
}


@fuzzed
@given(
    zarray=st.one_of(st.just(hostile.ZARRAY), st.sampled_from(ZARRAYS).flatmap(nested)),
    zattrs=st.one_of(st.just(ATTRIBUTES), nested(ATTRIBUTES)),
)
def test_fuzz_labels_to_package(zarray: object, zattrs: object) -> None:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        label = Path(name) / "labels/a-1/crop1/er"
        label.mkdir(parents=True)
        (label / ".zarray").write_text(json.dumps(zarray))
        (label / ".zattrs").write_text(json.dumps(zattrs))
        (label / "0.0.0").write_bytes(hostile.CHUNK)
        with bounded():
            try:
                Volume.open(label)
                package(Path(name) / "labels", hostile.MANIFEST, Path(name) / "s.zip")
            except InputError:
                assert not (Path(name) / "s.zip").exists()
