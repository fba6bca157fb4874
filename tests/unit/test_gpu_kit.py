"""Training and prediction need no other packages than `make gpu-kit` collects, and PyTorch's."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
KIT = (ROOT / "tests/gpu/kit.txt").read_text().split()
# What a GPU node is expected to have, with all that these depend on.
GIVEN = ["torch", "numpy", "scipy", "pytorch-lightning"]
SCRIPT = """
import sys
from pathlib import Path

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.training.checkpoints import load_networks
from cellmap_pipeline.training.train import train
from tests.support.networks import SMALL, tiny_task
from tests.support.trainings import GRID, make_datasplit, settings

folder = Path(sys.argv[1])
summary = folder / "summary.csv"
summary.write_text("by,name,train_um3\\nclass,mito,1.0\\n")
training = settings(
    epochs=1, ema=0.9, class_weights="balanced",
    targets={"mito": ["boundary", "distance", "affinities", "descriptors"]},
)
train(
    training, make_datasplit(folder), folder / "training", folder / "model.ckpt", summary=summary
)
inference = Inference()
networks = load_networks(folder / "model.ckpt", inference, training.model_dump(mode="json"))
crop = [CropLabel(2, "d", "mito", GRID)]
predict_crop(networks, Volume.open(folder / "raw2"), crop, folder / "predicted", inference)
for architecture, (options, patch_size) in SMALL.items():
    tiny_task(model={"architecture": architecture} | options, patch_size=patch_size)
import tests.gpu.conftest, tests.gpu.drawn, tests.gpu.memory
print(sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2:])))
"""


def with_dependencies(names: list[str]) -> set[str]:
    """Return installed packages with all that they depend on."""
    found: set[str] = set()
    left = [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # For another platform.
        if name not in found:
            found.add(name)
            parsed = map(Requirement, requirements)
            left += [
                canonicalize_name(one.name)
                for one in parsed
                if one.marker is None or one.marker.evaluate({"extra": ""})
            ]
    return found


def link_packages(names: set[str], folder: Path) -> None:
    """Link the files of installed packages into a folder, as if only these were installed."""
    for distribution in map(importlib.metadata.distribution, sorted(names)):
        for top in {file.parts[0] for file in distribution.files or []} - {".."}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(distribution.locate_file(top)))


def test_training_and_prediction_need_only_the_kit(tmp_path: Path) -> None:
    packages, work = tmp_path / "packages", tmp_path / "work"
    packages.mkdir()
    work.mkdir()
    link_packages(with_dependencies(GIVEN) | set(KIT), packages)
    script = work / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "src", packages)))
    result = subprocess.run(
        # Without the packages of this environment.
        [sys.executable, "-S", script, work, "pandas", "matplotlib", "snakemake"],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_lock_pins_each_package_of_the_kit() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text().split()}
    assert set(KIT) <= pinned
    assert sorted(set(KIT)) == KIT
