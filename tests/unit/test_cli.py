import numpy as np
import pytest

from cellmap_pipeline.cli import main
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel, write_manifest
from cellmap_pipeline.volumes import create

GRID = Grid((8, 8, 8), (0, 0, 0), (16, 16, 16))


@pytest.fixture
def labels(tmp_path):
    rows = [CropLabel(1, "d", label, GRID) for label in ("mito", "pm")]
    write_manifest(rows, tmp_path / "m.csv")
    for row in rows:
        path = tmp_path / "labels/d/crop1" / row.label
        path.parent.mkdir(parents=True, exist_ok=True)
        create(path, GRID, "uint8").write(np.ones(GRID.shape, np.uint8)).result()
    return tmp_path


def call(folder, *arguments):
    return main([*map(str, arguments), "--manifest", str(folder / "m.csv")])


def test_a_folder_becomes_a_submission(labels, capsys):
    zip_path = labels / "out.zip"
    assert call(labels, "package", labels / "labels", "--output", zip_path) == 0
    assert call(labels, "check", zip_path) == 0
    assert "fine" in capsys.readouterr().out


def test_exit_codes(labels, capsys):
    (labels / "labels/d/crop1/pm").rename(labels / "pm")
    zip_path = labels / "out.zip"
    assert call(labels, "package", labels / "labels", "--output", zip_path) == 2
    assert "pm" in capsys.readouterr().out
    zip_path.write_bytes(b"not a zip")
    assert call(labels, "check", zip_path) == 1
    assert main(["check", str(zip_path), "--manifest", "none.csv"]) == 1
    assert "error: test-crop manifest none.csv does not exist" in capsys.readouterr().err
