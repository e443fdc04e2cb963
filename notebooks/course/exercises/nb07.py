"""Exercises of notebook 07: lambda-returns."""

import numpy as np
import torch

from course.exercises import Edit, exercise, in_stages, require
from course.paths import ROOT
from dreamer_lite.lambda_returns import lambda_return


def my_lambda_return(reward, value, cont, lam=0.95):
    """Lambda-returns of the states s_0..s_{H-1} of some dreams.

    R_H = value_H;
    R_t = reward_{t+1} + cont_{t+1} * ((1 - lam) * value_{t+1} + lam * R_{t+1}).

    Args:
        reward, value, cont: [B, H+1], aligned with the states s_0..s_H.
        lam: a number, or a tensor [B, H+1] with one number for each state.
    Returns: [B, H].
    """
    # solution
    lam = lam if torch.is_tensor(lam) else torch.full_like(value, lam)
    later, returns = value[:, -1], []
    for t in reversed(range(value.shape[1] - 1)):
        mixed = (1 - lam[:, t + 1]) * value[:, t + 1] + lam[:, t + 1] * later
        later = reward[:, t + 1] + cont[:, t + 1] * mixed
        returns.append(later)
    return torch.stack(returns[::-1], 1)
    # end of solution


def check_shapes(my_lambda_return):
    """One return for each state but the last, for any number of dreams."""
    for dreams, states in ((1, 2), (3, 6)):
        given = torch.ones(3, dreams, states)
        found = my_lambda_return(*given)
        require(torch.is_tensor(found), "return a tensor, for example by torch.stack")
        require(
            found.shape == (dreams, states - 1),
            f"inputs of shape {[dreams, states]} have {states - 1} returns per dream, "
            f"one for each state but the last; yours has the shape {list(found.shape)}",
        )


def check_by_hand(my_lambda_return):
    """Numbers that show which state they came from, then the toy of the notebook."""
    reward = torch.tensor([[7.0, 1.0, 2.0, 3.0]])
    value = torch.tensor([[7000.0, 1000.0, 2000.0, 3000.0]])
    one = my_lambda_return(reward, value, torch.ones(1, 4), 0.0)[0].tolist()
    said = f"with lambda 0, R_0 is reward 1 plus value 1, 1001; yours is {one[0]:g}"
    require(one[0] == 1001, said)
    require(one[2] == 3003, f"R_2 is reward 3 plus value 3, 3003; not {one[2]:g}")
    toy = torch.tensor([[[0.0, 1, 0, 2]], [[9.0, 4.5, 2, 4]], [[1.0, 0.5, 0.5, 0.5]]])
    found = [round(x, 4) for x in my_lambda_return(*toy, 0.5)[0].tolist()]
    require(
        found == [2.5, 1.5, 4.0],
        f"the toy that was computed by hand has R = [2.5, 1.5, 4], yours is {found}",
    )


def check_ends(my_lambda_return):
    """An end inside a dream, and a lambda for each state."""
    reward, value, cont = torch.ones(1, 4), torch.full((1, 4), 9.0), torch.ones(1, 4)
    ended = my_lambda_return(reward, value, torch.tensor([[1.0, 1, 0, 1]]), 1.0)
    found = ended[0, 1].item()
    require(
        found == 1,
        f"the dream ends at s_2: R_1 is its reward, 1, and nothing more; not {found:g}",
    )
    found = my_lambda_return(reward, value, cont, torch.tensor([[1.0, 1, 0, 1]]))
    require(
        found[0].tolist() == [11.0, 10.0, 10.0],
        "lambda may be a tensor: lam[:, t + 1] belongs to the state in which step t "
        f"arrives; with lambda 0 at s_2 the returns are [11, 10, 10], not "
        f"{found[0].tolist()}",
    )


def check_reference(my_lambda_return):
    """What the authors' code computed for a small agent: tests/parity/README.md."""
    with np.load(ROOT / "tests" / "parity" / "discrete.npz") as file:
        names = ("rew", "val", "con", "ret")
        arrays = [torch.tensor(file[f"imagine/{n}"]).float() for n in names]
    gap = (my_lambda_return(*arrays[:3]) - arrays[3]).abs().max().item()
    require(gap < 1e-4, f"you differ from the authors' numbers by up to {gap:.2g}")


def draw_to_build(rng):
    """Random dreams with gradients, and a lambda that is a number or a tensor."""
    *dream, _ = draw_dream(rng)[0]
    lam = float(rng.random())
    lam = torch.rand_like(dream[0]) if rng.random() < 0.5 else lam
    return ((*[part.requires_grad_() for part in dream], lam),)


def draw_dream(rng):
    """A dream of random length, and how many steps to follow it."""
    batch, length = (int(n) for n in rng.integers(2, 8, 2))
    reward, value = torch.randn(2, batch, length) * 10.0 ** rng.integers(-1, 3)
    cont = torch.rand(batch, length) * torch.tensor(rng.random((batch, length)) < 0.8)
    return ((reward, value, cont.float(), int(rng.integers(1, length))),)


exercise(
    "7.0",
    "Write the lambda-return",
    "hard",
    40,
    [my_lambda_return],
    draw_to_build,
    hints=[
        "R_t needs R_{t+1}, so begin at the end of the dream and walk backwards. What "
        "is R_{t+1} in the very first step?",
        "In step t everything belongs to the state in which the step arrives: reward, "
        "cont, value and lam all have the index t + 1.",
        "later = value[:, -1]; for t in reversed(range(H)): mix value and later by "
        "lam, put that into reward + cont * mixed, keep it in a list; at the end "
        "reverse the list and stack it along dimension 1. For a lam that is a number, "
        "torch.full_like(value, lam) makes the tensor.",
    ],
)(
    in_stages(
        shapes=check_shapes,
        by_hand=check_by_hand,
        ends_and_lambdas=check_ends,
        the_authors_numbers=check_reference,
    )
)


def n_step_return(reward, value, cont, n):
    """Follow the dream for n steps from s_0, then ask the critic: [B].

    Args: reward, value, cont [B, H+1], aligned with the states; 1 <= n <= H.
    """
    # solution
    total, alive = torch.zeros_like(value[:, 0]), torch.ones_like(value[:, 0])
    for t in range(1, n + 1):
        total = total + alive * reward[:, t]
        alive = alive * cont[:, t]
    return total + alive * value[:, n]
    # end of solution


@exercise("7.1", "The n-step return", "easy", 10, [n_step_return], draw_dream)
def check_n_step_return(n_step_return):
    """Check round numbers, an end in the middle and the relation to lambda = 1."""
    reward = torch.tensor([[100.0, 1.0, 2.0, 4.0]])
    value = torch.tensor([[1000.0, 10.0, 20.0, 40.0]])
    cont = torch.tensor([[0.25, 0.5, 0.5, 0.5]])
    one = n_step_return(reward, value, cont, 1)
    require(one.shape == (1,), "return one number per dream: [B]")
    require(one < 200, "this asks the critic too early: the value is value[:, n]")
    require(one < 50, "the reward of s_0 was earned before: begin with reward[:, 1]")
    require(one != 1, "after n steps the critic is asked: add alive * value[:, n]")
    require(one != 5.5, "the reward of s_1 is not discounted: first add, then discount")
    require(
        one != 1.5 and one != 3.5,
        "the continuation of s_0 is in the past: begin with cont[:, 1]",
    )
    require(one == 6, f"for n = 1 it is 1 + 0.5 * 10 = 6, yours is {one.item():g}")
    three = n_step_return(reward, value, cont, 3)
    require(
        three != 1 + 0.5 * 2 + 0.5 * 4 + 0.5 * 40,
        "the discounts multiply: after two steps it is 0.5 * 0.5",
    )
    ended = torch.tensor([[0.0, 0.5, 0.0, 0.5]])
    require(
        n_step_return(reward, value, ended, 3) == 2,
        "the game ends at s_2: nothing after its reward may count",
    )


def dream_return(reward, value, cont, lam=0.95):
    """Lambda-returns [B, H] of dreams; all inputs are [B, H+1]."""
    reward, cont, bootstrap = reward[:, 1:], cont[:, 1:], value[:, 1:]
    later, returns = value[:, -1], []
    for t in reversed(range(reward.shape[1])):
        mixed = (1 - lam) * bootstrap[:, t] + lam * later
        later = reward[:, t] + cont[:, t] * mixed
        returns.append(later)
    return torch.stack(returns[::-1], 1)


def draw_dream_and_lambda(rng):
    """A dream of random length, and lambda."""
    *dream, _ = draw_dream(rng)[0]
    return ((*dream, float(rng.random())),)


@exercise(
    "7.2",
    "An agent that never succeeds",
    "medium",
    10,
    [dream_return],
    draw_dream_and_lambda,
    bug=Edit(
        "bootstrap = reward[:, 1:], cont[:, 1:], value[:, 1:]",
        "bootstrap = reward[:, 1:], cont[:, 1:], value[:, 1:].roll(-1, 1)",
    ),
)
def check_dream_return(dream_return):
    """Use numbers that show which state they came from, to tell mistakes apart."""
    reward = torch.tensor([[7.0, 1.0, 2.0, 3.0]])
    value = torch.tensor([[7000.0, 1000.0, 2000.0, 3000.0]])
    cont = torch.ones(1, 4)
    one = dream_return(reward, value, cont, 0.0)
    require(one.shape == (1, 3), "there are H returns, of s_0 to s_{H-1}")
    require(
        one[0, 0] != 2001,
        "reward 1 is added to value 2: with lambda 0, R_0 is reward 1 plus value 1",
    )
    require(
        one[0, 0] != 7001, "this is the value of s_0, the state that the step leaves"
    )
    require(
        one.tolist() == [[1001, 2002, 3003]],
        "with lambda 0 each return is reward t+1 plus value t+1: 1001, 2002, 3003, not "
        f"{one[0].tolist()}",
    )
    far = dream_return(reward, value, cont, 1.0)
    require(far[0, 0] > 3000, "with lambda 1 the last value, 3000, must still count")
    ended = dream_return(reward, value, torch.tensor([[1.0, 1.0, 0.0, 1.0]]), 1.0)
    require(ended[0, 1] == 2, "a 0 in cont at s_2 must cut the future after reward 2")
    mixture = dream_return(reward, value, cont, 0.25)
    truth = lambda_return(reward, value, cont, 0.25)
    require(torch.allclose(mixture, truth), "lambda weighs the LATER return")
    two = [torch.cat([part, 2 * part]) for part in (reward, value)]
    both = dream_return(*two, torch.ones(2, 4), 0.0)
    require(
        both.tolist() == [[1001, 2002, 3003], [2002, 4004, 6006]],
        "each dream has values of its own: dimension 0 is the batch, not the time",
    )


def update_range(low_high, returns, rate=0.01):
    """The running 5th and 95th percentile [2] after one more batch (any shape)."""
    newest = torch.quantile(returns.flatten(), torch.tensor([0.05, 0.95]))  # solution
    return (1 - rate) * low_high + rate * newest  # solution


def normalized_advantage(returns, value, low_high):
    """What the actor learns from: the advantage, divided by the range or by 1."""
    scale = (low_high[1] - low_high[0]).clamp(min=1.0)  # solution
    return (returns - value) / scale  # solution


def draw_returns(rng):
    """Returns of any shape and size, a running range, narrow or wide."""
    returns, value = torch.randn(2, *rng.integers(2, 9, 2)) * 10.0 ** rng.integers(
        -1, 3
    )
    low = torch.randn(()) * 3
    low_high = torch.stack([low, low + 10.0 ** rng.integers(-2, 3)])
    update = low_high, returns, float(rng.uniform(0.01, 0.5))
    return update, (returns, value, low_high)


@exercise(
    "7.3",
    "One coin for every game",
    "medium",
    10,
    [update_range, normalized_advantage],
    draw_returns,
)
def check_normalizer(update_range, normalized_advantage):
    """Check percentiles, the direction of the average, and the limit of 1."""
    batch = torch.tensor(10 * [-2.0] + 80 * [0.0] + 10 * [8.0])
    batch[0], batch[-1] = -500.0, 900.0
    start = torch.tensor([0.0, 100.0])

    def update(*args):  # NumPy's percentiles come as float64
        return torch.as_tensor(update_range(start, *args)).float()

    moved = update(batch)
    require(moved.shape == (2,), "return the two running percentiles: [2]")
    require(moved[1] > 50, "the newest batch counts 1 %, the old range 99 %")
    require(moved[0] > -1, "one outlier moves the range: take percentiles, not min")
    require(
        torch.allclose(moved, torch.tensor([-0.02, 99.08]), atol=1e-3),
        "0.99 * old + 0.01 * percentiles is -0.02 and 99.08 here",
    )
    require(
        torch.allclose(update(batch.reshape(50, 2)), moved),
        "returns may be [B, H]: percentiles of all of them, not of each row",
    )
    returns, value = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 5.0]])
    large = normalized_advantage(returns, value, torch.tensor([-5.0, 5.0]))
    require(large[0, 1] < 0, "an advantage is the return minus value")
    require(
        torch.allclose(large.float(), torch.tensor([[0.2, -0.1]])),
        "the range here is 10",
    )
    above = normalized_advantage(returns, value, torch.tensor([2.0, 6.0]))
    require(above[0, 0] == 0.5, "from 2 to 6 the range is 4: high minus low")
    small = normalized_advantage(returns, value, torch.tensor([-0.05, 0.05]))
    require(small[0, 0] == 2, "a range of 0.1 must not enlarge anything: at least 1")
