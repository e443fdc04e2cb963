"""What `evaluate` and `train` refuse before they begin, each in one sentence.

Plumbing, nothing of DreamerV3 itself, hence written by hand and not exported from a
notebook.
"""

import gymnasium as gym
import numpy as np

from dreamer_lite.config import Config


def check_config(config):
    """Refuse what is no Config. Raises: TypeError."""
    if not isinstance(config, Config):
        raise TypeError(
            f"train expects a dreamer_lite.config.Config, but got {config!r}; pass for "
            "example Config.preset('1m')."
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
    """Refuse a vector environment that an agent was not made for.

    Choices must be the same and shapes too; bounds and further observations may differ.
    Raises: ValueError with the name of the space.
    """
    mine = {**agent.obs_space.spaces, "action": agent.action_space}
    theirs = dict(envs.single_observation_space.spaces, action=envs.single_action_space)
    for name, space in mine.items():
        other = theirs.get(name)
        fits = type(other) is type(space) and other.shape == space.shape
        if not fits or (isinstance(space, gym.spaces.Discrete) and other != space):
            raise ValueError(
                f"evaluate expects an environment with {name!r} as the agent knows it, "
                f"{space}, but got {other}; pass the environment that it learnt in."
            )
