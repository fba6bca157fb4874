from cellmap_pipeline.state import claim


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
