import errno
from pathlib import Path

import pytest

from cellmap_pipeline.errors import UnavailableError
from cellmap_pipeline.run.resume import prepare_state


def test_state_of_the_same_settings_is_kept(tmp_path):
    folder = tmp_path / "training"
    assert not prepare_state(folder, {"rate": 1, "epochs": [2, 3]})
    (folder / "last.ckpt").write_text("weights")
    assert prepare_state(folder, {"epochs": [2, 3], "rate": 1})
    assert (folder / "last.ckpt").read_text() == "weights"


def test_state_of_other_settings_is_moved(tmp_path):
    folder = tmp_path / "training"
    for rate in (1, 2, 3):
        assert not prepare_state(folder, {"rate": rate})
        (folder / "last.ckpt").write_text(str(rate))
    aside = {path.name: (path / "last.ckpt").read_text() for path in tmp_path.iterdir()}
    assert aside == {"training": "3", "training.old-1": "1", "training.old-2": "2"}


def test_state_of_other_settings_is_removed_without_keep(tmp_path):
    folder = tmp_path / "predictions.partial"
    assert not prepare_state(folder, {"split": 1}, keep=False)
    (folder / "crop1").write_text("")
    assert prepare_state(folder, {"split": 1}, keep=False)
    assert not prepare_state(folder, {"split": 2}, keep=False)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.partial"]
    assert [path.name for path in folder.iterdir()] == ["fingerprint.json"]


@pytest.mark.parametrize("text", ['{"fingerp', "[]", "7", '"text"', "{}"])
def test_broken_fingerprint_does_not_count(tmp_path, text):
    folder = tmp_path / "training"
    prepare_state(folder, {"rate": 1})
    (folder / "fingerprint.json").write_text(text)
    assert not prepare_state(folder, {"rate": 1})


def test_state_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
    folder = tmp_path / "training"
    prepare_state(folder, {"rate": 1})

    def fail(self):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch, pytest.raises(UnavailableError, match="fingerprint.json"):
        patch.setattr(Path, "read_text", fail)
        prepare_state(folder, {"rate": 1})
    assert prepare_state(folder, {"rate": 1})
