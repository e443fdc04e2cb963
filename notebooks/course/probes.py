"""Five tiny environments whose exact values are known: is an agent's code right?

Each probe needs one more part than the one before it, so the first that fails says
where to look: critic, encoder, discount, actor, or all of them together.
"""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

GAMMA = 0.8  # a short horizon, so that three steps of waiting show in a value


class Probe(gym.Env):
    """Episodes of `steps` decisions; the observation is one number, the action 0 or 1.

    Args: first, function (rng) -> the number seen at the start; reward, function
    (first number, action) -> the reward of the last step (all others are 0); steps.
    """

    def __init__(self, first: Callable, reward: Callable, steps: int = 1):
        self.first, self.reward, self.steps = first, reward, steps
        self.observation_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def _look(self):
        share = self.time / self.steps if self.steps > 1 else 0.0
        return np.array([self.sign + share], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.sign = 0, float(self.first(self.np_random))
        return self._look(), {}

    def step(self, action):
        self.time += 1
        done = self.time == self.steps
        reward = float(self.reward(self.sign, int(action))) if done else 0.0
        return self._look(), reward, done, False, {}


@dataclass(frozen=True)
class Case:
    """A probe, the value of its first states, and what a failure points to.

    Attributes: make, a callable that returns the environment; values, {number seen at
    the start: exact value there}; points_to, the parts to look at.
    """

    make: Callable[[], gym.Env]
    values: dict[float, float]
    points_to: str


def coin(rng: np.random.Generator) -> float:
    """-1 or 1 with equal probability."""
    return rng.choice([-1.0, 1.0])


def zero(rng: np.random.Generator) -> float:
    """Always 0: the start tells nothing."""
    return 0.0


PROBES = {
    "constant": Case(
        lambda: Probe(zero, lambda sign, action: 1.0),
        {0.0: 1.0},
        "the reward head, the critic's loss, the end of an episode",
    ),
    "seen": Case(
        lambda: Probe(coin, lambda sign, action: sign),
        {-1.0: -1.0, 1.0: 1.0},
        "encoder and posterior: what is seen must reach the critic",
    ),
    "delayed": Case(
        lambda: Probe(zero, lambda sign, action: 1.0, steps=4),
        {0.0: GAMMA**3},
        "the lambda-return, the discount, the alignment of rewards in time",
    ),
    "action": Case(
        lambda: Probe(zero, lambda sign, action: 2.0 * action - 1),
        {0.0: 1.0},
        "the actor's loss: sign of the advantage, log-probability of the action",
    ),
    "both": Case(
        lambda: Probe(coin, lambda sign, action: sign * (2 * action - 1)),
        {-1.0: 1.0, 1.0: 1.0},
        "the previous action in the model, and the actor's reading of the state",
    ),
}


def value_of(agent, seen: float) -> float:
    """What the agent's critic expects at the start of an episode that shows `seen`."""
    import torch

    obs = {"obs": np.array([[seen]], np.float32)}
    with torch.no_grad():
        _, state = agent.act(obs)
        parts = agent.actor_critic
        return float(parts.value(parts.critic(state.model.feature)))


def tiny_agent(obs_space: gym.Space, action_space: gym.Space, seed: int = 0):
    """A Dreamer small enough that 200 updates take seconds."""
    import torch

    from dreamer_lite.dreamer import Config, Dreamer

    torch.manual_seed(seed)
    config = Config(
        deter=64, units=32, latents=8, classes=4, depth=4, blocks=4, batch=16,
        length=8, horizon=4, lr=1e-2, critic_lr=1e-2, actor_lr=1e-2, warmup=20,
        slow_rate=0.1, entropy=1e-3, discount=GAMMA, device="cpu", precision="fp32",
    )  # fmt: skip
    return Dreamer(obs_space, action_space, config)


def run_probe(
    name: str,
    make_agent: Callable = tiny_agent,
    updates: int = 200,
    value: Callable = value_of,
) -> dict[float, tuple[float, float]]:
    """Train an agent on a probe: {number seen: (its value, the exact value)}.

    Args:
        name: one of `PROBES`.
        make_agent: function (obs_space, action_space) -> an agent with `act` and
            `train_step`, for example a Dreamer with a method of your own in it.
        updates: training steps; after each of them 8 more rows are collected.
        value: function (agent, number seen) -> what the agent expects.
    """
    from dreamer_lite.dreamer import AgentPolicy, Collector
    from dreamer_lite.envs import make_vector
    from dreamer_lite.replay import Replay

    case = PROBES[name]
    envs = make_vector(case.make, 4, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    agent = make_agent(*spaces)
    replay = Replay(512, *spaces, num_envs=4, seed=0)
    collector, policy = Collector(envs, replay), AgentPolicy(agent)
    for _ in range(32):
        collector.tick(policy)
    for _ in range(updates):
        agent.train_step(replay.sample(16, 8))
        for _ in range(2):
            collector.tick(policy)
    envs.close()
    return {seen: (value(agent, seen), true) for seen, true in case.values.items()}


def probe(name: str, tolerance: float = 0.2, **options: object) -> bool:
    """Run one probe and print how it went. Returns whether every value is right.

    Args: name; tolerance of a value, in units of reward; options of `run_probe`.
    """
    found = run_probe(name, **options)
    right = all(abs(mine - true) <= tolerance for mine, true in found.values())
    told = ", ".join(
        f"value {mine:.1f} (exact {true:.1f})" for mine, true in found.values()
    )
    advice = "passed" if right else f"look at {PROBES[name].points_to}"
    print(f"probe {name}: {told}: {advice}")
    return right
