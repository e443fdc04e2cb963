"""Dreamer: one configuration, one agent, one training loop.

Built in notebook 09. Source: DreamerV3, Algorithm 1 in the Methods.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import yaml
from torch import nn

from dreamer_lite import runs
from dreamer_lite.actor_critic import ActorCritic
from dreamer_lite.replay import Replay, describe_space, restore_space
from dreamer_lite.rssm import State
from dreamer_lite.speed import (
    GraphedUpdate,
    pick_device,
    pick_precision,
    reuse_memory,
)
from dreamer_lite.world_model import LaProp, WorldModel, check_batch


@dataclass(frozen=True)
class Config:
    """Every number that a run depends on.

    Attributes:
        deter, units, latents, classes, depth, blocks: sizes of the model.
        lr, critic_lr, actor_lr: learning rates of world model, critic, actor.
        warmup: updates over which they rise from 0. clip: adaptive gradient clipping.
        batch, length: sequences in a batch, rows in a sequence.
        horizon: imagined steps. lam: of the lambda-return. discount: 1 - 1/333.
        entropy: weight of the actor's entropy. unimix: uniform share in categoricals.
        free_nats, dyn_scale, rep_scale: of the KL. replay_scale: of the replay critic.
        slow_rate: with which the slow critic follows.
        envs: environments side by side. parallel: one process for each.
        capacity: rows in the replay. prefill: random rows before learning.
        ratio: rows replayed for each agent step.
        steps: agent steps in all. seed: of everything.
        device: auto, cpu, cuda. precision: auto, fp32, bf16, fp16.
        speed: eager, compile (torch.compile), graph (one CUDA graph).
        log_every: updates between two lines of metrics.
        checkpoint_minutes, video_minutes: at most this long between two of them.
    """

    deter: int = 1024
    units: int = 128
    latents: int = 32
    classes: int = 8
    depth: int = 16
    blocks: int = 8
    lr: float = 3e-4
    critic_lr: float = 1.5e-4
    actor_lr: float = 6e-5
    warmup: int = 500
    clip: float = 0.3
    batch: int = 16
    length: int = 32
    horizon: int = 15
    lam: float = 0.95
    discount: float = 1 - 1 / 333
    entropy: float = 3e-4
    unimix: float = 0.01
    free_nats: float = 1.0
    dyn_scale: float = 1.0
    rep_scale: float = 0.1
    replay_scale: float = 0.3
    slow_rate: float = 0.02
    envs: int = 1
    parallel: bool = False
    capacity: int = 100_000
    prefill: int = 1_000
    ratio: float = 64.0
    steps: int = 100_000
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    speed: str = "eager"
    log_every: int = 50
    checkpoint_minutes: float = 5.0
    video_minutes: float = 10.0

    @classmethod
    def preset(cls, name, **changes):
        """The configuration of a nominal size, with `changes` to single fields.

        Names: 1m, 3m, 12m, 25m, 50m, 100m, 200m. Raises: ValueError for another name
        or field.
        """
        if name not in SIZES:
            raise ValueError(
                f"Config.preset expects one of {', '.join(SIZES)}, but got {name!r}."
            )
        units, depth, lr = SIZES[name]
        rates = dict(lr=lr, critic_lr=lr / 2, actor_lr=lr / 5)
        size = dict(units=units, deter=8 * units, classes=units // 16, depth=depth)
        return cls.from_dict({**size, **rates, **changes})

    @classmethod
    def from_dict(cls, values):
        """Build from {field: value}; an unknown field is refused by name."""
        known = {field.name: field.type for field in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"Config has no field {', '.join(unknown)}; it has {', '.join(known)}."
            )
        for key, value in values.items():
            is_number = isinstance(value, (int, float)) and known[key] is float
            if not is_number and type(value) is not known[key]:
                raise ValueError(
                    f"Config expects {key} as {known[key].__name__}, but got {value!r}."
                )
        return cls(**values)

    @classmethod
    def from_yaml(cls, path):
        """Read a file written by `to_yaml`, or by hand with some of the fields."""
        values = yaml.safe_load(Path(path).read_text()) or {}
        if not isinstance(values, dict):
            raise ValueError(
                f"{path} should hold lines `field: value`, but it does not."
            )
        return cls.from_dict(values)

    def to_yaml(self, path):
        """Write every field."""
        text = yaml.safe_dump(asdict(self), sort_keys=False)
        runs.write_atomically(path, lambda partial: partial.write_text(text))


# Nominal size: width, convolution depth, learning rate of the world model. The paper's
# 4e-5 is for budgets of a GPU; a few thousand updates on a CPU want a faster one.
SIZES = {
    "1m": (64, 16, 3e-4),
    "3m": (128, 16, 3e-4),
    "12m": (256, 16, 1e-4),
    "25m": (384, 24, 1e-4),
    "50m": (512, 32, 4e-5),
    "100m": (768, 48, 4e-5),
    "200m": (1024, 64, 4e-5),
}


class ActState(NamedTuple):
    """What acting carries along: model state, and the action it chose last [B, A]."""

    model: State
    action: torch.Tensor


class Dreamer(nn.Module):
    """World model, actor and critic: seven modules and the slow critic.

    Args: obs_space and action_space of the environment (a plain observation space is
    taken as Dict(obs=...)); config. Source: DreamerV3, Algorithm 1.
    """

    def __init__(self, obs_space, action_space, config):
        super().__init__()
        self.config = config
        self.plain = not isinstance(obs_space, gym.spaces.Dict)
        self.obs_space = gym.spaces.Dict(obs=obs_space) if self.plain else obs_space
        self.action_space = action_space
        c = config
        self.world_model = WorldModel(
            self.obs_space,
            action_space,
            c.deter,
            c.units,
            c.latents,
            c.classes,
            c.depth,
            c.blocks,
            c.unimix,
            c.discount,
            c.free_nats,
            c.dyn_scale,
            c.rep_scale,
        )
        self.actor_critic = ActorCritic(
            self.world_model.rssm.feature_size,
            action_space,
            c.units,
            c.horizon,
            c.lam,
            c.discount,
            c.entropy,
            c.slow_rate,
            c.replay_scale,
            c.unimix,
        )
        self.device = pick_device(c.device)
        self.dtype = pick_precision(self.device, c.precision)
        self.to(self.device)
        ac = self.actor_critic
        groups = [
            {"params": list(self.world_model.parameters()), "lr": c.lr},
            {"params": list(ac.critic.parameters()), "lr": c.critic_lr},
            {"params": list(ac.actor.parameters()), "lr": c.actor_lr},
        ]
        self.optimizer = LaProp(groups, clip=c.clip, warmup=c.warmup)
        self.scaler = torch.amp.GradScaler(enabled=self.dtype == torch.float16)
        self._update = self._make_update(c.speed)

    def _as_tensors(self, obs):
        """One tick's observations [B, ...] on the device, checked key by key."""
        obs = {"obs": obs} if self.plain and not isinstance(obs, dict) else obs
        missing = sorted(set(self.obs_space.keys()) - set(obs))
        if missing:
            raise ValueError(
                f"Dreamer.act needs the observation {missing}, got {sorted(obs)}."
            )
        tensors = {}
        for key, space in self.obs_space.items():
            value = torch.as_tensor(obs[key])
            if tuple(value.shape[1:]) != space.shape or value.dim() == 0:
                raise ValueError(
                    f"Dreamer.act expects {key!r} of shape [B] + {list(space.shape)}, "
                    f"but got {list(value.shape)}; add the batch dimension."
                )
            if space.dtype == np.uint8 and value.dtype != torch.uint8:
                raise ValueError(
                    f"Dreamer.act expects {key!r} as uint8, but got {value.dtype}; pass "
                    "the bytes, the encoder scales them itself."
                )
            tensors[key] = value.to(self.device)
        return tensors

    @torch.no_grad()
    def act(self, obs, state=None, is_first=None):
        """Choose actions, sampled from the policy.

        Args: obs, {key: [B, ...]} as the environment gives them; state, what the last
        call returned; is_first [B], where a new episode begins (default: everywhere
        without a state, else nowhere).
        Returns: actions as the environment takes them (int64 [B] for Discrete, else
        float32 [B, A], unclipped) and the state for the next call.
        """
        obs = self._as_tensors(obs)
        batch = len(next(iter(obs.values())))
        if is_first is None:
            is_first = np.full(batch, state is None)
        is_first = torch.as_tensor(is_first, device=self.device)
        model = self.world_model
        if state is None:
            zeros = torch.zeros(batch, model.rssm.action_size, device=self.device)
            state = ActState(model.rssm.initial(batch), zeros)
        with self._autocast():
            embed = model.encoder(obs)[:, None]
            states, _, _ = model.rssm.observe(
                embed, state.action[:, None], is_first[:, None], state.model
            )
            now = states.map(lambda x: x[:, 0].float())
            action = self.actor_critic.policy(now)
        return self._to_env(action), ActState(now, action)

    def _to_env(self, action):
        if isinstance(self.action_space, gym.spaces.Discrete):
            return action.argmax(-1).cpu().numpy() + int(self.action_space.start)
        return action.cpu().numpy()

    def _autocast(self):
        low = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=low)

    def loss(self, batch):
        """All losses of a batch {key: [B, T, ...]}: one number, and the metrics."""
        with self._autocast():
            model_loss, metrics, states = self.world_model.loss(batch)
            loss, more = self.actor_critic.loss(states, self.world_model, batch)
        return model_loss + loss, metrics | more

    def dream(self, batch, context=5):
        """Open-loop prediction of a batch: see `WorldModel.dream`."""
        batch = check_batch(batch, self.world_model.columns)
        batch = {key: value.to(self.device) for key, value in batch.items()}
        with self._autocast():
            return self.world_model.dream(batch, context)

    def train_step(self, batch):
        """One update of everything from a batch as `Replay.sample` gives it.

        Returns: metrics {name: tensor}; nothing waits for the device.
        Raises: ValueError for a missing key or a wrong shape.
        """
        batch = check_batch(batch, self.world_model.columns)
        batch = {key: value.to(self.device) for key, value in batch.items()}
        return self._update(batch)

    def _make_update(self, speed):
        """The update in its fast form: eager, compiled, or captured as a CUDA graph."""
        if speed not in ("eager", "compile", "graph"):
            raise ValueError(
                f"speed is one of eager, compile, graph, but the config says {speed!r}."
            )
        if speed == "graph":
            if self.device.type != "cuda":
                raise ValueError(
                    f"speed='graph' needs a CUDA device, but this is {self.device}; "
                    "use speed='eager' or 'compile'."
                )
            return GraphedUpdate(self)
        if speed == "compile":
            self.loss = torch.compile(self.loss, fullgraph=True)
        return self._backward_and_step

    def _backward_and_step(self, batch):
        self._backward(batch)
        return self._step()

    def _backward(self, batch):
        loss, self._metrics = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=False)
        self.scaler.scale(loss).backward()

    def _step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.actor_critic.update_slow()
        return self._metrics

    def save(self, path):
        """Write weights, config and spaces to one safetensors file, atomically."""
        from safetensors.torch import save_file

        spaces = {key: describe_space(s) for key, s in self.obs_space.items()}
        about = {
            "format": "dreamer-lite-agent-1",
            "config": asdict(self.config),
            "obs_space": spaces,
            "plain": self.plain,
            "action_space": describe_space(self.action_space),
        }
        weights = {key: w.contiguous() for key, w in self.state_dict().items()}
        about = {"dreamer_lite": json.dumps(about)}
        runs.write_atomically(path, lambda partial: save_file(weights, partial, about))

    @classmethod
    def load(cls, path, **changes):
        """Read an agent written by `save`; `changes` replace config fields (device, ...).

        Raises: FileNotFoundError, or ValueError for a damaged or foreign file.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).exists():
            raise FileNotFoundError(
                f"There is no agent at {path}; train one or copy it."
            )
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["dreamer_lite"])
                weights = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"Dreamer.load expects a file written by Dreamer.save, but {path} is "
                f"damaged or foreign ({error}); restore a copy or train again."
            ) from error
        spaces = {key: restore_space(s) for key, s in about["obs_space"].items()}
        obs_space = spaces["obs"] if about["plain"] else gym.spaces.Dict(spaces)
        config = Config.from_dict({**about["config"], **changes})
        agent = cls(obs_space, restore_space(about["action_space"]), config)
        agent.load_state_dict(weights)
        return agent


class Collector:
    """Plays in the environments and writes every row to the replay.

    Args: envs, a Gymnasium vector environment that resets itself on the step after an
    end (NEXT_STEP), so that the last observation of an episode is a row of its own;
    replay; track, names in `info` whose value at the end of an episode is reported.
    """

    def __init__(self, envs, replay=None, track=()):
        self.envs, self.replay, self.track = envs, replay, track
        self.obs, _ = envs.reset()
        self.reward = np.zeros(envs.num_envs)
        self.first = np.ones(envs.num_envs, bool)
        self.last, self.terminal = ~self.first, ~self.first
        self.returns, self.lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs)

    def tick(self, policy):
        """One step of every environment; returns the episodes that ended with it.

        Args: policy, a callable (obs, is_first) -> actions [B].
        Returns: a list of {"env", "return", "length", and what is tracked}.
        """
        action = policy(self.obs, self.first)
        if self.replay is not None:
            for i in range(self.envs.num_envs):
                row = {key: value[i] for key, value in self.obs.items()}
                flags = self.first[i], self.last[i], self.terminal[i]
                self.replay.add(i, row, action[i], self.reward[i], *flags)
        self.first = self.last  # what follows a last row is a first one
        self.returns[self.first], self.lengths[self.first] = 0, 0
        self.obs, self.reward, self.terminal, cut, info = self.envs.step(action)
        self.last = self.terminal | cut
        self.returns += self.reward
        self.lengths += ~self.first
        return [self._report(i, info) for i in np.flatnonzero(self.last)]

    def _report(self, i, info):
        row = {"env": int(i), "return": float(self.returns[i])}
        row["length"] = int(self.lengths[i])
        return row | {key: float(info[key][i]) for key in self.track if key in info}


def random_policy(action_space, rng):
    """A policy for `Collector.tick` that acts at random: uniform in the unit actions."""

    def policy(obs, is_first):
        if isinstance(action_space, gym.spaces.Discrete):
            return action_space.start + rng.integers(action_space.n, size=len(is_first))
        size = (len(is_first), *action_space.shape)
        return rng.uniform(-1, 1, size).astype(np.float32)

    return policy


class AgentPolicy:
    """A policy for `Collector.tick` that remembers the agent's state."""

    def __init__(self, agent):
        self.agent, self.state = agent, None

    def __call__(self, obs, is_first):
        first = is_first if self.state else None
        action, self.state = self.agent.act(obs, self.state, first)
        return action


def evaluate(agent, make_env, episodes, envs=1, seed=0, track=(), parallel=False):
    """Play whole episodes with sampled actions, nothing is learnt.

    Args: agent (or any policy of `Collector.tick`); make_env, a Gymnasium id or a
    callable; episodes, in all, shared equally, so that short ones are not favoured.
    Returns: a list of {"env", "return", "length", and what is tracked}, one an episode.
    """
    vector = runs.make_vector(make_env, envs, seed, parallel=parallel)
    collector = Collector(vector, track=track)
    policy = AgentPolicy(agent) if isinstance(agent, Dreamer) else agent
    left = np.full(envs, episodes // envs)
    left[: episodes % envs] += 1
    results = []
    # Its own random numbers: evaluating does not change how a run goes on.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while left.any():
            for episode in collector.tick(policy):
                if left[episode["env"]]:
                    left[episode["env"]] -= 1
                    results.append(episode)
    vector.close()
    return results


def train(
    make_env,
    config,
    logdir,
    minutes=None,
    track=(),
    start_from=None,
    callback=None,
    progress=True,
):
    """Algorithm 1: collect experience, learn the model from it, learn to act in dreams.

    A run lives in its folder: started again with the same arguments it continues from
    the last checkpoint. On the CPU with one environment a continued run equals an
    uninterrupted one to the bit.
    Args: make_env, a Gymnasium id or a callable; config; logdir; minutes, a budget of
    this call; track, names in `info` to record at the end of an episode; start_from,
    an agent file whose weights a new run begins with; callback(agent, run), called with
    every video; progress, show a bar.
    Returns: the agent. Source: DreamerV3, Algorithm 1.
    """
    reuse_memory()
    with runs.Run(logdir, config, minutes, progress) as run:
        envs = run.make_envs(make_env)
        spaces = envs.single_observation_space, envs.single_action_space
        torch.manual_seed(config.seed)
        agent = Dreamer(*spaces, config)
        replay = Replay(config.capacity, *spaces, config.envs, config.seed)
        if start_from and not run.continued:
            agent.load_state_dict(Dreamer.load(start_from, device="cpu").state_dict())
        replay = run.restore(agent, replay)
        collector = Collector(envs, replay, track)
        act = AgentPolicy(agent)
        random = act if start_from else random_policy(envs.single_action_space, run.rng)
        while not run.finished():
            policy = random if run.step < config.prefill else act
            run.count(collector.tick(policy), config.envs)
            for _ in range(run.updates_due(replay)):
                batch = replay.sample(config.batch, config.length)
                run.log(agent.train_step(batch))
            if run.video_due():
                run.show_dream(agent, replay)
                if callback:
                    callback(agent, run)
            if run.checkpoint_due():
                run.save(agent, replay)
        run.save(agent, replay)
    return agent
