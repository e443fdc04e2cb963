"""The lambda-return against sums written out, and the scale of the returns."""

import numpy as np
import pytest
import torch

from dreamer_lite.lambda_returns import ReturnNormalizer, lambda_return


def brute_force(reward, value, cont, lam):
    """Every lambda-return as a sum over all ways to stop: [B, H].

    From state t the look-ahead stops at state k with the probability that lambda was
    refused there and at no state before; the last state always stops it. Stopping at k
    is worth the discounted rewards up to k plus the discounted value of k.
    """
    batch, states = value.shape
    result = np.zeros((batch, states - 1))
    for b in range(batch):
        for t in range(states - 1):
            for k in range(t + 1, states):
                chance = np.prod([lam[b, j] for j in range(t + 1, k)])
                if k < states - 1:
                    chance *= 1 - lam[b, k]
                worth = 0.0
                for j in range(t + 1, k + 1):
                    discount = np.prod(cont[b, t + 1 : j])
                    worth += discount * reward[b, j]
                worth += np.prod(cont[b, t + 1 : k + 1]) * value[b, k]
                result[b, t] += chance * worth
    return result


def dreams(batch=6, states=7, seed=0):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, batch, states))
    return reward, value, rng.uniform(0.5, 1, size=(batch, states))


def tensors(*arrays):
    return [torch.as_tensor(np.asarray(x)) for x in arrays]


def assert_equal_to_brute_force(reward, value, cont, lam):
    array = np.broadcast_to(lam, value.shape)
    truth = brute_force(reward, value, cont, array)
    tensor = lam if np.isscalar(lam) else torch.as_tensor(lam)
    mine = lambda_return(*tensors(reward, value, cont), tensor)
    assert mine.shape == (value.shape[0], value.shape[1] - 1)
    np.testing.assert_allclose(mine.numpy(), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("states", [2, 3, 7])
def test_brute_force(lam, states):
    assert_equal_to_brute_force(*dreams(states=states), lam)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("end", range(7))
def test_brute_force_with_an_end_in_the_middle(lam, end):
    reward, value, cont = dreams()
    cont[:, end] = 0
    assert_equal_to_brute_force(reward, value, cont, lam)


def test_brute_force_with_a_lambda_for_each_state():
    reward, value, cont = dreams()
    lam = np.random.default_rng(1).uniform(size=value.shape)
    lam[:, 3] = 0
    assert_equal_to_brute_force(reward, value, cont, lam)


def test_by_hand():
    reward = torch.tensor([[0.0, 1.0, 0.0, 2.0]])
    value = torch.tensor([[9.0, 4.5, 2.0, 4.0]])
    cont = torch.tensor([[1.0, 0.5, 0.5, 0.5]])
    assert lambda_return(reward, value, cont, 0.5).tolist() == [[2.5, 1.5, 4.0]]
    assert lambda_return(reward, value, cont, 0.0).tolist() == [[3.25, 1.0, 4.0]]
    assert lambda_return(reward, value, cont, 1.0).tolist() == [[2.0, 2.0, 4.0]]


def test_nothing_behind_an_end_is_used():
    reward, value, cont = tensors(*dreams())
    cont[:, 3] = 0
    before = lambda_return(reward, value, cont)
    for x in (reward, value, cont):
        x[:, 4:] = 1e6
    value[:, 3] = 1e6  # nor the value of the end itself
    after = lambda_return(reward, value, cont)
    assert torch.equal(before[:, :3], after[:, :3])
    assert torch.isfinite(before).all()


def test_the_replay_critic_is_the_same_function():
    """Two episodes in one window, as the formula of the replay loss has them."""
    rng = np.random.default_rng(2)
    reward, boot = rng.normal(size=(2, 1, 9))
    terminal, last = np.zeros((2, 1, 9))
    terminal[0, 3] = last[0, 3] = 1  # the game ended
    last[0, 6] = 1  # a time limit
    lam, gamma = 0.95, 1 - 1 / 333
    truth = np.zeros(9)
    truth[8] = boot[0, 8]
    for t in reversed(range(8)):
        live, keep = (1 - terminal[0, t + 1]) * gamma, lam * (1 - last[0, t + 1])
        future = (1 - keep) * boot[0, t + 1] + keep * truth[t + 1]
        truth[t] = reward[0, t + 1] + live * future
    given = tensors(reward, boot, (1 - terminal) * gamma, lam * (1 - last))
    mine = lambda_return(*given)[0]
    np.testing.assert_allclose(mine.numpy(), truth[:8], rtol=1e-12)
    assert mine[2] == reward[0, 3]  # terminal: the reward and nothing else
    assert mine[5] == pytest.approx(reward[0, 6] + gamma * boot[0, 6])
    # Each episode alone gives the same, except at last rows, which the loss leaves out.
    alone = lambda_return(*(x[:, 4:7] for x in given))
    np.testing.assert_allclose(mine[4:6].numpy(), alone[0].numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("shapes", "lam"),
    [
        (((2, 5), (2, 4), (2, 5)), 0.95),
        (((2, 5), (2, 5), (2, 1)), 0.95),
        (((5,), (5,), (5,)), 0.95),
        (((2, 1), (2, 1), (2, 1)), 0.95),
        (((2, 5), (2, 5), (2, 5)), torch.ones(2, 4)),
    ],
)
def test_wrong_shapes_are_named(shapes, lam):
    reward, value, cont = map(torch.zeros, shapes)
    with pytest.raises(ValueError, match=r"one shape \[B, H\+1\]") as error:
        lambda_return(reward, value, cont, lam)
    assert str(tuple(shapes[1])) in str(error.value)


# The scale of the returns


def batch(low=-2.0, high=8.0):
    """100 returns whose 5th and 95th percentile are `low` and `high`."""
    return torch.tensor(10 * [low] + 80 * [(low + high) / 2] + 10 * [high])


def test_percentiles_and_average():
    normalizer = ReturnNormalizer()
    assert normalizer.scale == 1
    normalizer.update(batch())
    assert torch.allclose(normalizer.range, torch.tensor([-0.02, 0.08]))
    assert normalizer.scale == 1  # a range of 0.1 enlarges nothing
    for _ in range(99):
        normalizer.update(batch().view(10, 10))
    assert normalizer.scale.item() == pytest.approx(10 * (1 - 0.99**100), rel=1e-4)
    for _ in range(2000):
        normalizer.update(batch())
    assert normalizer.scale.item() == pytest.approx(10, rel=1e-4)


def test_outliers_do_not_matter():
    one, two = ReturnNormalizer(rate=1.0), ReturnNormalizer(rate=1.0)
    returns = batch()
    one.update(returns)
    returns[0], returns[-1] = -1e6, 1e6
    two.update(returns)
    assert one.scale == two.scale == 10


def test_it_is_saved_with_the_agent_and_takes_no_gradient():
    normalizer = ReturnNormalizer(rate=1.0)
    normalizer.update(batch().requires_grad_())
    assert list(normalizer.state_dict()) == ["range"]
    assert not normalizer.scale.requires_grad and not list(normalizer.parameters())
    copy = ReturnNormalizer()
    copy.load_state_dict(normalizer.state_dict())
    assert copy.scale == 10
