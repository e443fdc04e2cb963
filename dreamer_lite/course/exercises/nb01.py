"""Exercises of notebook 01: symlog."""

import torch

from dreamer_lite.course.exercises import Edit, exercise, require
from dreamer_lite.symlog import symexp, symlog


def my_symlog(x):
    """Squash ``x``: linear near 0, a logarithm far away, odd everywhere."""
    return torch.sign(x) * torch.log1p(torch.abs(x))  # solution


def my_symexp(y):
    """Undo ``my_symlog``."""
    return torch.sign(y) * torch.expm1(torch.abs(y))  # solution


def check_inverse(my_symlog, my_symexp):
    """Check both curves at points that tell the typical mistakes apart."""
    x = torch.tensor([-1000.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 1000.0])
    y = my_symlog(x)
    require(
        isinstance(y, torch.Tensor) and y.shape == x.shape,
        "return a tensor shaped like x",
    )
    require(torch.isfinite(y).all(), "at x = 0 the logarithm must see 1 + |x|, not |x|")
    require(y[0] < 0, "symlog is odd: a negative x gives a negative result")
    require(
        abs(y[-1] - 6.90875) < 1e-3,
        "symlog(1000) is ln(1001) = 6.909: use the natural logarithm",
    )
    back = my_symexp(y)
    require(back[0] < 0, "symexp is odd as well: give the sign of y back")
    require(
        abs(back[3]) < 1e-6, "symexp(0) must be 0: subtract the 1 that symlog added"
    )
    require(torch.allclose(back, x, rtol=1e-4), "symexp(symlog(x)) must be x again")
    tiny = torch.tensor([1e-9])
    require(
        (my_symlog(tiny) / tiny - 1).abs() < 1e-3, "tiny numbers are lost: use log1p"
    )


exercise(
    "1.1",
    "symlog and its inverse",
    difficulty="easy",
    minutes=5,
    solution=[my_symlog, my_symexp],
    check=check_inverse,
    example=lambda log, exp: (
        log(torch.linspace(-3, 3, 5)),
        exp(torch.linspace(-3, 3, 5)),
    ),
    wrongs=[
        Edit(
            "torch.log1p(torch.abs(x))", "torch.log(torch.abs(x))", "must see 1 + |x|"
        ),
        Edit("torch.sign(x) * torch.log1p", "torch.log1p", "symlog is odd"),
        Edit(
            "torch.log1p(torch.abs(x))",
            "torch.log10(1 + torch.abs(x))",
            "natural logarithm",
        ),
        Edit("torch.sign(y) * torch.expm1", "torch.expm1", "symexp is odd as well"),
        Edit(
            "torch.expm1(torch.abs(y))",
            "torch.exp(torch.abs(y)) * 1.0",
            "must be x again",
        ),
        Edit("torch.log1p(torch.abs(x))", "torch.log(1 + torch.abs(x))", "use log1p"),
    ],
)


def symlog_loss(prediction, target):
    """The mean squared error of a network that predicts in symlog space."""
    return ((prediction - torch.sign(target) * torch.log1p(target.abs())) ** 2).mean()


def check_loss(symlog_loss):
    """Check the loss on targets that one can square by hand."""
    target = torch.tensor([0.0, -1.0, 999.0])
    perfect = torch.tensor([0.0, -0.693147, 6.907755])
    loss = symlog_loss(perfect, target)
    require(loss.shape == (), "the loss is one number: take the mean")
    off = symlog_loss(perfect + 1, target)
    require(
        not loss.isnan(), "a target of 0 gives nan: the logarithm must see 1 + |target|"
    )
    require(loss < 1e9, "the error is infinite: was the target squashed, or blown up?")
    require(
        loss < 1e4, "errors near a million come from raw targets: squash the target"
    )
    negative = symlog_loss(torch.tensor([-0.693147]), torch.tensor([-1.0]))
    require(negative < 1e-6, "a target of -1 is -0.693 after symlog: the sign was lost")
    require(loss < 1e-6, "a perfect prediction, symlog(target), must cost nothing")
    require(
        abs(off - 1) < 1e-3,
        "predictions that are all off by 1 cost 1: square, then average",
    )


exercise(
    "1.2",
    "A loss that explodes",
    difficulty="easy",
    minutes=5,
    kind="bug",
    solution=[symlog_loss],
    bug=Edit("torch.log1p(target.abs())", "torch.expm1(target.abs())"),
    check=check_loss,
    example=lambda loss: loss(torch.zeros(4), torch.ones(4)),
    wrongs=[
        Edit(
            "torch.sign(target) * torch.log1p(target.abs())",
            "target",
            "come from raw targets",
        ),
        Edit("torch.log1p(target", "torch.log(target", "a target of 0 gives nan"),
        Edit("** 2).mean()", "** 2).sum()", "square, then average"),
        Edit("torch.sign(target) * ", "", "the sign was lost"),
    ],
)


def both_means(outcomes, probabilities):
    """Return the true mean and the one that is read out of symlog space.

    ``outcomes`` and ``probabilities`` are [..., N]; both results are [...].
    """
    # solution
    true_mean = (probabilities * outcomes).sum(-1)
    read_out = symexp((probabilities * symlog(outcomes)).sum(-1))
    return true_mean, read_out
    # end of solution


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
        abs(read_out - 3.454) > 0.1,
        "3.454 is still squashed: read it out with symexp",
    )
    require(
        abs(read_out - 500) > 1,
        "500 is too good: squash every outcome first, then take the mean",
    )
    require(
        abs(read_out - 30.64) < 0.1,
        "the read-out for the coin is the square root of 1001, minus 1: 30.64",
    )
    outcomes = torch.tensor([[7.0, 7.0, 7.0], [-10.0, 0.0, 100.0]])
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
    true_mean, read_out = both_means(outcomes, probabilities)
    require(true_mean.shape == (2,), "outcomes [2, 3] give two means: sum over dim -1")
    require(
        abs(true_mean[1] - 15) < 1e-3,
        "unequal probabilities: weigh each outcome with its own",
    )
    require(abs(read_out[0] - 7) < 1e-3, "what is certain is read out without a flaw")
    require(abs(read_out[1] + 0.3172) < 1e-2, "losses count: keep the sign of outcomes")


exercise(
    "1.3",
    "The squashed mean",
    difficulty="medium",
    minutes=10,
    solution=[both_means],
    check=check_both_means,
    example=lambda means: means(torch.tensor([0.0, 9.0]), torch.tensor([0.5, 0.5])),
    wrongs=[
        Edit(
            "symexp((probabilities * symlog(outcomes)).sum(-1))",
            "(probabilities * symlog(outcomes)).sum(-1)",
            "still squashed",
        ),
        Edit(
            "symexp((probabilities * symlog(outcomes)).sum(-1))",
            "symexp(symlog((probabilities * outcomes).sum(-1)))",
            "squash every outcome first",
        ),
        Edit(
            "true_mean = (probabilities * outcomes).sum(-1)",
            "true_mean = (probabilities * outcomes).mean(-1)",
            "weigh, then add up",
        ),
        Edit(
            "true_mean = (probabilities * outcomes).sum(-1)",
            "true_mean = outcomes.mean(-1)",
            "weigh each outcome with its own",
        ),
        Edit(
            "symlog(outcomes)).sum(-1))",
            "symlog(outcomes.abs())).sum(-1))",
            "losses count",
        ),
    ],
)
