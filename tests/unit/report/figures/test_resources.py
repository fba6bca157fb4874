"""The figure of time, memory and GPU use."""

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.report.figures.resources import plot_resources, read_benchmarks
from tests.support.figures import texts_in


def test_time_memory_and_gpu_use_are_drawn_by_rule(tmp_path, drawn):
    head = "s\th:m:s\tmax_rss\n"
    for name, seconds, memory in (("train/a", 7200, 2000), ("train/b", 3600, "-"), ("plan", 9, 5)):
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{head}{seconds}\t0:00:01\t{memory}\n")
    gpu = tmp_path / "logs/train/a.gpu.json"
    gpu.parent.mkdir(parents=True)
    gpu.write_text('{"gpus": ["A100"], "busy_percent": 91.0, "peak_memory_mb": 40000, "looks": 9}')
    jobs = read_benchmarks(tmp_path / "benchmarks", tmp_path / "logs")
    assert jobs["rule"].tolist() == ["plan", "train", "train"]
    assert jobs["hours"].tolist() == [9 / 3600, 2, 1]
    plot_resources(tmp_path / "benchmarks", tmp_path / "logs", tmp_path / "a.png")
    time, memory, gpu_busy, gpu_memory = drawn[0].axes
    assert [tick.get_text() for tick in time.get_yticklabels()] == ["train (2)", "plan"]
    assert texts_in(time) == ["3.0 h", "9 s"]
    # 2000 and 40000 MiB are more GB.
    assert jobs["memory_gb"].tolist()[1] == pytest.approx(2000 * 2**20 / 1e9)
    assert texts_in(memory) == ["2.1", "0.0"]
    assert (texts_in(gpu_busy), texts_in(gpu_memory)) == (["91"], ["41.9"])


@pytest.mark.parametrize("content", ["", "h:m:s\tmax_rss\n0:00:01\t5\n", "s\tmax_rss\n?\t5\n"])
def test_a_broken_benchmark_is_named(tmp_path, content):
    path = tmp_path / "benchmarks/train/a.tsv"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(InputError, match="train/a.tsv is not a benchmark .*: delete it"):
        read_benchmarks(tmp_path / "benchmarks", tmp_path / "logs")
