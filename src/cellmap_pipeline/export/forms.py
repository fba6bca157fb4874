"""The forms of an exported network; each is read back and compared with the checkpoint."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape

log = logging.getLogger(__name__)

# With a single voxel along an axis at the coarsest level, torch would take its size as fixed.
MIN_COARSEST_VOXELS = 2
INPUT_NAME, OUTPUT_NAME = "raw", "probabilities"

Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """A form of the exported network.

    Attributes
    ----------
    file
        Name of its file.
    program
        The library that reads it, for people.
    max_difference
        By how much its probabilities may differ from those of the checkpoint, on a CPU.
    packages
        Packages that it takes besides torch.
    """

    file: str
    program: str
    max_difference: float
    packages: tuple[str, ...] = ()


FORMS = {
    "torch-export": Form("model.pt2", "torch.export", 1e-6),
    "torchscript": Form("model.ts", "TorchScript", 0.0),
    "onnx": Form("model.onnx", "ONNX", 1e-4, ("onnx", "onnxruntime", "onnxscript")),
}
BIOIMAGEIO, BIOIMAGEIO_PACKAGES = "bioimageio", ("bioimageio.spec",)
FORM_NAMES = (*FORMS, BIOIMAGEIO)


@dataclass(frozen=True)
class Written:
    """A form that was written, and by how much it was found to differ from the checkpoint."""

    form: str
    difference: float


def check_packages(forms: Sequence[str]) -> None:
    """Check that the packages that forms take are installed.

    Raises
    ------
    InputError
        One is missing.
    """
    for form in forms:
        packages = FORMS[form].packages if form in FORMS else BIOIMAGEIO_PACKAGES
        missing = [package for package in packages if not _is_installed(package)]
        if missing:
            raise InputError(
                f"the form {form} needs {', '.join(missing)}, which is not installed: install it "
                "with `pip install 'cellmap-pipeline[export]'`, or list the other forms with "
                "--forms"
            )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


class FormWriter:
    """Writes a network in several forms.

    Parameters
    ----------
    model
        The network; stored raw (n, 1, z, y, x) to probabilities (n, c, z, y, x), both float32.
    expected
        Function that predicts the same with the checkpoint.
    example
        A window of stored raw, (1, 1, z, y, x) float32.
    stride
        Input voxels (z, y, x) per voxel of the network's coarsest level; None if the network takes
        windows of a single size.
    """

    def __init__(
        self, model: nn.Module, expected: Predict, example: Tensor, stride: Shape | None
    ) -> None:
        self.model, self.example, self.expected = model, example, expected
        self.window = example.shape[2:]
        # By axis, the smallest window; None where only the window itself is possible.
        self.smallest = [
            MIN_COARSEST_VOXELS * s if stride and n >= MIN_COARSEST_VOXELS * s else None
            for n, s in zip(self.window, stride or self.window, strict=True)
        ]
        self.stride = stride

    @property
    def free_axes(self) -> dict[str, tuple[int, int]]:
        """Axes along which torch.export and ONNX take other windows: smallest size and step."""
        steps = zip("zyx", self.smallest, self.stride or self.window, strict=True)
        return {axis: (smallest, step) for axis, smallest, step in steps if smallest}

    def write(self, form: str, folder: Path) -> Written:
        """Write a form into a folder, read it back, and compare it with the checkpoint.

        Raises
        ------
        InputError
            torch cannot write the network in this form, or it differs by too much.
        """
        file = folder / FORMS[form].file
        with _failures_named(form):
            if form == "torch-export":
                torch.export.save(self._program, file)
            elif form == "torchscript":
                with torch.no_grad(), warnings.catch_warnings():
                    # It warns of sizes that become constant: only the window is traced.
                    warnings.simplefilter("ignore")
                    torch.jit.save(torch.jit.trace(self.model, self.example), file)
            else:
                self._write_onnx(file)
            predict = open_form(form, file)
        wanted = self._expected_of_window, self._expected_of_pair(form)
        with _failures_named(form):
            # Unlike `max`, this preserves NaN.
            difference = float(np.max([largest_difference(predict(a), b) for a, b in wanted]))
        if not difference <= FORMS[form].max_difference:
            raise InputError(
                f"the form {form} was not exported: its probabilities differ from those of the "
                f"checkpoint by up to {difference:.3g}, and may by {FORMS[form].max_difference:g}; "
                "list the other forms with --forms"
            )
        log.info("%s: differs from the checkpoint by up to %.3g", form, difference)
        return Written(form, difference)

    @property
    def probabilities(self) -> Tensor:
        """Probabilities that the checkpoint predicts for the example."""
        return self._expected_of_window[1]

    @cached_property
    def _expected_of_window(self) -> tuple[Tensor, Tensor]:
        return self.example, self.expected(self.example)

    def _expected_of_pair(self, form: str) -> tuple[Tensor, Tensor]:
        """Return a batch of two, of the smallest size that the form takes, and its prediction."""
        # A trace has the size of the window.
        smallest = [None] * 3 if form == "torchscript" else self.smallest
        z, y, x = (size or n for size, n in zip(smallest, self.window, strict=True))
        raw = self.example[..., :z, :y, :x]
        pair = torch.cat([raw, raw.flip(2)])
        return pair, self.expected(pair)

    @cached_property
    def _program(self) -> ExportedProgram:
        shape = {0: Dim("n", min=1)} | {
            axis: step * Dim(f"_{name}", min=MIN_COARSEST_VOXELS)
            for axis, name, size, step in zip(
                (2, 3, 4), "zyx", self.smallest, self.stride or self.window, strict=True
            )
            if size
        }
        # A batch of one would be taken as fixed.
        pair = torch.cat([self.example, self.example])
        with torch.no_grad(), warnings.catch_warnings():
            # It warns of tensors that MONAI's DynUNet keeps of its last call.
            warnings.simplefilter("ignore")
            return torch.export.export(self.model, (pair,), dynamic_shapes=(shape,), strict=False)

    def _write_onnx(self, file: Path) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self._program, (), file, input_names=[INPUT_NAME], output_names=[OUTPUT_NAME],
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip


@contextmanager
def _failures_named(form: str) -> Iterator[None]:
    """Name the form that a network cannot be exported in; torch raises all kinds of errors."""
    try:
        yield
    except OSError:  # The disk, not the network.
        raise
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        raise InputError(
            f"this network cannot be exported in the form {form} ({type(error).__name__}: {why}): "
            "list the other forms with --forms"
        ) from error


def open_form(form: str, file: Path) -> Predict:
    """Open an exported network on the CPU, as other programs do.

    Returns
    -------
    Function from stored raw to probabilities.
    """
    if form == "onnx":
        from onnxruntime import InferenceSession

        session = InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda raw: torch.from_numpy(
            session.run([OUTPUT_NAME], {INPUT_NAME: raw.numpy()})[0]
        )
    if form == "torchscript":
        with warnings.catch_warnings():
            # torch advises torch.export, which is written, too.
            warnings.simplefilter("ignore")
            return _without_gradients(torch.jit.load(file, map_location="cpu"))
    return _without_gradients(torch.export.load(file).module())


def _without_gradients(model: nn.Module) -> Predict:
    def predict(raw: Tensor) -> Tensor:
        with torch.no_grad():
            return model(raw)

    return predict


def largest_difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest absolute difference; NaN where one of them is NaN."""
    if found.shape != wanted.shape:
        raise ValueError(f"it returns {list(found.shape)} instead of {list(wanted.shape)}")
    return float(np.abs(found.double().numpy() - wanted.double().numpy()).max())
