from pathlib import Path

import pytest

from cellmap_pipeline.data.crop_table import COLUMNS, parse_crop_table, read_crop_table, split_url
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.files import local_copy

HEAD = ",".join(COLUMNS)
RAW = "s3://b/d1/d1.zarr/recon-1/em/fibsem-uint8"


def line(crop, dataset="d1"):
    root = f"s3://b/{dataset}/{dataset}.zarr/recon-1"
    labels = f"{root}/labels/groundtruth/crop{crop}"
    return f"{crop},{dataset},recon-1,{labels},{root}/em/fibsem-uint8"


def test_line_ends_and_blanks_do_not_matter():
    table = parse_crop_table(f"\ufeff{HEAD}\r\n\r\n {line(3)} \r\n{line(12, 'd2')}\r\n", "t.csv")
    assert list(table) == [3, 12]
    assert table[3].dataset == "d1"
    assert table[3].labels == "s3://b/d1/d1.zarr/recon-1/labels/groundtruth/crop3"
    assert table[3].raw == RAW


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "line 1: the header"),
        (f"{HEAD}\n", "has no rows"),
        (f"{HEAD}\n{line(1)}\n1,d1\n", "line 3: 2 fields"),
        (f"{HEAD}\n{line('x')}\n", "line 2: crop_number 'x'"),
        (f"{HEAD}\n{line(1)}\n\n{line(1)}\n", "line 4: crop 1 is listed twice"),
        (f"{HEAD}\n1,d2,{line(1).split(',', 2)[2]}\n", "line 2: crop_url .* d2.zarr"),
        (f"{HEAD}\n{line(1).replace('.zarr', '.n5')}\n", "line 2: crop_url .* must be zarr"),
        (f"{HEAD}\n2{line(1)[1:]}\n", "line 2: crop_url .* does not end with crop2"),
    ],
)
def test_errors_name_the_line(text, message):
    with pytest.raises(InputError, match=message):
        parse_crop_table(text, "t.csv")


def test_a_missing_table_names_the_key(tmp_path):
    with pytest.raises(InputError, match=r"fetch\.crops: .*none\.csv does not exist"):
        read_crop_table(tmp_path / "none.csv")


def test_a_downloaded_table_is_kept_unless_malformed(tmp_path):
    source, kept = tmp_path / "source.csv", tmp_path / "inputs/crops.csv"
    source.write_text(f"{HEAD}\n1,d1\n")
    with pytest.raises(InputError, match="source.csv line 2: 2 fields"):
        local_copy(source.as_uri(), kept, "fetch.crops", parse_crop_table)
    assert not kept.exists()
    source.write_text(f"{HEAD}\n{line(1)}\n")
    assert local_copy(source.as_uri(), kept, "fetch.crops", parse_crop_table) == kept
    source.unlink()
    assert local_copy(source.as_uri(), kept, "fetch.crops", parse_crop_table) == kept
    assert list(read_crop_table(kept)) == [1]
    with pytest.raises(InputError, match=r"fetch\.crops: .* cannot be downloaded"):
        local_copy(source.as_uri(), tmp_path / "other.csv", "fetch.crops", parse_crop_table)


def test_real_table_of_the_challenge_is_read(shared):
    table = read_crop_table(shared / "data/challenge/manifest.csv")
    assert len(table) == 289
    assert table[234].dataset == "jrc_cos7-1a"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://b/x/d/d.zarr/a/b/", ("s3://b/x/d/d.zarr", "a/b")),
        ("/mnt/d/d.n5/em", ("/mnt/d/d.n5", "em")),
    ],
    ids=str,
)
def test_urls_are_split_at_the_container(url, parts):
    assert split_url(url, "d") == parts


def test_paths_are_accepted_like_urls():
    text = f"{HEAD}\n{line(1)}\n".replace("s3://b", "/mnt/data")
    row = parse_crop_table(text, "t")[1]
    assert Path(row.raw).parts[:2] == ("/", "mnt")
