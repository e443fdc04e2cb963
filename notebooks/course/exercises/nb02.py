"""Exercises of notebook 02: two-hot."""

import torch
from torch.overrides import TorchFunctionMode

from course.exercises import Edit, exercise, require
from dreamer_lite.two_hot import TwoHot


def two_hot(y, bins):
    """Two-hot vectors of numbers y [N] over sorted bins [K]: [N, K], no loop."""
    # solution
    y = y.clamp(bins[0], bins[-1])
    below = torch.searchsorted(bins, y, right=True) - 1
    below = below.clamp(0, len(bins) - 2)
    weight = (y - bins[below]) / (bins[below + 1] - bins[below])
    encoded = torch.zeros(len(y), len(bins))
    encoded.scatter_(1, below[:, None], (1 - weight)[:, None])
    encoded.scatter_(1, below[:, None] + 1, weight[:, None])
    return encoded
    # end of solution


class Calls(TorchFunctionMode):
    """Counts the tensor operations inside a `with` block: `count`."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        is_list = func is torch.Tensor.tolist  # whose numbers a loop would take
        self.count += args[0].numel() if is_list else 1
        return func(*args, **(kwargs or {}))


def check_no_loop(two_hot):
    """Check that the number of operations does not depend on that of the numbers."""
    counts = set()
    for numbers, bins in ((4, 5), (40, 5), (4, 15)):
        with Calls() as calls:
            two_hot(torch.linspace(-3, 3, numbers), torch.linspace(-4, 4, bins))
        counts.add(calls.count)
    require(
        len(counts) == 1,
        "right, but still a loop, whose work grows with the numbers or with the bins: "
        "torch.searchsorted finds all the bins at once",
    )


def draw_numbers(rng):
    """Numbers inside and beyond bins of random count and width."""
    bins = (torch.rand(rng.integers(2, 9)) + 0.1).cumsum(0) - 2.0
    return ((torch.randn(rng.integers(1, 9)) * 3, bins),)


@exercise("2.1", "Two-hot without a loop", "medium", 15, [two_hot], draw_numbers)
def check_two_hot(two_hot):
    """Check numbers on, between and beyond the bins."""
    bins = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0])
    y = torch.tensor([1.75, -0.5, 3.25])
    out = two_hot(y, bins)
    require(
        getattr(out, "shape", None) == (3, 5),
        "return [N, K], one row of weights per number",
    )
    require((out.sum(-1) - 1).abs().max() < 1e-5, "the two weights add up to 1")
    nearer = out[0, 3] > out[0, 4]
    require(
        nearer or not torch.allclose(out[0, [4, 3]], torch.tensor([0.75, 0.25])),
        "1.75 is nearer to 1 than to 4, so 1 gets the larger weight: swap them",
    )
    require(
        torch.allclose(out @ bins, y, atol=1e-4),
        "the mean of the bins must give the number back: 1.75 is 0.75 on 1, 0.25 on 4",
    )
    on_a_bin = two_hot(torch.tensor([0.0, 4.0]), bins)
    require(
        torch.equal(on_a_bin, torch.eye(5)[[2, 4]]),
        "a number on a bin, the last one too, has all its weight there",
    )
    beyond = two_hot(torch.tensor([50.0, -50.0]), bins)
    require(
        torch.allclose(beyond, torch.eye(5)[[4, 0]]),
        "a number beyond the last bin becomes that bin: clamp it first",
    )
    check_no_loop(two_hot)


def read_mean(probs, bins):
    """The mean of the bins under probabilities: [..., K], [K] -> [...]."""
    half = len(bins) // 2
    gains = probs[..., half + 1 :] * bins[half + 1 :]
    losses = probs[..., :half] * bins[:half]
    return (gains + losses.flip(-1)).sum(-1)


def draw_probabilities(rng):
    """Probabilities over bins of several ranges."""
    bins = TwoHot(2 * int(rng.integers(1, 9)) + 1, -5.0, 5.0).bins
    return ((torch.randn(rng.integers(1, 5), len(bins)).softmax(-1), bins),)


@exercise(
    "2.2",
    "A value from nothing",
    "medium",
    10,
    [read_mean],
    draw_probabilities,
    bug=Edit("(gains + losses.flip(-1)).sum(-1)", "gains.sum(-1) + losses.sum(-1)"),
)
def check_read_mean(read_mean):
    """Check sign and size, and that equal probabilities mean exactly nothing."""
    bins = TwoHot().bins
    out = read_mean(torch.full((2, 255), 1 / 255), bins)
    require(out.shape == (2,), "return one number per distribution: sum over the bins")
    certain = read_mean(torch.eye(255)[[127 + 40, 127 - 40]], bins)
    require(certain[0] > 0, "a sure gain is read as a loss: mind the signs")
    require(certain[1] < 0, "a sure loss is read as a gain: its bins are negative")
    require(
        torch.allclose(certain.float(), bins[[167, 87]], rtol=1e-4),
        "all the probability on one bin must give that bin: add up, nothing else",
    )
    exact = []
    generator = torch.Generator().manual_seed(0)
    for count in (31, 101, 201, 255):
        probs = torch.rand(20, count // 2, generator=generator)
        mirrored = torch.cat([probs, probs.new_ones(20, 1), probs.flip(-1)], -1)
        exact.append(read_mean(mirrored / count, TwoHot(bins=count).bins).abs().max())
    require(
        max(out.abs().max(), *exact) == 0,
        "equal chances must give exactly 0: let mirrored bins meet before the sum, or "
        "sum both sides in the same order, from small to large",
    )


def lowest_loss(rewards, head):
    """Lowest mean loss of one prediction for all rewards [N], equally likely: a number.

    ``head`` is a ``TwoHot``. The best prediction is the mean of the targets.
    """
    # solution
    best = head.encode(rewards).mean(0)
    return torch.special.entr(best).sum()
    # end of solution


@exercise(
    "2.3",
    "Bug or floor?",
    "medium",
    15,
    [lowest_loss],
    lambda rng: (
        (torch.tensor(rng.integers(-3, 5, rng.integers(1, 9))).float(), TwoHot()),
    ),
)
def check_lowest_loss(lowest_loss):
    """Check one reward, a reward between two bins, two that are mixed."""
    head = TwoHot()
    certain = torch.as_tensor(lowest_loss(torch.zeros(4), head))
    require(certain.shape == (), "return one number, in nats")
    require(
        torch.isfinite(certain),
        "0 times ln 0 is nan on empty bins, but counts as 0: use torch.special.entr",
    )
    require(
        certain.abs() < 1e-5,
        "four rewards of 0 are as easy as one, no loss is left: average the targets",
    )
    same = torch.as_tensor(lowest_loss(torch.ones(3), head))
    require(same >= 0, "an entropy is never negative: mind the sign")
    require(
        same > 0.4, "a reward that is always 1 lies between two bins: 0.665 nats remain"
    )
    require(
        abs(same - 0.9594) > 1e-2,
        "a sure reward of 1 leaves 0.665 nats: natural logarithm",
    )
    require(
        abs(same - 0.665) < 1e-2,
        "always 1 leaves 0.665 nats, however often it comes: the loss is a mean",
    )
    two = torch.as_tensor(lowest_loss(torch.tensor([0.0, 1.0]), head))
    require(
        two > 0.9,
        "0 or 1 at random leaves 1.03: first average the targets, that is the encoded "
        "rewards, then take the entropy",
    )
    often = torch.as_tensor(lowest_loss(torch.tensor([0.0, 0.0, 0.0, 1.0]), head))
    require(
        abs(often - 0.7287) < 1e-2,
        "a reward that comes three times counts three times: 0, 0, 0, 1 leaves 0.729",
    )
