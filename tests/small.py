"""A small agent, and batches for it: what several test files begin with."""

import dataclasses

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete

from dreamer_lite.dreamer import Config, Dreamer
from dreamer_lite.replay import Replay

TINY = dict(units=16, deter=32, latents=4, classes=4, depth=4, blocks=4, device="cpu")
SMALL = Config(**TINY, batch=2, length=6, horizon=3, precision="fp32")
IMAGE = Box(0, 255, (16, 16, 3), np.uint8)
MIXED = Dict(camera=IMAGE, speed=Box(-9, 9, (2,), np.float32), mode=Discrete(3))


def agent_for(obs_space=None, action_space=None, **changes):
    torch.manual_seed(0)
    obs_space = obs_space or Box(-1, 1, (3,), np.float32)
    config = dataclasses.replace(SMALL, **changes)
    return Dreamer(obs_space, action_space or Discrete(2), config)


def batch_for(agent, batch=2, length=6, seed=0):
    spaces = agent.obs_space, agent.action_space
    for i, space in enumerate(spaces):
        space.seed(seed + i)
    replay, rng = Replay(50, *spaces, seed=seed), np.random.default_rng(seed)
    for t in range(50):
        obs, action = (space.sample() for space in spaces)
        replay.add(0, obs, action, rng.normal(), t == 0, False, False)
    return replay.sample(batch, length)


def observations(agent, batch=2, seed=0):
    rows = batch_for(agent, batch, 2, seed)
    return {key: rows[key][:, 0] for key in agent.obs_space}
