"""Class logits from logits of atoms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.hierarchy import ClassLogits
from cellmap_pipeline.models.masked_loss import MaskedLoss

CHANNELS = ["mito", "mito_boundary", "mito_mem", "ecs", "ribo"]
# mito_mem, the rest of mito, ecs; `ribo` is a class that the table does not know.
ATOMS = [["mito", "mito_mem"], ["mito"], ["ecs"]]
NAN = float("nan")


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(3)
    return (3 * torch.randn((2, 6, 2, 3, 4), generator=generator)).requires_grad_()


def voxel(*values):
    """Return targets of one voxel, (1, c, 1, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1, 1)


def test_class_has_the_probability_of_its_atoms(outputs):
    logits = ClassLogits(CHANNELS, ATOMS)(outputs)
    atoms = outputs[:, :4].softmax(1)
    mito, boundary, mito_mem, ecs, ribo = logits.unbind(1)
    torch.testing.assert_close(mito.sigmoid(), atoms[:, 0] + atoms[:, 1])
    torch.testing.assert_close(mito_mem.sigmoid(), atoms[:, 0])
    torch.testing.assert_close(ecs.sigmoid(), atoms[:, 2])
    assert torch.equal(boundary, outputs[:, 4]) and torch.equal(ribo, outputs[:, 5])


@given(st.lists(st.floats(-200, 200), min_size=4, max_size=4), st.sampled_from([1.0, 50.0]))
def test_log_odds_are_exact_and_finite_however_far_apart(values, factor):
    """The float64 result of the definition is the reference; a sum of probabilities rounds to 1.

    Beyond 1 : e to the 60, log-odds only keep their sign.
    """
    atoms = (factor * torch.tensor(values)).reshape(1, 4, 1, 1, 1).requires_grad_()
    unused = torch.zeros(1, 2, 1, 1, 1)
    logits = ClassLogits(CHANNELS, ATOMS)(torch.cat([atoms, unused], 1))
    logits.sum().backward()
    a = atoms.detach().double().flatten()
    expected = torch.logsumexp(a[:2], 0) - torch.logsumexp(a[2:], 0)
    found = float(logits[0, 0, 0, 0, 0])
    if abs(expected) < 50:
        assert found == pytest.approx(float(expected), abs=1e-5 + 2e-7 * float(a.abs().max()))
    else:
        assert found * torch.sign(expected) >= 50
    assert atoms.grad.isfinite().all()


def test_gradient_agrees_with_autograd(outputs):
    def by_definition(values):
        atoms = values[:, :4]
        sums = [
            atoms[:, inside].logsumexp(1) - atoms[:, outside].logsumexp(1)
            for inside, outside in (([0, 1], [2, 3]), ([0], [1, 2, 3]), ([2], [0, 1, 3]))
        ]
        return torch.stack([sums[0], values[:, 4], sums[1], sums[2], values[:, 5]], 1)

    weights = torch.randn((2, 5, 2, 3, 4), generator=torch.Generator().manual_seed(4))
    (own,) = torch.autograd.grad((ClassLogits(CHANNELS, ATOMS)(outputs) * weights).sum(), outputs)
    (other,) = torch.autograd.grad((by_definition(outputs) * weights).sum(), outputs)
    torch.testing.assert_close(own, other)


def test_float16_outputs_are_summed_in_float32(outputs):
    half = outputs.detach().half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = ClassLogits(CHANNELS, ATOMS)(half)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, ClassLogits(CHANNELS, ATOMS)(half.float()))


def test_each_scale_of_deep_supervision_is_converted(outputs):
    convert = ClassLogits(CHANNELS, ATOMS)
    full, half = convert([outputs, outputs[..., ::2]])
    assert torch.equal(full, convert(outputs)) and torch.equal(half, full[..., ::2])


def test_moving_averages_do_not_change_the_conversion(outputs):
    """An average of weights includes buffers, which it would round off."""
    convert = ClassLogits(CHANNELS, ATOMS)
    average = AveragedModel(convert, avg_fn=get_ema_avg_fn(0.9), use_buffers=True)
    for _ in range(20):
        average.update_parameters(convert)
    assert torch.equal(average(outputs), convert(outputs))


def test_without_atoms_outputs_are_channels(outputs):
    assert ClassLogits(["a", "b"], [])(outputs) is outputs


def test_state_dict_is_empty():
    assert not ClassLogits(CHANNELS, ATOMS).state_dict()


@pytest.mark.parametrize(
    "target, allowed",
    [
        ((NAN, NAN, NAN, NAN, NAN), [1, 1, 1, 1]),
        ((1, NAN, NAN, NAN, NAN), [1, 1, 0, 0]),
        ((1, 0, 0, NAN, NAN), [0, 1, 0, 0]),
        ((NAN, NAN, 0, NAN, 1), [0, 1, 1, 1]),
        ((0, NAN, NAN, 0, NAN), [0, 0, 0, 1]),
        # mito_mem without mito: a contradiction.
        ((0, NAN, 1, NAN, NAN), [1, 1, 1, 1]),
    ],
)
def test_allowed_atoms_agree_with_all_known_classes(target, allowed):
    found = ClassLogits(CHANNELS, ATOMS).allowed_atoms(voxel(*target))
    assert found.flatten().int().tolist() == allowed


def test_partial_cross_entropy_counts_a_voxel_once(outputs):
    convert = ClassLogits(CHANNELS, ATOMS)
    loss = MaskedLoss("partial_cross_entropy", class_logits=convert)
    one = outputs[:1, :, :1, :1, :1]
    atoms = one[:, :4].softmax(1).flatten()
    union = loss(one, voxel(1, NAN, NAN, NAN, NAN))
    torch.testing.assert_close(union, -(atoms[0] + atoms[1]).log())
    part = loss(one, voxel(1, NAN, 1, 0, NAN))
    torch.testing.assert_close(part, -atoms[0].log())
    nothing = loss(one, voxel(NAN, NAN, NAN, NAN, NAN))
    assert nothing == 0
    independent = loss(one, voxel(NAN, NAN, NAN, NAN, 1))
    torch.testing.assert_close(independent, -one[0, 5, 0, 0, 0].sigmoid().log())


def test_union_does_not_move_the_balance_of_its_parts(outputs):
    """The gradient of a union raises its atoms in proportion, and lowers all others."""
    loss = MaskedLoss("partial_cross_entropy", class_logits=ClassLogits(CHANNELS, ATOMS))
    one = outputs[:1, :, :1, :1, :1].detach().requires_grad_()
    loss(one, voxel(1, NAN, NAN, NAN, NAN)).backward()
    gradient, atoms = one.grad.flatten()[:4], one.detach()[:, :4].softmax(1).flatten()
    assert (gradient[:2] < 0).all() and (gradient[2:] > 0).all()
    torch.testing.assert_close(gradient[0] / gradient[1], atoms[0] / atoms[1])


def test_loss_of_atoms_needs_a_hierarchy():
    with pytest.raises(InputError, match="partial_cross_entropy is a loss of atoms: set `hier"):
        MaskedLoss("partial_cross_entropy")
