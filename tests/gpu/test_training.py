"""Each shipped training trains, in the memory that the plan estimates."""

from __future__ import annotations

import math
import shutil

import pytest
import pytorch_lightning as pl
import torch

from tests.gpu.drawn import SHIPPED, read_last, read_metrics

pytestmark = pytest.mark.gpu

# With `16-mixed`, the gradient scaler skips the first ones.
STEPS = 6
MAX_MEMORY_ERROR = 0.15


def require_memory(training, device):
    """Skip the test where the GPU's memory is below the plan's estimate."""
    if device.type == "cpu":
        return
    from cellmap_pipeline.preflight.estimates.training_memory import training_memory_bytes

    available = torch.cuda.get_device_properties(device).total_memory
    needed = training_memory_bytes(training)
    if needed > available:
        pytest.skip(f"it takes {needed / 1e9:.0f} GB, and the GPU has {available / 1e9:.0f} GB")


class Watch(pl.Callback):
    """Notes what a training does to its weights and gradients.

    Attributes
    ----------
    before
        The weights before training.
    norms
        Norm of the gradients that each optimizer step used.
    outputs
        Number of outputs of the network in each batch that it trained on.
    device
        Device that the network trained on.
    dtypes
        Types of the network's outputs.
    """

    def __init__(self):
        self.norms, self.outputs, self.dtypes = [], [], set()

    def on_train_start(self, trainer, task):
        self.before = {
            name: w.detach().cpu().clone() for name, w in task.network.named_parameters()
        }
        self.device = task.device
        task.network.register_forward_hook(self._note_output)

    def on_train_batch_end(self, trainer, task, outputs, batch, index):
        if (index + 1) % trainer.accumulate_grad_batches == 0 and not task.step_is_skipped:
            gradients = [w.grad for w in task.network.parameters() if w.grad is not None]
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    def _note_output(self, network, inputs, output):
        outputs = [output] if isinstance(output, torch.Tensor) else list(output)
        self.dtypes |= {one.dtype for one in outputs}
        if network.training:
            self.outputs.append(len(outputs))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_training_trains(drawn, folder, device, name, precision):
    """With accumulation, clipping, deep supervision and moving average as its file says."""
    training = drawn.training(name, STEPS, precision=precision)
    require_memory(training, device)
    watch = Watch()
    drawn.train(training, folder, [watch])
    assert watch.device.type == device.type
    if device.type == "cuda":
        assert watch.dtypes == {torch.bfloat16 if precision == "bf16-mixed" else torch.float16}
    check_training(training, folder, watch)


def check_training(training, folder, watch):
    last = read_last(folder)
    assert last["global_step"] == STEPS
    (row,) = read_metrics(folder)
    assert all(math.isfinite(row[key]) for key in ("train_loss", "val_loss", "val_dice"))
    assert row["skipped_steps"] == 0
    assert len(watch.norms) == STEPS - row.get("overflow_steps", 0) >= 1
    assert all(norm > 0 for norm in watch.norms)
    if training.gradient_clip:
        assert max(watch.norms) <= training.gradient_clip * 1.001
    batches = STEPS * training.accumulate_grad_batches
    deep = training.model.get("deep_supervision", False)
    assert len(watch.outputs) == batches
    assert all((number > 1) == deep for number in watch.outputs)
    trained = last["current_model_state" if training.ema else "state_dict"]
    weights = {name.removeprefix("network."): values for name, values in trained.items()}
    assert all(weights[name].isfinite().all() for name in watch.before)
    changed = [not torch.equal(weights[name], values) for name, values in watch.before.items()]
    assert sum(changed) > 0.9 * len(changed)
    if training.ema:
        average = last["state_dict"]
        assert average.keys() == trained.keys()
        different = [not torch.equal(average[name], trained[name]) for name in trained]
        assert sum(different) > 0.5 * len(different)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_gradients_are_clipped(drawn, folder, device, precision):
    """With a limit that each step exceeds, also where the loss is scaled."""
    training = drawn.training("monai_unet_quick", STEPS, precision=precision, gradient_clip=0.01)
    require_memory(training, device)
    watch = Watch()
    drawn.train(training, folder, [watch])
    assert watch.norms == pytest.approx([0.01] * len(watch.norms), rel=0.01)
    check_training(training, folder, watch)


def test_a_compiled_network_trains(drawn, folder, device):
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("torch compiles networks with a C compiler: install gcc")
    training = drawn.training("monai_unet_quick", STEPS, compile=True, precision="mixed")
    require_memory(training, device)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    watch = Watch()
    drawn.train(training, folder, [watch])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    check_training(training, folder, watch)


class PeakMemory(pl.Callback):
    """Measures the peak of the second optimizer step: in the first one, cuDNN tries algorithms."""

    peak_bytes = 0

    def on_train_batch_start(self, trainer, task, batch, index):
        if index == trainer.accumulate_grad_batches:
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(self, trainer, task, outputs, batch, index):
        if index + 1 == 2 * trainer.accumulate_grad_batches:
            self.peak_bytes = torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_memory_of_a_training_is_as_the_plan_estimates(drawn, folder, device, name):
    if device.type == "cpu":
        pytest.skip("the plan estimates the memory of GPUs")
    from cellmap_pipeline.preflight.estimates.training_memory import training_memory_bytes

    training = drawn.training(name, 2)
    require_memory(training, device)
    measured = PeakMemory()
    drawn.train(training, folder, [measured])
    assert training_memory_bytes(training) == pytest.approx(
        measured.peak_bytes, rel=MAX_MEMORY_ERROR
    )
