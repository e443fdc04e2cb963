"""What `evaluate` and `train` refuse, each in one sentence.

Plumbing, nothing of DreamerV3 itself, hence written by hand and not exported from a
notebook.
"""

import warnings

import gymnasium as gym
import numpy as np

from dreamer_lite.config import Config


def check_train(config, minutes):
    """Refuse what is no Config, or no budget. Raises: TypeError, ValueError."""
    if not isinstance(config, Config):
        raise TypeError(
            f"train expects a dreamer_lite.config.Config, but got {config!r}; pass for "
            "example Config.preset('1m')."
        )
    real = isinstance(minutes, (int, float, np.number))
    if minutes is not None and not (real and minutes >= 0):  # nan is refused, too
        raise ValueError(
            f"train expects minutes as a number of at least 0, but got {minutes!r}; "
            "correct it, or leave it out."
        )


def check_player(agent, seed):
    """Refuse what cannot choose actions, or no seed. Raises: TypeError, ValueError."""
    if not callable(agent):
        raise TypeError(
            "evaluate expects a Dreamer or a policy (obs, is_first) -> actions, but "
            f"got {agent!r}; Dreamer.load(path) reads an agent."
        )
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(
            "evaluate expects seed as a whole number from 0 to 2**63 - 1, but got "
            f"{seed!r}; correct it."
        )


def number(name, column, i):
    """What environment i tracks, as a float. Raises: ValueError if it is no number."""
    try:
        return float(column[i])
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"track expects a number at the end of an episode, but info[{name!r}] is "
            f"one of {column!r}; leave that name out."
        ) from error


def warn_untracked(track, reported):
    """Name what was to be tracked, but is not among the names that were `reported`.

    Without any names no episode has ended yet: then nothing is known.
    """
    missing = [name for name in track if name not in reported]
    if missing and reported:
        warnings.warn(
            f"track expects names in the info of an episode's last step, but none had "
            f"{', '.join(missing)}; correct that name, or leave it out.",
            stacklevel=3,
        )


def check_counts(**counts):
    """Refuse counts {name: number} that are not whole or below 1: ValueError."""
    for name, count in counts.items():
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise ValueError(
                f"evaluate expects {name} as a whole number of at least 1, but got "
                f"{count!r}; correct it."
            )


def check_fit(agent, envs):
    """Refuse an environment, vector or not, that an agent was not made for.

    Choices must be the same and shapes too; bounds and further observations may differ.
    Raises: ValueError with the name of the space.
    """
    mine = {**agent.obs_space.spaces, "action": agent.action_space}
    several = isinstance(envs, gym.vector.VectorEnv)
    space = envs.single_observation_space if several else envs.observation_space
    theirs = space.spaces if isinstance(space, gym.spaces.Dict) else {"obs": space}
    action = envs.single_action_space if several else envs.action_space
    theirs = {**theirs, "action": action}
    for name, space in mine.items():
        other = theirs.get(name)
        fits = type(other) is type(space) and other.shape == space.shape
        if fits and isinstance(space, gym.spaces.Discrete):  # of whatever dtype
            fits = (other.n, other.start) == (space.n, space.start)
        if not fits:
            raise ValueError(
                f"The agent expects an environment with {name!r} as it knows it, "
                f"{space}, but got {other}; use the environment that it learnt in, or "
                "another agent."
            )
