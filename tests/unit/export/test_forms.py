"""Each form is read back and compared with the checkpoint; one that differs is refused."""

import numpy as np
import pytest
import torch

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.export import forms
from cellmap_pipeline.export.exported_model import ExportedModel
from cellmap_pipeline.export.forms import FORMS, FormWriter, check_packages, largest_difference
from cellmap_pipeline.patches.normalization import Normalization
from tests.support.exported import SMALLEST
from tests.support.networks import SMALL, tiny_task

NORMALIZATION = Normalization(low=0.1, high=0.7, center=0.4, width=0.5)
# Those of the included trainings, and nnU-Net's other ones; deep supervision does not show.
ARCHITECTURES = [
    ("monai_unet", {}),
    ("monai_basic_unet3d", {}),
    ("mednext", {"deep_supervision": True}),
    ("monai_dynunet", {"deep_supervision": True}),
    ("nnunet_resenc", {}),
]


def example(window):
    values = np.random.default_rng(0).integers(0, 256, (1, 1, *window))
    return torch.from_numpy(values.astype(np.float32))


def network(**settings):
    task = tiny_task(**SMALLEST | settings)
    return ExportedModel(task, task.channels, NORMALIZATION, 255.0)


def predict_with(model):
    def predict(raw):
        with torch.no_grad():
            return model(raw)

    return predict


def writer(model, window=(16, 16, 16), stride=(2, 2, 2), expected=None):
    return FormWriter(model, expected or predict_with(model), example(window), stride)


def test_torchscript_is_equal_bit_for_bit(tmp_path):
    written = writer(network()).write("torchscript", tmp_path)
    assert written.difference == 0
    loaded = torch.jit.load(tmp_path / "model.ts")
    # As cellmap-flow passes raw: bytes of several blocks.
    raw = torch.cat([example((16, 16, 16))] * 3)
    assert torch.equal(loaded(raw.to(torch.uint8)), loaded(raw))


@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize("error", [1e-5, float("nan"), float("inf")])
def test_a_form_that_differs_is_refused(tmp_path, error, windows):
    """Each of the two batches that are compared counts."""
    model = network()

    def expected(raw):
        return predict_with(model)(raw) + (error if len(raw) == windows else 0)

    spoiled = writer(model, expected=expected)
    with pytest.raises(InputError, match="form torchscript was not exported: .* differ from those"):
        spoiled.write("torchscript", tmp_path)


def test_other_shapes_are_no_difference_but_an_error():
    with pytest.raises(ValueError, match=r"\[2\] instead of \[3\]"):
        largest_difference(torch.zeros(2), torch.zeros(3))


class Untraceable(torch.nn.Module):
    """A network whose operations depend on values."""

    def forward(self, raw):
        return raw if raw.sum() > 0 else -raw


def test_a_network_that_torch_cannot_export_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be exported in the form torch-export .*--forms"):
        writer(Untraceable(), stride=None).write("torch-export", tmp_path)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(forms, "find_spec", lambda name: None if name == "onnxruntime" else "")
    check_packages(["torch-export", "torchscript", "bioimageio"])
    with pytest.raises(InputError, match="form onnx needs onnxruntime, which is not installed"):
        check_packages(["torch-export", "onnx"])


def test_windows_are_fixed_where_a_network_cannot_take_others():
    # A window of one coarsest voxel along z would be taken as fixed by torch.
    assert writer(network(), (2, 8, 8)).free_axes == {"y": (4, 2), "x": (4, 2)}
    assert writer(network(), stride=None).free_axes == {}


@pytest.mark.slow
def test_torch_export_and_onnx_take_other_windows(tmp_path):
    model = network()
    made = writer(model)
    for form in ("torch-export", "onnx"):
        assert made.write(form, tmp_path).difference <= FORMS[form].max_difference
        open_form = forms.open_form(form, tmp_path / FORMS[form].file)
        raw = torch.cat([example((4, 10, 6))] * 3)
        assert largest_difference(open_form(raw), predict_with(model)(raw)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), ARCHITECTURES)
def test_every_form_of_the_included_architectures(tmp_path, name, options):
    small, patch = SMALL[name]
    model = network(model={"architecture": name, **small, **options}, patch_size=list(patch),
                    inference={})  # fmt: skip
    made = writer(model, patch, stride=None)
    found = {form: made.write(form, tmp_path).difference for form in FORMS}
    assert found["torchscript"] == 0
    assert found["torch-export"] <= 1e-6
    assert found["onnx"] <= 1e-4
