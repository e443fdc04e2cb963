"""Exercises of notebook 01: symlog."""

import torch

from course.exercises import Edit, exercise, require
from dreamer_lite.symlog import symexp, symlog

DIVIDED = "0 / 0 is not a number: take the sign from torch.sign, without a division"


def my_symlog(x):
    """Squash ``x``: linear near 0, a logarithm far away, odd everywhere."""
    return torch.sign(x) * torch.log1p(torch.abs(x))  # solution


def my_symexp(y):
    """Undo ``my_symlog``."""
    return torch.sign(y) * torch.expm1(torch.abs(y))  # solution


def draw_curves(rng):
    """Numbers of every size; all their squashed values."""
    x = torch.randn(*rng.integers(1, 5, 2)) * 10.0 ** rng.integers(-2, 4)
    return (x.requires_grad_(),), ((torch.randn(5) * 4).requires_grad_(),)


@exercise(
    "1.1", "symlog and its inverse", "easy", 5, [my_symlog, my_symexp], draw_curves
)
def check_inverse(my_symlog, my_symexp):
    """Check both curves at points that tell the typical mistakes apart."""
    x = torch.tensor([-1000.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 1000.0])[:, None]
    y = my_symlog(x)
    require(
        isinstance(y, torch.Tensor) and y.shape == x.shape,
        "return a tensor shaped like x",
    )
    require(not (y[3].isnan() and abs(y[5] - 0.6931) < 1e-3), DIVIDED)
    require(
        torch.isfinite(y).all(),
        "the logarithm must see 1 + |x|: |x| alone fails at 0, 1 + x from -1 down",
    )
    require(y[0] < 0, "symlog is odd: a negative x gives a negative result")
    require(
        abs(y[-1] - 6.90875) < 1e-3,
        "symlog(1000) is ln(1001) = 6.909: use the natural logarithm",
    )
    require(
        abs(y[5] - 0.6931) < 1e-3,
        "symlog(1) is ln 2 = 0.693: inside the logarithm add 1 to |x|",
    )
    check_way_back(my_symexp, x, y)
    tiny = torch.tensor([1e-9])
    require(
        (my_symlog(tiny) / tiny - 1).abs() < 1e-3, "tiny numbers are lost: use log1p"
    )
    require(
        (my_symexp(my_symlog(tiny)) / tiny - 1).abs() < 1e-3,
        "tiny numbers are lost on the way back as well: use expm1",
    )


def check_way_back(my_symexp, x, y):
    """Check that symexp leads from y, which is symlog(x), back to x."""
    back = my_symexp(y)
    require(back[0] < 0, "symexp is odd as well: put the sign of y back")
    require(
        abs(back[-1] - 1001) > 0.5,
        "1,000 comes back as 1,001: subtract the 1 that symlog added",
    )
    require(not back[3].isnan(), DIVIDED)
    require(
        torch.allclose(back.to(x.dtype), x, rtol=1e-4),
        "symexp(symlog(x)) must give x back",
    )


def value_of_dreams(predicted):
    """Mean return, in points, of dreams with symlog returns [..., N] -> [...]."""
    average = symexp(predicted).mean(-1)
    return average


@exercise(
    "1.2",
    "The treasure that does not count",
    "easy",
    5,
    [value_of_dreams],
    lambda rng: ((torch.randn(*rng.integers(1, 6, 3)) * 3,),),
    bug=Edit("symexp(predicted).mean(-1)", "symexp(predicted.mean(-1))"),
)
def check_value(value_of_dreams):
    """Check dreams that agree, a rare treasure, and losses."""
    alike = value_of_dreams(symlog(torch.full((2, 4), 7.0)))
    require(alike.shape == (2,), "return one number per moment: average over dim -1")
    require(
        abs(alike[0] - 28) > 1e-3, "four dreams of 7 are worth 7, not 28: take the mean"
    )
    require(
        abs(alike[0] - 2.0794) > 1e-3,
        "2.08 is still squashed: points come out of symexp",
    )
    treasure = torch.zeros(100)
    treasure[3] = 10_000.0
    value = value_of_dreams(symlog(treasure))
    require(
        abs(value - 0.0965) > 1e-2,
        "0.096 is a mean of logarithms: go back to points first, then average",
    )
    require(value > 1, "one dream in a hundred must count: the mean, not the median")
    require(
        abs(value - 100) < 0.1,
        "10,000 in one dream of a hundred is worth 100 on average",
    )
    mixed = value_of_dreams(symlog(torch.tensor([-30.0, 10.0])))
    require(abs(mixed + 10) < 1e-3, "a dream can lose points: keep its sign")


def both_means(outcomes, probabilities):
    """Return the true mean and the one that is read out of symlog space.

    ``outcomes`` and ``probabilities`` are [..., N]; both results are [...].
    """
    # solution
    true_mean = (probabilities * outcomes).sum(-1)
    read_out = symexp((probabilities * symlog(outcomes)).sum(-1))
    return true_mean, read_out
    # end of solution


def draw_outcomes(rng):
    """Outcomes of all sizes and their probabilities."""
    outcomes = torch.randn(*rng.integers(2, 6, 2)) * 10.0 ** rng.integers(0, 4)
    return ((outcomes, torch.randn_like(outcomes).softmax(-1)),)


@exercise("1.3", "The squashed mean", "medium", 10, [both_means], draw_outcomes)
def check_both_means(both_means):
    """Check a coin between 0 and 1,000, a sure thing, and a batch with losses."""
    coin = torch.tensor([0.0, 1000.0])
    true_mean, read_out = both_means(coin, torch.tensor([0.5, 0.5]))
    require(
        true_mean.shape == () and read_out.shape == (),
        "both results are one number: sum over the last dimension",
    )
    require(
        abs(true_mean - 500) < 1e-2,
        "the true mean of 0 and 1000, half and half, is 500: weigh, then add up",
    )
    require(
        abs(read_out - 3.454) > 0.1, "3.454 is still squashed: read it out with symexp"
    )
    require(
        abs(read_out - 500) > 1,
        "500 is too good: squash every outcome first, then take the mean",
    )
    require(
        abs(read_out - 30.64) < 0.1,
        "the coin is read out as 30.6: weigh the squashed outcomes, add them up, and "
        "then use symexp, once",
    )
    outcomes = torch.tensor([[7.0, 7.0, 7.0], [-10.0, 0.0, 100.0]])
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
    true_mean, read_out = both_means(outcomes, probabilities)
    require(true_mean.shape == (2,), "outcomes [2, 3] give two means: sum over dim -1")
    require(
        abs(true_mean[1] - 15) < 1e-3,
        "unequal probabilities: weigh each outcome with its own",
    )
    require(
        abs(read_out[1] - 1.094) > 1e-2 and abs(read_out[1] + 0.7997) > 1e-2,
        "the squashed outcomes are weighed with their own probabilities, too, and "
        "added up before symexp",
    )
    require(abs(read_out[1] + 0.3172) < 1e-2, "losses count: keep the sign of outcomes")
