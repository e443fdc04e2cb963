"""Four tiny worlds in which each trick of DreamerV3 has something to do.

`notebooks/beyond/ablations` trains agents in them. Each has a best return that is
known, so that a curve says how much was learnt, and not only which agent is ahead.
"""

import gymnasium as gym
import numpy as np


class Sled(gym.Env):
    """Hold a sled near the middle of an icy track, against gusts, for 30 steps.

    The sled is on one of 11 places and moves by its speed, which an action changes by
    -1, 0 or 1. One step in five a gust changes it as well. Reward 1 for each step that
    ends within one place of the middle; off the track the episode is over.

    Args:
        units: factor of both the positions that are seen and the rewards: 1,000 is the
            same task in millimetres.
    """

    EDGE, FASTEST, STEPS, GUST = 5, 2, 30, 0.2

    def __init__(self, units: float = 1.0):
        self.units = units
        self.observation_space = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def _look(self):
        return np.array([self.place, self.speed], np.float32) * self.units

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.speed, self.time = int(self.np_random.integers(-4, 5)), 0, 0
        return self._look(), {}

    def step(self, action):
        gust = self.np_random.random() < self.GUST
        push = int(action) - 1 + (self.np_random.choice([-1, 1]) if gust else 0)
        self.speed = int(np.clip(self.speed + push, -self.FASTEST, self.FASTEST))
        self.place, self.time = self.place + self.speed, self.time + 1
        reward = self.units * (abs(self.place) <= 1)
        out = abs(self.place) > self.EDGE
        return self._look(), reward, out, self.time == self.STEPS, {}


class Corridor(gym.Env):
    """Fetch the key at the left end, then leave through the door at the right end.

    Six places; 7 steps are enough, 24 are allowed. Leaving with the key is the only
    reward (1). The place and whether the key is in the pocket are seen.
    """

    LAST, STEPS = 5, 24

    def __init__(self):
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def _look(self):
        return np.array([self.place / self.LAST, self.key], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.key, self.time = self.LAST // 2, False, 0
        return self._look(), {}

    def step(self, action):
        self.place = int(np.clip(self.place + 2 * int(action) - 1, 0, self.LAST))
        self.key, self.time = self.key or self.place == 0, self.time + 1
        out = self.key and self.place == self.LAST
        return self._look(), float(out), out, self.time == self.STEPS, {}


class Lever(gym.Env):
    """Remember for six steps whether pulling the lever pays (1 a step) or costs (-1).

    A light at the start tells, in the first row only; the time is visible always. Not
    pulling brings 0. Rewards are not seen, so an agent that forgets cannot find out.
    """

    STEPS = 6

    def __init__(self):
        self.observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def _look(self):
        light = 0 if self.time else 10 * self.pays
        return np.array([light, self.time / self.STEPS], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pays, self.time = int(self.np_random.choice([-1, 1])), 0
        return self._look(), {}

    def step(self, action):
        self.time += 1
        reward = float(self.pays * int(action))
        return self._look(), reward, self.time == self.STEPS, False, {}


class Follow(gym.Env):
    """Keep a bat under a drifting ball, for 16 steps, seen as 16 x 16 grey pixels.

    There are four columns of 4 pixels. In one step of four the white ball on top moves
    left or right. An action moves the black bat at the bottom by -1, 0 or 1. Reward 1
    for each step after which the bat is under the ball.
    """

    COLUMNS, STEPS, DRIFT = 4, 16, 0.25

    def __init__(self):
        self.observation_space = gym.spaces.Box(0, 255, (16, 16), np.uint8)
        self.action_space = gym.spaces.Discrete(3)

    def _look(self):
        picture = np.full((2, 8, self.COLUMNS, 4), 128, np.uint8)
        picture[0, :, self.ball], picture[1, :, self.bat] = 255, 0
        return picture.reshape(16, 16)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.ball, self.bat = map(int, self.np_random.integers(0, self.COLUMNS, 2))
        self.time = 0
        return self._look(), {}

    def step(self, action):
        drifts = self.np_random.random() < self.DRIFT
        move = self.np_random.choice([-1, 1]) if drifts else 0
        self.ball = int(np.clip(self.ball + move, 0, self.COLUMNS - 1))
        self.bat = int(np.clip(self.bat + int(action) - 1, 0, self.COLUMNS - 1))
        self.time += 1
        reward = float(self.bat == self.ball)
        return self._look(), reward, False, self.time == self.STEPS, {}
