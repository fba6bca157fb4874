import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss, FocalLoss, TverskyLoss

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.losses import SMOOTHING_VOXELS as SMOOTH
from cellmap_pipeline.models.losses import check_loss
from cellmap_pipeline.models.masked_loss import MaskedLoss
from cellmap_pipeline.models.registry import LOSSES

SHAPE = (2, 3, 4, 5, 6)
NAN = float("nan")
# Those of atoms are tested with the hierarchy.
OF_CHANNELS = [name for name, loss in LOSSES.items() if not loss.of_atoms]


@pytest.fixture
def batch():
    """Logits, and targets without unknown voxels."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(SHAPE, generator=generator)
    target = (torch.rand(SHAPE, generator=generator) < 0.3).float()
    return logits.requires_grad_(), target


def hide(target, share=0.4, seed=2):
    """Return the target with some of its voxels unknown."""
    hidden = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(hidden, NAN, target)


def defined_loss(name, logits, target, weights=None):
    """Compute a loss by its definition, from the known voxels of each class."""
    channels = range(target.shape[1])
    weights = weights or [1.0] * len(channels)
    total, shares = 0.0, 0.0
    for c in channels:
        known = ~target[:, c].isnan()
        p, t = logits[:, c][known].double().sigmoid(), target[:, c][known].double()
        if not len(p):
            continue
        right = torch.where(t == 1, p, 1 - p)
        tp, fp, fn = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
        if name == "bce":
            losses, share = -right.log().sum(), len(p)
        elif name == "focal":
            losses, share = (-((1 - right) ** 2) * right.log()).sum(), len(p)
        elif name == "dice":
            losses, share = 1 - (2 * tp + SMOOTH) / (2 * tp + fp + fn + SMOOTH), 1
        else:
            losses, share = 1 - (tp + SMOOTH) / (tp + 0.3 * fp + 0.7 * fn + SMOOTH), 1
        total += weights[c] * losses
        shares += weights[c] * share
    return float(total / shares)


def test_schema_lists_all_losses():
    loss = Training.model_json_schema()["properties"]["loss"]
    assert loss["anyOf"][0]["enum"] == list(LOSSES)


@pytest.mark.parametrize("name", ["bce", "dice", "focal", "tversky"])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_masked_losses_match_their_definition(batch, name, weights):
    logits, target = batch
    target = hide(target)
    target[:, 1] = NAN
    found = MaskedLoss(name, weights)(logits, target).item()
    assert found == pytest.approx(defined_loss(name, logits.detach(), target, weights), rel=1e-5)


def test_losses_without_unknown_voxels_match_monai(batch):
    logits, target = batch
    smooth = {"smooth_nr": SMOOTH, "smooth_dr": SMOOTH}
    references = {
        "dice": DiceLoss(sigmoid=True, batch=True, **smooth),
        "tversky": TverskyLoss(sigmoid=True, batch=True, alpha=0.3, beta=0.7, **smooth),
        "focal": FocalLoss(),
        "bce": torch.nn.BCEWithLogitsLoss(),
    }
    for name, reference in references.items():
        torch.testing.assert_close(MaskedLoss(name)(logits, target), reference(logits, target))


@pytest.mark.parametrize(
    ("name", "predicted", "expected"),
    [
        # min(p, t) sums to 0.75 + 0.25, p to 1.25, t to 1.25.
        ("dice", [0.75, 0.5], 1 - (2 * 1.0 + 1) / (1.25 + 1.25 + 1)),
        ("dice", [1.0, 0.25], 0.0),
        # A quarter is predicted alone, and a quarter is true alone.
        ("tversky", [0.75, 0.5], 1 - (1.0 + 1) / (1.0 + 0.3 * 0.25 + 0.7 * 0.25 + 1)),
        ("tversky", [1.0, 0.25], 0.0),
    ],
)
def test_overlap_with_distances(name, predicted, expected):
    """By the products of predicted and true values, a right prediction would cost up to 0.3."""
    target = torch.tensor([1.0, 0.25]).view(1, 1, 1, 1, 2)
    logits = torch.tensor(predicted).view_as(target).logit().clamp(-30, 30)
    assert MaskedLoss(name)(logits, target).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["dice", "tversky"])
def test_losses_of_distances_match_monai_and_are_least_at_the_distance(batch, name):
    logits, _ = batch
    target = torch.randint(0, 9, SHAPE, generator=torch.Generator().manual_seed(4)) / 8
    options = {"dice": {}, "tversky": {"alpha": 0.3, "beta": 0.7}}[name]
    reference = {"dice": DiceLoss, "tversky": TverskyLoss}[name](
        sigmoid=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH, soft_label=True, **options
    )
    torch.testing.assert_close(MaskedLoss(name)(logits, target), reference(logits, target))
    right = target.logit().clamp(-30, 30)
    assert MaskedLoss(name)(right, target).item() == pytest.approx(0, abs=1e-6)
    for step in (-0.5, 0.5):
        assert MaskedLoss(name)(right + step, target).item() > 0.01


def test_class_weights_match_monai(batch):
    logits, target = batch
    weights = [0.5, 1.0, 1.5]
    reference = DiceLoss(
        sigmoid=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH, weight=weights
    )
    torch.testing.assert_close(
        MaskedLoss("dice", weights)(logits, target), reference(logits, target)
    )
    # Only their ratios matter.
    torch.testing.assert_close(
        MaskedLoss("bce", weights)(logits, target), MaskedLoss("bce", [1, 2, 3])(logits, target)
    )


def test_sums_are_weighted(batch):
    logits, target = batch
    target = hide(target)
    each = {name: MaskedLoss(name)(logits, target) for name in OF_CHANNELS}
    both = MaskedLoss({"dice": 1, "bce": 0.5})(logits, target)
    torch.testing.assert_close(both, each["dice"] + 0.5 * each["bce"])
    torch.testing.assert_close(each["dice_bce"], each["dice"] + each["bce"])


@pytest.mark.parametrize("name", OF_CHANNELS)
@given(value=st.sampled_from([-50.0, 0.0, 7.0, math.inf, math.nan]), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_logits_of_unknown_voxels_change_nothing(name, value, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 2, 3, 3, 3, generator=generator)
    target = hide((torch.rand(1, 2, 3, 3, 3, generator=generator) < 0.5).float(), seed=seed)
    unknown = target.isnan()
    plain, changed = logits.clone(), logits.clone()
    changed[unknown] = value
    gradients = []
    for tensor in (plain, changed):
        loss = MaskedLoss(name)(tensor.requires_grad_(), target)
        loss.backward()
        gradients.append(tensor.grad)
    assert torch.equal(*gradients)
    assert (gradients[0][unknown] == 0).all()
    assert gradients[0].isfinite().all()


@pytest.mark.parametrize("name", OF_CHANNELS)
def test_loss_of_an_unknown_patch_is_zero(name):
    logits = [torch.randn(1, 2, n, n, n, requires_grad=True) for n in (4, 2)]
    target = torch.full((1, 2, 4, 4, 4), NAN)
    loss = MaskedLoss(name, [1, 3])(logits, target)
    loss.backward()
    assert loss.item() == 0
    assert all((scale.grad == 0).all() for scale in logits)


@pytest.mark.parametrize("name", ["dice", "tversky"])
@pytest.mark.parametrize("logit", [-30.0, -10.0, -3.0, 0.0, 10.0])
def test_loss_of_absent_classes_is_bounded(name, logit):
    logits = torch.full((1, 1, 8, 8, 8), logit, requires_grad=True)
    loss = MaskedLoss(name)(logits, torch.zeros_like(logits))
    loss.backward()
    assert 0 <= loss.item() <= 1
    assert logits.grad.abs().sum() <= 0.25 + 1e-6
    if logit == -30:
        assert loss.item() < 1e-6


def test_deep_supervision_halves_weights_and_uses_the_nearest_target(batch):
    logits, target = batch
    target = hide(target[..., :4, :4])
    logits = logits.detach()[..., :4, :4]
    half = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(3))
    quarter = half[..., :1, :1, :1]
    loss = MaskedLoss("dice_bce")
    # Nearest to the middle of a coarse voxel is the fine voxel just past it.
    expected = (
        loss(logits, target)
        + loss(half, target[..., 1::2, 1::2, 1::2]) / 2
        + loss(quarter, target[..., 2::4, 2::4, 2::4]) / 4
    ) / (1 + 1 / 2 + 1 / 4)
    torch.testing.assert_close(loss([logits, half, quarter], target), expected)
    torch.testing.assert_close(loss([logits], target), loss(logits, target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_of_half_precision_logits_do_not_overflow(dtype):
    # 200,000 voxels: their sum is beyond float16.
    logits = torch.full((1, 1, 2, 320, 320), 4.0, dtype=dtype)
    loss = MaskedLoss("dice_bce")(logits, torch.ones(logits.shape))
    p = 1 / (1 + math.exp(-4))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.log(p) + (1 - 2 * p / (1 + p)), rel=1e-3)


def test_gradients_match_finite_differences():
    logits = torch.randn(1, 2, 2, 2, 2, dtype=torch.float32, requires_grad=True)
    target = hide((torch.rand(logits.shape) < 0.5).float())
    for name in OF_CHANNELS:
        loss = MaskedLoss(name, [1, 2])
        (gradient,) = torch.autograd.grad(loss(logits, target), logits)
        step = 1e-2 * torch.randn(logits.shape)
        with torch.no_grad():
            rise = loss(logits + step, target) - loss(logits - step, target)
        assert rise.item() == pytest.approx(2 * (gradient * step).sum().item(), abs=2e-4)


def test_class_weights_are_not_in_checkpoints():
    loss = MaskedLoss("bce", [1, 2])
    assert not loss.state_dict()
    assert loss.class_weights is not None


@pytest.mark.parametrize(
    ("loss", "class_weights", "message"),
    [
        ({"dice": 1, "mse": 1}, None, "there is no 'mse'"),
        ("bce", [1.0, -1.0], "class weights must be positive"),
    ],
    ids=str,
)
def test_invalid_losses_are_refused(loss, class_weights, message):
    with pytest.raises(InputError, match=message):
        MaskedLoss(loss, class_weights)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        MaskedLoss("bce")(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2))


def test_options_are_passed_to_the_loss(batch):
    logits, target = batch
    found = MaskedLoss({"tversky": {"weight": 0.5, "alpha": 0.5, "beta": 0.5}})(logits, target)
    # Equal weights of false positives and false negatives give Dice, but for the smoothing.
    reference = TverskyLoss(
        sigmoid=True, batch=True, alpha=0.5, beta=0.5, smooth_nr=SMOOTH, smooth_dr=SMOOTH
    )
    torch.testing.assert_close(found, 0.5 * reference(logits, target))
    focal = MaskedLoss({"focal": {"gamma": 0.5}})(logits, target)
    torch.testing.assert_close(focal, FocalLoss(gamma=0.5)(logits, target))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("dise", "there is no 'dise' .*dice"),
        ({}, "loss: is empty"),
        ({"dice": 0}, "weight of dice must be a positive number, not 0"),
        ({"dice": True}, "weight of dice must be a positive number"),
        ({"dice": {"weight": math.nan}}, "weight of dice must be a positive number"),
        ({"dice": {"gamma": 2}}, "dice has no option 'gamma'; it has none"),
        ({"focal": {"gama": 2}}, r"focal has no option 'gama'; it has gamma \(default 2.0\)"),
        ({"focal": {"gamma": "2"}}, "gamma of focal should be a valid number, not '2'"),
        ({"tversky": {"alpha": 1.5}}, "alpha of tversky should be less than 1, not 1.5"),
    ],
    ids=str,
)
def test_invalid_loss_options_are_refused(loss, message):
    with pytest.raises(InputError, match=message):
        check_loss(loss)
