"""Results of notebook 10: baselines, evaluations in figures, the time that is left."""

import functools
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np

from dreamer_lite.dreamer import evaluate
from dreamer_lite.mario import TRACK, make_mario
from dreamer_lite.playing import Scripted, follow, player
from dreamer_lite.runs import read_table


def right_and_jump(rng):
    """Run and jump. Between two jumps the button must be released."""
    while True:
        yield from [4] * 7 + [3]


def baselines(seed=0):
    """Three players that learn nothing, by name."""
    whole = functools.partial(follow, leave=False)
    return {
        "random": player("random", gym.spaces.Discrete(5), seed),
        "right and jump": Scripted(right_and_jump, seed),
        "fixed list": Scripted(whole, seed),
    }


def wilson(successes, trials, z=1.96):
    """Wilson's 95 % interval of a rate: (low, high), inside 0 to 1.

    Unlike rate +- 1.96 standard errors it is right for few trials and at 0 and 1.
    """
    rate, share = successes / trials, z * z / trials
    middle = (rate + share / 2) / (1 + share)
    half = z * np.sqrt(rate * (1 - rate) / trials + share / (4 * trials)) / (1 + share)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def summarise(episodes):
    """Episodes as `evaluate` returns them, in figures: flags, return, x, deaths."""
    column = {key: np.array([e[key] for e in episodes]) for key in episodes[0]}
    flags, count = int(column["flag_get"].sum()), len(episodes)
    x, lost = column["x_pos"], column["dead"] > 0
    bins, deaths = np.unique(x[lost] // 100 * 100, return_counts=True)
    return {
        "episodes": count,
        "flags": flags,
        "flag_rate": flags / count,
        "interval_95": wilson(flags, count),
        "return_mean": float(column["return"].mean()),
        "return_std": float(column["return"].std()),
        "x_mean": float(x.mean()),
        "x_quartiles": np.quantile(x, [0, 0.25, 0.5, 0.75, 1]).tolist(),
        "deaths_by_x": {f"{int(b)}": int(n) for b, n in zip(bins, deaths)},
        "deaths": int(lost.sum()),
        "stuck": int(column["stuck"].sum()),
        "each": episodes,
    }


def evaluate_mario(agent, episodes=100, seed=0, sticky=0.0, envs=4, parallel=True):
    """Whole episodes, each begun after 0 to 30 idle frames; summarised.

    Args:
        agent: an agent (its actions are sampled) or a policy of `Collector`.
        episodes: number of episodes.
        seed: seed of the games and the agent.
        sticky: probability that the game repeats the action of the step before.
        envs: games side by side; with the seed they decide which games are played.
        parallel: whether each game has a process of its own.
    """
    make_env = functools.partial(make_mario, noops=30, sticky=sticky)
    envs = min(envs, episodes)
    return summarise(evaluate(agent, make_env, episodes, envs, seed, TRACK, parallel))


def hours_to_finish(logdir, steps):
    """Hours until a run of `steps` steps is done, at the speed of its last updates.

    Returns: None before two rows of metrics are written.
    """
    rows = read_table(Path(logdir) / "metrics.csv")[-9:]
    if len(rows) < 2:
        return None
    step, minute = ([float(row[key]) for row in rows] for key in ("step", "minutes"))
    speed = (step[-1] - step[0]) / max(minute[-1] - minute[0], 1e-9)
    return (steps - step[-1]) / max(speed, 1e-9) / 60


def default_logdir(profile, base):
    """The folder of a profile's run: in Drive on Colab once mounted, or in `base`.

    The short profile has a fresh folder, so that it always begins at step 0.
    """
    if profile == "short":
        return tempfile.mkdtemp(prefix="mario_short_")
    drive = Path("/content/drive/MyDrive")
    base = drive / "dreamer_lite" if drive.is_dir() else Path(base)
    return str(base / f"mario_{profile}")
