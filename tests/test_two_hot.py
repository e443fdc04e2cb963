"""Two-hot by hand, against slow loops, and the promises the agent relies on."""

import math

import pytest
import torch

from dreamer_lite.networks import TwoHotHead
from dreamer_lite.symlog import symexp
from dreamer_lite.two_hot import TwoHot
from dreamer_lite.world_model import LaProp

HEAD = TwoHot()


def numbers(count=400):
    """Numbers of both signs over seven orders of magnitude."""
    generator = torch.Generator().manual_seed(1)
    return symexp(torch.empty(count).uniform_(-14, 14, generator=generator))


# The bins


def test_bins_have_the_values_of_the_reference():
    near = [0, 0.1706, 0.3702, 0.6039, 0.8775, 1.1977, 1.5725, 2.0113, 2.5249]
    torch.testing.assert_close(
        HEAD.bins[127:136], torch.tensor(near), rtol=0, atol=6e-5
    )
    assert HEAD.bins.shape == (255,) and HEAD.bins.dtype == torch.float32
    assert HEAD.bins[-1].item() == pytest.approx(4.85e8, rel=1e-3)


@pytest.mark.parametrize("bins", [3, 41, 255])
def test_bins_mirror_to_the_last_bit_around_an_exact_zero(bins):
    values = TwoHot(bins=bins).bins
    assert torch.equal(values, -values.flip(0)) and values[bins // 2] == 0
    assert (values.diff() > 0).all()


# Encoding


def test_two_hot_by_hand():
    small = TwoHot(bins=5, low=-2.0, high=2.0)  # bins 0, +-1.718, +-6.389
    upper = 1 / (math.e - 1)
    expected = torch.tensor([0, 0, 1 - upper, upper, 0])
    torch.testing.assert_close(small.encode(1.0), expected)
    torch.testing.assert_close(small.encode(-1.0), expected.flip(0))
    assert torch.equal(small.encode(0.0), torch.eye(5)[2])


def test_weights_add_up_and_give_the_number_back():
    y = numbers().reshape(2, 4, 50)
    weights = HEAD.encode(y)
    assert weights.shape == (2, 4, 50, 255)
    assert (weights >= 0).all() and ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 50))
    torch.testing.assert_close(weights @ HEAD.bins, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("y, k", [(1e12, 254), (-1e12, 0), (math.inf, 254)])
def test_a_number_out_of_range_becomes_the_last_bin(y, k):
    assert torch.equal(HEAD.encode(y), torch.eye(255)[k])
    logits = torch.randn(255, generator=torch.Generator().manual_seed(0))
    expected = -torch.log_softmax(logits, -1)[k]
    torch.testing.assert_close(HEAD.loss(logits, torch.tensor(y)), expected)


# The loss


def test_loss_agrees_with_the_encoded_target():
    y = numbers()
    logits = 3 * torch.randn(len(y), 255, generator=torch.Generator().manual_seed(2))
    dense = -(HEAD.encode(y) * torch.log_softmax(logits, -1)).sum(-1)
    torch.testing.assert_close(HEAD.loss(logits, y), dense)


def test_initial_loss_is_ln_255_for_every_target():
    loss = HEAD.loss(torch.zeros(400, 255), numbers())
    torch.testing.assert_close(loss, torch.full((400,), math.log(255)))


@pytest.mark.parametrize(
    "y, nats",
    [(0, 0), (0.1, 0.678), (0.5, 0.687), (1, 0.665), (-1, 0.665), (2, 0.119)]
    + [(5, 0.653), (10, 0.518), (100, 0.602)],
)
def test_lowest_loss_is_the_entropy_of_the_target(y, nats):
    target = torch.tensor(float(y))
    best = HEAD.encode(target).clamp(min=1e-30).log()
    assert HEAD.loss(best, target).item() == pytest.approx(nats, abs=6e-4)
    worse = best + torch.randn(20, 255, generator=torch.Generator().manual_seed(0))
    assert (HEAD.loss(worse, target.expand(20)) >= nats - 6e-4).all()


def test_gradient_is_softmax_minus_target_and_stops_before_the_target():
    y = numbers(30).requires_grad_()
    logits = torch.randn(30, 255, generator=torch.Generator().manual_seed(3))
    logits.requires_grad_()
    HEAD.loss(logits, y).sum().backward()
    expected = torch.softmax(logits.detach(), -1) - HEAD.encode(y)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-6)
    assert y.grad is None


def test_loss_and_mean_compute_in_float32():
    logits = torch.randn(8, 255).bfloat16()
    y = numbers(8)
    assert HEAD.loss(logits, y).dtype == torch.float32
    assert torch.equal(HEAD.loss(logits, y), HEAD.loss(logits.float(), y))
    assert torch.equal(HEAD.mean(logits), HEAD.mean(logits.float()))


# The mean


@pytest.mark.parametrize("level", [0.0, 3.7, -50.0])
@pytest.mark.parametrize("bins", [41, 255])
def test_mean_of_equal_logits_is_exactly_zero(level, bins):
    assert (TwoHot(bins=bins).mean(torch.full((5, 7, bins), level)) == 0).all()


def test_mean_of_mirrored_probabilities_is_exactly_zero():
    half = torch.randn(50, 127, generator=torch.Generator().manual_seed(4))
    logits = torch.cat([half, torch.ones(50, 1), half.flip(-1)], -1)
    assert (HEAD.mean(logits) == 0).all()


def test_mean_is_the_expectation_in_double_precision():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(200, 255, generator=generator)
    logits -= 0.3 * torch.arange(-127, 128).abs()  # little on the giants
    truth = (torch.softmax(logits.double(), -1) * HEAD.bins.double()).sum(-1)
    torch.testing.assert_close(HEAD.mean(logits).double(), truth, rtol=1e-4, atol=1e-4)


# Bad input


@pytest.mark.parametrize(
    "wrong",
    [{"bins": 254}, {"bins": 1}, {"low": -10.0}, {"low": 20.0, "high": -20.0}],
)
def test_bins_that_cannot_mirror_are_refused(wrong):
    with pytest.raises(ValueError, match="odd number of bins.*but got.*mirrors"):
        TwoHot(**wrong)


@pytest.mark.parametrize("shape", [(4, 255), (3, 1), (3, 254)])
def test_logits_and_targets_must_fit(shape):
    y = torch.zeros(3) if shape[-1] != 1 else torch.zeros(3, 1)
    with pytest.raises(ValueError, match="expects logits.*but got.*dimension"):
        HEAD.loss(torch.zeros(shape), y)


# Training moves mirrored bins alike


@pytest.mark.parametrize("rows", [(1,), (16, 31), (500, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mirrored_gradients_stay_mirrored_to_the_last_bit(rows, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*rows, 64, generator=generator)
    below = torch.rand(*rows, 127, generator=generator)
    middle = torch.rand(*rows, 1, generator=generator)
    layer = TwoHotHead(64)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = layer(x)
    assert out.dtype == dtype and not out.any()
    out.backward(torch.cat([below, middle, below.flip(-1)], -1).to(dtype))
    assert layer.bias.grad.count_nonzero() == 255
    assert torch.equal(layer.weight.grad, layer.weight.grad.flip(0))
    assert torch.equal(layer.bias.grad, layer.bias.grad.flip(0))


def test_head_is_a_linear_layer_of_the_same_names():
    layer, x = TwoHotHead(8, bins=41), torch.randn(5, 8)
    torch.nn.init.normal_(layer.weight), torch.nn.init.normal_(layer.bias)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_bins_that_no_reward_reaches_cancel_in_training():
    torch.manual_seed(0)
    layer, far = TwoHotHead(64), HEAD.bins.abs() > 10
    optimizer = LaProp(layer.parameters(), lr=1e-3, warmup=5)
    for _ in range(20):
        x = torch.randn(512, 64)
        logits = layer(x)
        probs = torch.softmax(logits.detach(), -1)[:, far]
        assert torch.equal(probs, probs.flip(1))
        loss = HEAD.loss(logits, (x[:, 0] > 0).float()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bias = layer.bias[far]
        assert torch.equal(bias, bias.flip(0))
