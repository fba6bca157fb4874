"""A run whose data are fetched from a bucket, up to its data split."""

import csv
import json

import pytest

from cellmap_pipeline.data.crop_table import COLUMNS
from tests.support.bucket import NAME, reach, serve


@pytest.fixture
def bucket(small_data, monkeypatch):
    """The small demo data in a bucket."""
    with serve() as (made, url):
        made.fill(small_data)
        reach(url, monkeypatch)
        yield made


def write_table(path, data):
    """Write the crop table of the demo data in the bucket; return the numbers of its crops."""
    numbers = []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for folder in sorted(data.glob("*/*.zarr/recon-1/labels/groundtruth/crop*")):
            number, dataset = int(folder.name.removeprefix("crop")), folder.parents[4].name
            root = f"s3://{NAME}/{dataset}/{dataset}.zarr/recon-1"
            labels, raw = f"{root}/labels/groundtruth/{folder.name}", f"{root}/em/fibsem-uint8"
            writer.writerow([number, dataset, "recon-1", labels, raw])
            numbers.append(number)
    return numbers


def comparable_rows(path):
    """Return the fields of a data split that do not depend on where the data are stored."""
    with path.open(newline="") as file:
        return [(use, raw, labels) for use, _, raw, _, labels in csv.reader(file)]


def test_fetched_data_give_the_same_datasplit_as_local_data(
    new_run, finished_run, small_data, bucket
):
    local, run = finished_run(), new_run()
    target = "results/tiny/datasplit.csv"
    numbers = write_table(run.folder / "crops.csv", small_data)
    run.configure(data_root="data", fetch={"crops": "crops.csv", "padding": 64})

    planned = run.planned(target)
    assert planned["fetch_crop"] > len(numbers), "test crops are fetched, too"
    assert not bucket.requests, "planning requests nothing"
    run.snakemake(target)
    assert comparable_rows(run.folder / target) == comparable_rows(local.folder / target)
    done = [json.loads(path.read_text()) for path in (run.folder / "results/fetched").iterdir()]
    assert len(done) == planned["fetch_crop"]
    assert sum(crop["files"] > 0 for crop in done) > len(numbers)

    assert run.planned(target) == {}


def test_malformed_crop_table_ends_with_one_message(new_run, small_data):
    run = new_run()
    write_table(run.folder / "crops.csv", small_data)
    with (run.folder / "crops.csv").open("a") as file:
        file.write("12,jrc,recon-1\n")
    run.configure(data_root="data", fetch={"crops": "crops.csv"})
    done = run.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert "3 fields, but a row has 5" in done.stdout
    assert "Traceback" not in done.stdout
