"""The status of a running workflow, from the logs that Snakemake and its jobs write."""

from cellmap_pipeline.plan.make import read_plan
from cellmap_pipeline.report.status import read_status
from tests.support.runs import wait_until


def test_status_of_a_running_training(new_run, monkeypatch):
    """Even if Snakemake prints nothing."""
    run = new_run()
    run.train("tiny", epochs=2, iterations_per_epoch=40)
    monkeypatch.chdir(run.folder)
    plan = read_plan(run.folder / "config/config.yaml")
    process = run.start("results/tiny/model.ckpt", "--quiet")

    def training():
        status = read_status(plan)
        jobs = status.by_stage().get("train", []) if status else []
        return next((job for job in jobs if job.progress and job.progress.left), None)

    job = wait_until(training, process)
    assert job.state == "running" and job.wildcards == {"training": "tiny"}
    assert job.progress.what.startswith("Epoch ") and 0 < job.seconds_left < 600
    assert process.wait() == 0, run.output.read_text()
    status = read_status(plan)
    assert not status.alive
    assert list(status.by_stage()) == ["check_inputs", "datasplit", "train"]
    assert {job.state for job in status.jobs} == {"done"}
