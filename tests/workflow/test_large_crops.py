"""Jobs of large crops, which work in several processes."""

import subprocess
import sys

import numpy as np

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.segmentation.methods import METHODS

SHAPE = (290, 320, 320)
SNAKEFILE = """
rule segment:
    output:
        directory("labels/er"),
    input:
        scores=[],
        settings=[],
    log:
        "er.log",
    threads: 2
    params:
        cfg={
            "row": {
                "crop": 1, "dataset": "cell-1", "label": "er", "voxel_size": [4, 4, 4],
                "translation": [0, 0, 0], "shape": SHAPE,
            },
            "select": "best",
            "origins": [],
            "sources": {"training": ["predictions/er"]},
            "postprocess": {},
        },
    script:
        "SCRIPT"
"""


def test_segment_uses_several_processes(tmp_path, repo_root):
    assert np.prod(SHAPE) > METHODS["threshold"].max_voxels_in_memory
    prediction = np.zeros(SHAPE, np.uint8)
    prediction[100:200, 50:60, 300:] = 255
    create(tmp_path / "predictions/er", Grid((4, 4, 4), (0, 0, 0), SHAPE), "uint8").write(
        prediction
    ).result()
    script = str(repo_root / "workflow/scripts/segment.py")
    snakefile = SNAKEFILE.replace("SHAPE", str(list(SHAPE))).replace("SCRIPT", script)
    (tmp_path / "Snakefile").write_text(snakefile)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    assert "labels" in (tmp_path / "er.log").read_text()
    labels = Volume.open(tmp_path / "labels/er").levels[0].read((0, 0, 0), SHAPE)
    np.testing.assert_array_equal(labels, prediction > 0)
