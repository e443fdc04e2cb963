"""Exercises of notebook 09: the loop."""

import torch

from course.exercises import Edit, exercise, require


def updates_due(credit, steps, ratio, rows):
    """Updates that are paid for now, and the credit that is left.

    Args: credit, left over from before, in updates; steps, agent steps just played;
    ratio, rows to replay for each of them; rows, in one batch.
    """
    credit = credit + steps * ratio / rows  # solution
    return int(credit), credit - int(credit)  # solution


def check_updates_due(updates_due):
    """Check a few ticks by hand, then a long run."""
    due, credit = updates_due(0.0, 1, 64.0, 512)
    require((due, credit) != (8, 0.0), "a step pays ratio / rows, not rows / ratio")
    require(due == 0, "one step at ratio 64 pays an eighth of an update: none is due")
    require(credit == 0.125, "an eighth of an update must be left as credit")
    due, credit = updates_due(0.5, 1, 64.0, 512)
    require(due == 0, "0.625 of an update is paid for: no whole one is due yet")
    due, credit = updates_due(0.75, 4, 64.0, 512)
    require(due > 0, "0.75 left over and 4 x 0.125 new: one update is due")
    require(credit >= 0, "only what is paid for is due: round down, never up")
    require(credit < 1, "an update that is due has been paid: take it off the credit")
    require(credit == 0.25, "1.25 were there and 1 is due: 0.25 are left")
    due, credit = updates_due(0.0, 8, 512.0, 512)
    require(due == 8, "a high ratio makes several updates due at once")
    total, credit = 0, 0.0
    for _ in range(1000):
        due, credit = updates_due(credit, 3, 32.0, 512)
        total += due
    require(total == 187, "1000 ticks of 3 steps pay 187.5 updates: 187 in all")


def draw_steps(rng):
    """What is left over, steps, ratio and rows."""
    credit, ratio = float(rng.random()), float(rng.uniform(1, 2000))
    return ((credit, int(rng.integers(1, 17)), ratio, int(rng.integers(16, 1025))),)


exercise(
    "9.1",
    "Carry the remainder",
    difficulty="easy",
    minutes=5,
    solution=[updates_due],
    check=check_updates_due,
    draw=draw_steps,
)


def mean_of_episodes(lengths, returns, count):
    """Mean return of `count` episodes that are played side by side.

    Args: lengths, returns [envs, many]: what episode k of each environment would be;
    count, a multiple of the number of environments.
    """
    each = count // len(lengths)
    total = returns[:, :each].sum()
    return total / count


def first_to_end(lengths, returns, count):
    ends = lengths.cumsum(1).flatten()
    first = ends.argsort()[:count]
    return returns.flatten()[first].mean()


def check_mean_of_episodes(mean_of_episodes):
    """Check an environment of short, bad episodes beside one of long, good ones."""
    lengths = torch.tensor([[10.0] * 20, [95.0] * 20])
    returns = torch.tensor([[1.0] * 20, [9.0] * 20])
    mean = torch.as_tensor(mean_of_episodes(lengths, returns, 10))
    require(mean.shape == (), "return one number")
    biased = first_to_end(lengths, returns, 10)
    require(
        mean != biased,
        "of the first ten to end nine are short ones: wait for the long ones",
    )
    require(mean < 9, "the good episodes are only half of them")
    require(mean < 8, "weighting by length counts steps, not episodes")
    require(mean == 5, "five episodes with return 1 and five with return 9 have mean 5")
    lengths = torch.tensor([[1.0, 1.0, 1.0], [5.0, 1.0, 1.0]])
    returns = torch.tensor([[0.0, 1.0, 5.0], [3.0, 4.0, 5.0]])
    mean = torch.as_tensor(mean_of_episodes(lengths, returns, 4))
    require(mean == 2, "of the returns 0 1 5 and 3 4 5, the first two each: mean 2")
    returns = torch.arange(12.0).reshape(3, 4)
    mean = torch.as_tensor(mean_of_episodes(torch.ones(3, 4), returns, 6))
    require(mean == 4.5, "six episodes of three environments: the first two of each")


def draw_episodes(rng):
    """Environments with episodes of random length."""
    envs, each = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    lengths = torch.tensor(rng.integers(1, 100, (envs, 6))).float()
    return ((lengths, 10 * torch.randn(envs, 6), envs * each),)


exercise(
    "9.2",
    "The evaluation that punishes success",
    difficulty="medium",
    minutes=15,
    kind="bug",
    solution=[mean_of_episodes],
    bug=Edit(
        "    each = count // len(lengths)\n    total = returns[:, :each].sum()\n",
        "    order = lengths.cumsum(1).flatten().argsort()\n"
        "    total = returns.flatten()[order[:count]].sum()\n",
    ),
    check=check_mean_of_episodes,
    draw=draw_episodes,
)


def value_at(steps, returns, grid):
    """Read a learning curve at the steps of `grid`: the last value known by then.

    Args: steps [N], rising; returns [N], measured at them; grid [M]; three tensors.
    Returns: a tensor [M]; nan where nothing was measured yet.
    """
    # solution
    last = torch.searchsorted(steps, grid, right=True) - 1
    values = returns[last.clamp(min=0)]
    return torch.where(last >= 0, values, torch.nan)
    # end of solution


def check_value_at(value_at):
    """Check between the points, on them, before the first and after the last."""
    steps = torch.tensor([10.0, 20.0, 40.0])
    returns = torch.tensor([1.0, 5.0, 3.0])
    read = value_at(steps, returns, torch.tensor([5.0, 10.0, 15.0, 39.0, 40.0, 99.0]))
    require(read.shape == (6,), "one value for each step of the grid")
    require(read[0] != 1, "at step 5 nothing was known: nan, not the first value")
    require(read[0].isnan(), "at step 5 nothing was measured yet: it must be nan")
    on_it = "on step 10 itself the new value is known (torch.searchsorted: right=True)"
    require(not read[1].isnan(), on_it)
    require(not read[1:].isnan().any(), "after the first point a value is always known")
    require(read[2] != 5, "at step 15 the value of step 20 lies in the future")
    require(read[2] != 3, "between two points the last value holds: no interpolation")
    require(read.tolist()[1:] == [1, 1, 5, 3, 3], "the last known values: 1 1 5 3 3")


def draw_curve(rng):
    """A curve of random length, read between its points and beyond."""
    steps = torch.tensor(rng.integers(1, 9, rng.integers(1, 7))).cumsum(0).float()
    grid = torch.tensor(rng.integers(0, 40, rng.integers(1, 9))).float()
    return ((steps, torch.randn(len(steps)), grid),)


exercise(
    "9.3",
    "A curve that does not look ahead",
    difficulty="medium",
    minutes=10,
    solution=[value_at],
    check=check_value_at,
    draw=draw_curve,
)
