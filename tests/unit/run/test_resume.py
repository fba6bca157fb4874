from cellmap_pipeline.run.resume import claim


def test_state_of_the_same_settings_is_kept(tmp_path):
    folder = tmp_path / "training"
    assert not claim(folder, {"rate": 1, "epochs": [2, 3]})
    (folder / "last.ckpt").write_text("weights")
    assert claim(folder, {"epochs": [2, 3], "rate": 1})
    assert (folder / "last.ckpt").read_text() == "weights"


def test_state_of_other_settings_is_set_aside(tmp_path):
    folder = tmp_path / "training"
    for rate in (1, 2, 3):
        assert not claim(folder, {"rate": rate})
        (folder / "last.ckpt").write_text(str(rate))
    aside = {path.name: (path / "last.ckpt").read_text() for path in tmp_path.iterdir()}
    assert aside == {"training": "3", "training.old-1": "1", "training.old-2": "2"}


def test_state_that_is_not_worth_keeping_is_removed(tmp_path):
    folder = tmp_path / "predictions.partial"
    assert not claim(folder, {"split": 1}, keep=False)
    (folder / "crop1").write_text("")
    assert claim(folder, {"split": 1}, keep=False)
    assert not claim(folder, {"split": 2}, keep=False)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.partial"]
    assert [path.name for path in folder.iterdir()] == ["fingerprint.json"]


def test_a_mark_that_was_cut_short_is_none(tmp_path):
    folder = tmp_path / "training"
    claim(folder, {"rate": 1})
    (folder / "fingerprint.json").write_text('{"fingerp')
    assert not claim(folder, {"rate": 1})
