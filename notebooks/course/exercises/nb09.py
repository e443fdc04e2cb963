"""Exercises of notebook 09: the loop."""

import types

import torch

from course.exercises import Edit, exercise, in_stages, require


def my_train(collect, replay, agent, config):
    """Collect, learn the model, learn to act, until `config.steps` steps are played.

    Args:
        collect: function (random) -> the number of agent steps that were played; each
            call plays one tick and stores it; random, whether to act at random.
        replay: its `sample(batch, length)` gives a batch.
        agent: its `train_step(batch)` makes one update.
        config: `steps` in total; `prefill`, steps with random actions; `batch` and
            `length` of a batch; `ratio`, rows to replay for each step that is played.
    Returns: the numbers of steps and of updates.
    """
    # solution
    step, updates, credit = 0, 0, 0.0
    rows = config.batch * config.length
    while step < config.steps:
        played = collect(step < config.prefill)
        step += played
        if step >= max(config.prefill, rows):
            credit += played * config.ratio / rows
        while credit >= 1:
            agent.train_step(replay.sample(config.batch, config.length))
            updates, credit = updates + 1, credit - 1
    return step, updates
    # end of solution


def watched(my_train, played=1, **settings):
    """Let the loop run with parts that only write down what is asked of them."""
    values = dict(steps=100, prefill=20, batch=2, length=8, ratio=4.0) | settings
    events, drawn = [], []

    def collect(random):
        events.append("random" if random else "agent")
        require(len(events) < 5000, "the loop does not end: count the steps")
        return played

    def sample(batch, length):
        events.append(f"sample {batch} x {length}")
        drawn.append(object())
        return drawn[-1]

    def train_step(batch):
        events.append("update")
        require(len(events) < 5000, "no end of updates: take each off the credit")
        require(
            batch in drawn,
            "agent.train_step learns from the batch that replay.sample returned, and "
            "from each batch once",
        )
        drawn.remove(batch)

    replay = types.SimpleNamespace(sample=sample)
    agent = types.SimpleNamespace(train_step=train_step)
    found = my_train(collect, replay, agent, types.SimpleNamespace(**values))
    return found, events


def check_playing(my_train):
    """How many ticks are played, and by whom."""
    for played in (1, 4):
        found, events = watched(my_train, played)
        ticks = [e for e in events if e in ("random", "agent")]
        require(
            isinstance(found, (tuple, list)) and len(found) == 2,
            "return two numbers: the steps and the updates",
        )
        require(
            len(ticks) == 100 // played,
            f"100 steps with {played} per tick are {100 // played} ticks, not "
            f"{len(ticks)}",
        )
        require(
            ticks.count("random") == 20 // played and ticks[0] == "random",
            f"the first 20 steps are random, {20 // played} ticks; yours plays "
            f"{ticks.count('random')} at random",
        )


def check_updates(my_train):
    """How many updates are made, and when they begin."""
    (_, updates), events = watched(my_train)
    require(
        "update" in events,
        "nothing was learnt: a tick pays 0.25 of an update here; does the credit add "
        "up from tick to tick, and is agent.train_step called?",
    )
    require(
        events.count("update") == updates,
        f"{events.count('update')} updates were made, but {updates} are returned",
    )
    before = events[: events.index("update")]
    ticks = sum(e in ("random", "agent") for e in before)
    require(
        ticks >= 20, f"the first update comes after {ticks} steps, before the prefill"
    )
    require(
        "sample 2 x 8" in events,
        "a batch is replay.sample(config.batch, config.length)",
    )
    require(
        events.count("sample 2 x 8") == updates, "every update needs a batch of its own"
    )
    right = int(81 * 4 / 16)
    require(
        updates == right,
        "each step from the prefill's last one on pays ratio / (batch * length) = 0.25 "
        f"of an update: {right} in total, not {updates}",
    )
    _, events = watched(my_train, prefill=4)
    require(
        events.count("random") == 4,
        f"only the prefill's 4 steps are random, not {events.count('random')}",
    )
    ticks = events[: events.index("update")].count("agent") + 4
    require(
        ticks >= 16,
        f"the first update comes after {ticks} steps: a batch has 16 rows, wait for "
        "them",
    )


def check_ratio(my_train):
    """High ratios make several updates in one tick, low ones carry a remainder."""
    for ratio, played, right in ((64.0, 4, 336), (0.5, 1, 2), (12.0, 4, 63)):
        (_, updates), events = watched(my_train, played, ratio=ratio)
        require(
            updates == right,
            f"with ratio {ratio:g} and {played} steps per tick {right} updates are "
            f"paid for; yours makes {updates}",
        )
        require(
            events.count("update") == events.count("sample 2 x 8") == updates,
            f"{updates} updates need {updates} batches and calls of train_step, not "
            f"{events.count('sample 2 x 8')} and {events.count('update')}",
        )


def draw_run(rng):
    """A run with random settings, whose parts do nothing."""
    settings = dict(
        steps=int(rng.integers(50, 200)),
        prefill=int(rng.integers(0, 50)),
        batch=int(rng.integers(1, 4)),
        length=int(rng.integers(2, 9)),
        ratio=float(rng.uniform(0.1, 50)),
    )
    played = int(rng.integers(1, 6))
    replay = types.SimpleNamespace(sample=lambda batch, length: torch.zeros(batch))
    agent = types.SimpleNamespace(train_step=lambda batch: {})
    return ((lambda random: played, replay, agent, types.SimpleNamespace(**settings)),)


exercise(
    "9.0",
    "Write the training loop",
    "hard",
    30,
    [my_train],
    draw_run,
    hints=[
        "One tick: play, then make as many updates as are paid for. Three numbers "
        "survive from tick to tick: steps, updates, credit.",
        "A step pays ratio / (batch * length) of an update, once the prefill is over "
        "and a batch's rows exist. What is not a whole update stays as credit.",
        "while step < steps: played = collect(step < prefill); add it to step; if "
        "step >= max(prefill, rows), add played * ratio / rows to the credit; while "
        "credit >= 1: sample, train_step, take 1 off the credit.",
    ],
)(in_stages(playing=check_playing, updates=check_updates, ratio=check_ratio))


def updates_due(credit, steps, ratio, rows):
    """Updates that are paid for now, and the credit that is left.

    Args: credit, left over from before, in updates; steps, agent steps just played;
    ratio, rows to replay for each of them; rows, in one batch.
    """
    credit = credit + steps * ratio / rows  # solution
    return int(credit), credit - int(credit)  # solution


def draw_steps(rng):
    """What is left over, steps, ratio and rows."""
    credit, ratio = float(rng.random()), float(rng.uniform(1, 2000))
    return ((credit, int(rng.integers(1, 17)), ratio, int(rng.integers(16, 1025))),)


@exercise("9.1", "Carry the remainder", "easy", 5, [updates_due], draw_steps)
def check_updates_due(updates_due):
    """Check a few ticks by hand."""
    due, credit = updates_due(0.0, 1, 64.0, 512)
    require((due, credit) != (8, 0.0), "a step pays ratio / rows, not rows / ratio")
    require(due == 0, "one step at ratio 64 pays an eighth of an update: none is due")
    require(credit == 0.125, "an eighth of an update must be left as credit")
    due, credit = updates_due(0.5, 1, 64.0, 512)
    require(due == 0, "0.625 of an update is paid for: no whole one is due yet")
    due, credit = updates_due(0.75, 4, 64.0, 512)
    require(credit < 1, "an update that is due has been paid: take it off the credit")
    due, credit = updates_due(0.0, 8, 512.0, 512)
    require(due == 8, "a high ratio makes several updates due at once")


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


def draw_episodes(rng):
    """Environments with episodes of random length."""
    envs, each = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    lengths = torch.tensor(rng.integers(1, 100, (envs, 6))).float()
    return ((lengths, 10 * torch.randn(envs, 6), envs * each),)


@exercise(
    "9.2",
    "The evaluation that punishes success",
    "medium",
    15,
    [mean_of_episodes],
    draw_episodes,
    bug=Edit(
        "    each = count // len(lengths)\n    total = returns[:, :each].sum()\n",
        "    order = lengths.cumsum(1).flatten().argsort()\n"
        "    total = returns.flatten()[order[:count]].sum()\n",
    ),
)
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
    lengths = torch.tensor([[1.0, 1.0, 1.0], [5.0, 1.0, 1.0]])
    returns = torch.tensor([[0.0, 1.0, 5.0], [3.0, 4.0, 5.0]])
    mean = torch.as_tensor(mean_of_episodes(lengths, returns, 4))
    require(mean == 2, "of the returns 0 1 5 and 3 4 5, the first two each: mean 2")
    returns = torch.arange(12.0).reshape(3, 4)
    mean = torch.as_tensor(mean_of_episodes(torch.ones(3, 4), returns, 6))
    require(mean == 4.5, "six episodes of three environments: the first two of each")


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


def draw_curve(rng):
    """A curve of random length, read between its points and beyond."""
    steps = torch.tensor(rng.integers(1, 9, rng.integers(1, 7))).cumsum(0).float()
    grid = torch.tensor(rng.integers(0, 40, rng.integers(1, 9))).float()
    return ((steps, torch.randn(len(steps)), grid),)


@exercise(
    "9.3", "A curve that does not look ahead", "medium", 10, [value_at], draw_curve
)
def check_value_at(value_at):
    """Check between the points, on them, before the first and after the last."""
    steps = torch.tensor([10.0, 20.0, 40.0])
    returns = torch.tensor([1.0, 5.0, 3.0])
    read = value_at(steps, returns, torch.tensor([5.0, 10.0, 15.0, 39.0, 40.0, 99.0]))
    require(read.shape == (6,), "one value for each step of the grid")
    require(read[0] != 1, "at step 5 nothing was known: nan, not the first value")
    on_it = "on step 10 itself the new value is known (torch.searchsorted: right=True)"
    require(not read[1].isnan(), on_it)
    require(read[2] != 5, "at step 15 the value of step 20 lies in the future")
    require(read[2] != 3, "between two points the last value holds: no interpolation")
