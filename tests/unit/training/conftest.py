"""Fixtures of the tests of training."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.trainings import make_datasplit, settings

SCRIPT = """
import json
import sys
from pathlib import Path
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.run.jobs import job

folder = Path(sys.argv[1])
with job(str(folder / "train.log")):
    from cellmap_pipeline.training.train import train
    from tests.support.faults import Faults
    training = Training.model_validate_json(Path(sys.argv[3]).read_text())
    faults = {int(batch): kind for batch, kind in json.loads(sys.argv[4]).items()}
    train(
        training, Path(sys.argv[2]), folder / "training", folder / "model.ckpt",
        callbacks=[Faults(faults, rank=1)],
    )
"""


@pytest.fixture
def datasplit(tmp_path):
    """A data split with a training crop and a validation crop."""
    return make_datasplit(tmp_path)


@pytest.fixture
def begin(tmp_path, repo_root):
    """Function that starts a training of two processes in a folder; faults are in the second.

    The first one finds the programs of the folder `bin` before all others.
    """
    path = os.pathsep.join([str(repo_root), str(repo_root / "src")])
    datasplit = make_datasplit(tmp_path)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def begin(folder, faults=None, **changes):
        (tmp_path / folder).mkdir(exist_ok=True)
        values = tmp_path / folder / "settings.json"
        values.write_text(settings(**{"devices": 2} | changes).model_dump_json())
        # Lightning must not mistake a job step of Slurm for its own launcher.
        slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "snakejob"}
        slurm |= {"SLURM_LOCALID": "0", "SLURM_JOB_ID": "1", "SLURM_NODELIST": "n"}
        slurm |= {"SLURMD_NODENAME": "n1", "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        return subprocess.Popen(
            [
                sys.executable,
                script,
                tmp_path / folder,
                datasplit,
                values,
                json.dumps(faults or {}),
            ],
            env=os.environ | slurm | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin
