"""CartPole without velocities, with a world model beside it: for ppo_on_features."""

from pathlib import Path

import gymnasium as gym
import numpy as np

from course.columns import read_columns
from dreamer_lite.config import Config
from dreamer_lite.dreamer import Dreamer
from dreamer_lite.replay import Replay
from dreamer_lite.world_model import LaProp, as_tensors

STEPS, RANDOM, ROLLOUT = 15_000, 4_000, 256
# One small model for all. Dreams begin in a quarter of the sequences: that is cheaper.
SETTINGS = dict(steps=STEPS, deter=256, ratio=16.0, vector_scale=10.0, dream_share=0.25)
PPO_SETTINGS = dict(n_steps=ROLLOUT, learning_rate=1e-3, device="cpu")
UNITS = np.array([10, 180 / np.pi], np.float32)  # decimetres and degrees


def make_env() -> gym.Env:
    """CartPole-v1 that shows place [dm] and angle [degrees], but no velocity."""
    env = gym.make("CartPole-v1")
    space = env.observation_space
    space = gym.spaces.Box(space.low[[0, 2]] * UNITS, space.high[[0, 2]] * UNITS)
    return gym.wrappers.TransformObservation(env, lambda x: x[[0, 2]] * UNITS, space)


def tenth(env: gym.Env) -> gym.Env:
    """Divide observations by 10: to about the unit range, as PPO likes them."""
    space = env.observation_space
    space = gym.spaces.Box(space.low / 10, space.high / 10)
    return gym.wrappers.TransformObservation(env, lambda x: x / 10, space)


class Record(gym.Wrapper):
    """Write every row to a replay, and (steps so far, return) of every episode."""

    def __init__(self, env: gym.Env, replay: Replay | None = None):
        super().__init__(env)
        self.replay, self.steps, self.episodes = replay, 0, []

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        self.row, self.total = (obs, 0.0, True, False, False), 0.0
        return obs, info

    def step(self, action):
        self._add(action)
        obs, reward, terminal, cut, info = self.env.step(action)
        self.steps, self.total = self.steps + 1, self.total + reward
        self.row = obs, reward, False, terminal or cut, terminal
        if terminal or cut:
            self._add(action)
            self.episodes.append((self.steps, self.total))
        return obs, reward, terminal, cut, info

    def _add(self, action):
        if self.replay is not None:
            obs, *rest = self.row
            self.replay.add(0, {"obs": obs}, action, *rest)


def play_randomly(env: Record, steps: int, seed: int) -> None:
    """Play whole episodes with random actions, until there are `steps` steps."""
    env.action_space.seed(seed)
    while env.steps < steps:
        env.reset(seed=seed if env.steps == 0 else None)
        over = False
        while not over:
            *_, terminal, cut, _ = env.step(env.action_space.sample())
            over = terminal or cut


class ModelTrainer:
    """A Dreamer of which only the world model learns, and the replay it learns from."""

    def __init__(self, seed: int):
        env, c = make_env(), Config.preset("1m", seed=seed, **SETTINGS)
        self.agent = Dreamer(env.observation_space, env.action_space, c)
        space = self.agent.obs_space
        self.replay = Replay(c.capacity, space, env.action_space, 1, seed)
        model, self.updates = self.agent.world_model, 0
        group = dict(params=list(model.parameters()), lr=c.lr)
        self.optimizer = LaProp([group], clip=c.clip, warmup=c.warmup)

    def train(self, updates: int) -> None:
        """Make some updates."""
        agent, c = self.agent, self.agent.config
        for _ in range(updates):
            batch = self.replay.sample(c.batch, c.length)
            rows = {key: batch[key] for key in agent.world_model.fields}
            loss, _, _ = agent.world_model.loss(as_tensors(rows, agent.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.updates += updates

    def due(self, steps: int) -> int:
        """How many updates the ratio of the settings allows after so many steps."""
        c = self.agent.config
        return int(steps * c.ratio / (c.batch * c.length))


class FeatureEnv(gym.Wrapper):
    """Observations are the features of a world model, which sees the real ones."""

    def __init__(self, env: gym.Env, agent: Dreamer):
        super().__init__(env)
        size = agent.world_model.rssm.feature_size
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.agent, self.state = agent, None

    def _feature(self, obs, action=None):
        action = None if action is None else np.array([action])
        self.state = self.agent.observe(obs[None], action, self.state)
        return self.state.feature[0].cpu().numpy()

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        self.state = None  # a new episode, and nothing to remember
        return self._feature(obs), info

    def step(self, action):
        obs, *rest = self.env.step(action)
        return self._feature(obs, action), *rest


class Forgetful(FeatureEnv):
    """The planted mistake: an episode begins with the memory of the last one."""

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        return self._feature(obs), info


def read_runs(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """Stored runs: {(kind, seed): rows of (steps so far, return)}."""
    runs = {}
    for path in sorted(Path(folder).glob("*_[0-9].csv")):
        kind, seed = path.stem.split("_")
        columns = read_columns(path)
        runs[kind, int(seed)] = np.stack([columns["step"], columns["return"]], 1)
    return runs


def score(run: np.ndarray) -> float:
    """The mean return of the episodes that ended in the last fifth of the steps."""
    late = (run[:, 0] > 0.8 * STEPS) & (run[:, 0] <= STEPS)
    return float(run[late, 1].mean())
