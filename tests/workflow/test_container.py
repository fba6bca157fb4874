"""Jobs in a container, with a stand-in for apptainer."""

import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

# An image is a folder with programs in `bin`. Only what is bound is seen of the workflow's library.
APPTAINER = """#!/bin/sh
[ "$1" = --version ] && { echo "apptainer version 1.4.5"; exit; }
while [ "$1" != exec ]; do shift; done
shift
BINDS=
while :; do
    case $1 in
        --bind) BINDS="$BINDS $2"; shift 2 ;;
        --home) shift 2 ;;
        --*) echo "$1" >> "$CONTAINER_LOG"; shift ;;
        *) break ;;
    esac
done
IMAGE=$1
shift
export BINDS IMAGE
exec unshare --mount --map-root-user sh -e -c '
    mount -t tmpfs tmpfs /mnt
    for bind in $BINDS; do
        mkdir -p "${bind#*:}"
        mount --bind "${bind%%:*}" "${bind#*:}"
    done
    mount -t tmpfs tmpfs "$LIBRARY"
    unset PYTHONPATH
    PATH=$IMAGE/bin:/usr/bin:/bin exec "$@"
' sh "$@"
"""


@pytest.fixture
def image(tmp_path, monkeypatch, repo_root):
    """A folder with Python and all packages but the library."""
    probe = ["unshare", "--mount", "--map-root-user", "true"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no mounts of its own may be made by this user")
    folder = tmp_path / "image"
    venv.create(folder)
    (version,) = (folder / "lib").iterdir()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if "cellmap_pipeline" not in package.name:
            (version / "site-packages" / package.name).symlink_to(package)
    program = tmp_path / "programs/apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LIBRARY", str(repo_root / "src"))
    monkeypatch.setenv("CONTAINER_LOG", str(tmp_path / "options"))
    return folder


@pytest.mark.slow
def test_jobs_in_a_container_import_the_library_of_the_workflow(new_run, image, tmp_path):
    run = new_run()
    run.configure(container=str(image))
    # As in the documentation.
    (profile,) = re.findall(
        r"```yaml\n(software-deployment-method: apptainer\n.*?)```",
        (run.root / "docs/cluster.md").read_text(), re.S,
    )  # fmt: skip
    run.profile = str(run.folder / "contained")
    (run.folder / "contained").mkdir()
    (run.folder / "contained/profile.yaml").write_text(profile.replace("/groups/lab", "/tmp"))
    target = "results/split.csv"
    page = "results/figures/run.html"
    done = run.snakemake(target, page)
    assert done.stdout.count(f"Activating singularity image {image}") == 3
    assert (tmp_path / "options").read_text().splitlines() == ["--nv"] * 3
    assert (run.folder / target).exists()
    assert "<th>cellmap-pipeline</th>" in (run.folder / page).read_text()
    assert run.planned(target) == {}
    # Another image reruns the jobs, unless software is no reason to.
    other = image.rename(image.with_name("other"))
    run.configure(container=str(other))
    assert run.planned(target) == {"split": 1}
    assert run.planned("--rerun-triggers", "mtime", "params", "input", "--", target) == {}
