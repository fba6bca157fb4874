import io
import sys

from cellmap_pipeline.run.progress import read_progress
from cellmap_pipeline.validation.progress import TuningProgress


def test_the_bar_counts_settings_and_expects_the_steps_that_are_left(tmp_path, monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)

    def shown():
        progress._bar.refresh()
        (tmp_path / "log").write_text(log.getvalue())
        return read_progress(tmp_path / "log")

    with TuningProgress("label 2 of 14, cell") as progress:
        progress.expect(100, 300)
        progress.count(2)
        progress.advance(60)
        found = shown()
        assert found.what == "label 2 of 14, cell" and found.share == 0.15
        assert "settings=2" in log.getvalue()
        progress.end_step()  # 40 voxels fewer than expected
        assert shown().share == 0.17
        progress.advance(400)  # 100 voxels more than expected
        assert shown().share == 1
        progress.end_step()
        progress.expect(540)
        assert shown().share == 0.46
