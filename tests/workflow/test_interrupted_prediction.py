"""A prediction job that is killed during a run of Snakemake."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

from cellmap_pipeline.data.manifest import read_manifest, write_manifest
from cellmap_pipeline.io.volumes import Volume


def count_planes_done(state):
    """Return the number of finished planes of all channels; 0 if the state file is missing."""
    try:
        return sum(json.loads(state.read_text())["done"].values())
    except FileNotFoundError:
        return 0


def read_voxels(folder):
    return {
        path.name: Volume.open(path).levels[0].array.read(order="C").result()
        for path in folder.iterdir()
        if path.is_dir()
    }


@pytest.mark.slow
def test_next_run_resumes_the_prediction(finished_run, small_data):
    run = finished_run()
    shutil.rmtree(run.folder / "results/tiny/predictions")
    run.train("tiny", inference={"overlap": 0.75})
    # With many planes, some are done long before the last.
    row = read_manifest(small_data / "test_crop_manifest.csv")[0]
    _, y, x = row.grid.voxel_size
    grid = row.grid.at((2, y, x))
    narrow = grid.box((0, 0, 0), (grid.shape[0], 40, 40))
    thin = replace(row, label="mito", grid=narrow)
    write_manifest([thin], run.folder / "manifest.csv")
    run.configure(test_crops="manifest.csv", ground_truth=None)
    path = f"results/tiny/predictions/{row.dataset}/crop{row.crop}"
    process = run.start(path)
    state = run.folder / f"{path}.partial/done.json"
    while count_planes_done(state) == 0:
        assert process.poll() is None, run.output.read_text()
        time.sleep(0.002)
    os.kill(run.job("predict"), signal.SIGKILL)
    assert process.wait(300) != 0, run.output.read_text()
    assert not (run.folder / path).exists()
    done = count_planes_done(state)
    assert done > 0
    run.snakemake(path)
    log = (run.folder / f"results/logs/predict/tiny/{row.dataset}/crop{row.crop}.log").read_text()
    assert "resuming where it stopped" in log
    assert not state.parent.exists()
    # tests/unit/prediction/test_predict.py compares such a prediction with a whole one.
    assert read_voxels(run.folder / path)["mito"].any()
