# Generated from notebooks/09_dreamer.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""Dreamer: one configuration, one agent, one training loop.

Built in notebook 09. Source: DreamerV3, section "Learning algorithm".
"""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from dreamer_lite import runs, scale, speed
from dreamer_lite.actor_critic import ActorCritic
from dreamer_lite.config import Config
from dreamer_lite.envs import check_fit, open_vector, random_policy
from dreamer_lite.replay import (
    Replay,
    admit,
    decode_action,
    encode_action,
    read_action,
    select_spaces,
    write_whole,
)
from dreamer_lite.rssm import State
from dreamer_lite.world_model import LaProp, WorldModel, as_tensors


class ActState(NamedTuple):
    """What acting carries along: model state, and the action it chose last [B, A]."""

    model: State
    action: Tensor


class Dreamer(nn.Module):
    """World model, actor and critic: seven modules and the slow critic.

    Args: obs_space and action_space of the environment (a plain observation space is
    taken as Dict(obs=...)); config.
    Raises: TypeError or ValueError for a space that it cannot learn from, or a device,
    precision or speed that this machine lacks.
    Source: DreamerV3, section "Learning algorithm".
    """

    def __init__(self, obs_space: gym.Space, action_space: gym.Space, config: Config):
        super().__init__()
        self.config, c = config, config
        self.plain = not isinstance(obs_space, gym.spaces.Dict)
        self.obs_space = select_spaces(obs_space, c.obs_keys, c.text_keys)
        self.action_space, self.choice = action_space, read_action(action_space)
        self.world_model = WorldModel(self.obs_space, action_space, config)
        fields = self.world_model.fields
        self.seen = {key: fields[key] for key in (*self.obs_space, "is_first")}
        feature_size = self.world_model.rssm.feature_size
        self.actor_critic = ActorCritic(feature_size, action_space, config)
        self.device = speed.pick_device(c.device)
        self.dtype = speed.pick_precision(self.device, c.precision)
        self.to(self.device)
        fp16 = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        speed.prepare(self, c.speed)

    @functools.cached_property
    def optimizer(self) -> LaProp:
        """The optimizer, made on first use from the modules that the agent then has."""
        c, actor = self.config, self.actor_critic.actor
        *body, weight, bias = actor.parameters()
        heads = getattr(actor, "heads", 1)
        groups = [
            dict(params=list(self.world_model.parameters()), lr=c.lr),
            dict(params=list(self.actor_critic.critic.parameters()), lr=c.critic_lr),
            dict(params=body, lr=c.actor_lr),
            dict(params=[weight, bias], lr=c.actor_lr, parts=heads),
        ]
        return LaProp(groups, clip=c.clip, warmup=c.warmup)

    def schedule(self, step: int) -> None:
        """Set learning rates and the entropy's weight for agent step `step` of a run.

        Source: none. DreamerV3 keeps them constant, and so do our defaults.
        """
        c = self.config
        if not c.anneal:
            return
        left = min(max(1 - step / c.steps, 0.0) / c.anneal, 1.0)  # of the last share
        rates = c.lr, c.critic_lr, c.actor_lr, c.actor_lr
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate * (0.05 + 0.95 * left)
        if c.entropy_end:
            weight = c.entropy**left * c.entropy_end ** (1 - left)
            self.actor_critic.entropy.fill_(weight)

    @torch.no_grad()
    def act(
        self,
        obs: dict[str, np.ndarray] | np.ndarray,
        state: ActState | None = None,
        is_first: np.ndarray | None = None,
        greedy: bool = False,
    ) -> tuple[np.ndarray, ActState]:
        """Choose actions, sampled from the policy.

        Args:
            obs: {key: [B, ...]} as the environment gives them, or a plain [B, ...] if
                "obs" is the only key. Texts are B strings.
            state: what the last call returned.
            is_first: [B], where a new episode begins (default: everywhere without a
                state, else nowhere).
            greedy: take the most likely choice, or the mean, instead of a sample.

        Returns:
            actions and the state for the next call. Choices are int64 in the form of
            their space, [B] for a Discrete one. Actions of a Box are float32 [B, A] in
            its unit range, [-1, 1], unclipped: an environment of
            `dreamer_lite.envs.build_env` clips and rescales them.

        Raises:
            ValueError: for values that do not fit their space, or a state of another
                batch.
        """
        model, action = state or (None, None)
        now = self.observe(obs, action, model, is_first)
        with self._autocast():
            action = self.actor_critic.policy(now, greedy)
        chosen = decode_action(self.choice, action.cpu().numpy())
        return chosen, ActState(now, action)

    @torch.no_grad()
    def observe(
        self,
        obs: dict[str, np.ndarray] | np.ndarray,
        action: np.ndarray | Tensor | None = None,
        state: State | None = None,
        is_first: np.ndarray | None = None,
    ) -> State:
        """Filter what is seen into the model state, whoever chose the action.

        Args:
            obs: as in `act`.
            action: [B, ...], taken since the observation before, in the form that `act`
                returns (default: none was).
            state: what the last call returned.
            is_first: as in `act`.

        Returns:
            states [B, ...], whose `feature` all heads read.

        Raises:
            ValueError: as `act`.
        """
        obs = obs if isinstance(obs, dict) else {"obs": obs}
        if is_first is None:
            size = np.shape(next((obs[k] for k in self.seen if k in obs), 0))[:1]
            is_first = np.full(size, state is None)
        obs = admit(self.seen, {**obs, "is_first": is_first}, lead=1)
        obs = as_tensors(obs, self.device)
        is_first, model = obs["is_first"], self.world_model
        batch = len(is_first)
        if state is None:
            state = model.rssm.initial(batch)
        if action is None:
            action = torch.zeros(batch, model.rssm.action_size)
        elif not isinstance(action, Tensor):
            rows = [encode_action(self.choice, row) for row in action]
            action = torch.as_tensor(np.stack(rows), dtype=torch.float32)
        if {len(state.h), len(action)} != {batch}:
            raise ValueError(
                f"Dreamer.act got {batch} observations, a state of {len(state.h)} and "
                f"{len(action)} actions; pass those of the same environments."
            )
        action = action.to(self.device)[:, None]
        with self._autocast():
            embed = model.encoder(obs)[:, None]
            states, _, _ = model.rssm.observe(embed, action, is_first[:, None], state)
        return states.map(lambda x: x[:, 0].float())

    def _autocast(self) -> torch.autocast:
        low = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=low)

    def _on_device(self, batch: dict) -> dict[str, Tensor]:
        rows = {key: batch[key] for key in self.world_model.fields}
        return as_tensors(rows, self.device)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """All losses of a batch {key: [B, T, ...]}: one number, and the metrics."""
        with self._autocast():
            model_loss, metrics, states = self.world_model.loss(batch)
            some = math.ceil(self.config.dream_share * len(batch["reward"]))
            some = slice(max(1, some))
            start = states.map(lambda x: x[some])
            rows = {key: value[some] for key, value in batch.items()}
            loss, more = self.actor_critic.loss(start, self.world_model, rows)
        return model_loss + loss, metrics | more

    def dream(self, batch: dict, context: int = 5) -> dict[str, Tensor]:
        """Open-loop prediction of a batch: see `WorldModel.dream`, also for units.

        Pictures in [0, 1], vectors in symlog units, choices and texts as logits.
        """
        with self._autocast():
            return self.world_model.dream(self._on_device(batch), context)

    @torch.enable_grad()
    def train_step(self, batch: dict) -> dict[str, Tensor]:
        """One update of everything from a batch as `Replay.sample` gives it.

        Returns: metrics {name: tensor}; none is fetched from the device.
        """
        metrics = self.backward(self._on_device(batch))
        self.step()
        return metrics

    def backward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """First half of an update: losses and gradients. Returns the metrics."""
        loss, metrics = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=False)
        self.scaler.scale(loss).backward()
        return metrics

    def step(self) -> None:
        """Second half of an update: optimizer and slow critic."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.actor_critic.update_slow()

    def save(self, path: str | os.PathLike) -> None:
        """Write weights, config and spaces to one safetensors file, whole or not."""
        data = runs.pack_agent(self)
        write_whole(path, lambda file: file.write(data))

    @classmethod
    def load(cls, path: str | os.PathLike, **changes: object) -> "Dreamer":
        """Read an agent written by `save`, or the newest one of a run folder.

        Args:
            path: the file or folder.
            **changes: config fields to replace. Unless named here, device is "auto" and
                speed "eager", not what the training used. Precision stays as the
                training asked for it; "auto" is chosen again on this machine.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: for a damaged file, or one that is not an agent.
        """
        obs_space, action_space, config, weights = runs.load_agent(path)
        config |= {"device": "auto", "speed": "eager", **changes}
        agent = cls(obs_space, action_space, Config(**config))
        agent.load_state_dict(weights)
        return agent


class Collector:
    """Plays in the environments and writes every row to the replay.

    Args: envs, a Gymnasium vector environment that resets itself on the step after an
    end (NEXT_STEP), so that the last observation of an episode is a row of its own;
    replay; track, names in `info` (or one) whose value at the end of an episode is
    reported.
    """

    def __init__(
        self,
        envs: gym.vector.VectorEnv,
        replay: Replay | None = None,
        track: Sequence[str] = (),
    ):
        self.envs, self.replay = envs, replay
        self.track = [track] if isinstance(track, str) else track
        self.obs, _ = envs.reset()
        self.reward = np.zeros(envs.num_envs)
        self.first = np.ones(envs.num_envs, bool)
        self.last, self.terminal = ~self.first, ~self.first
        self.returns, self.lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs)

    def tick(self, policy: Callable) -> list[dict]:
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

    def _report(self, i: int | np.integer, info: dict) -> dict:
        row = {"env": int(i), "return": float(self.returns[i])}
        row["length"] = int(self.lengths[i])
        # The mask _name says which environments report a value, if there is one.
        there = np.ones(self.envs.num_envs, bool)
        known = [k for k in self.track if k in info and info.get(f"_{k}", there)[i]]
        return row | {key: float(info[key][i]) for key in known}


class AgentPolicy:
    """A policy for `Collector.tick` that remembers the agent's state."""

    def __init__(self, agent: Dreamer, greedy: bool = False):
        self.agent, self.greedy, self.state = agent, greedy, None

    def __call__(self, obs: dict | np.ndarray, is_first: np.ndarray) -> np.ndarray:
        first = is_first if self.state else None
        action, self.state = self.agent.act(obs, self.state, first, self.greedy)
        return action


def evaluate(
    agent: Dreamer | Callable,
    make_env: str | Callable,
    episodes: int,
    envs: int = 1,
    seed: int = 0,
    track: Sequence[str] = (),
    parallel: bool = False,
    greedy: bool = False,
) -> list[dict]:
    """Play whole episodes without learning, with actions sampled from the policy.

    Args:
        agent: a `Dreamer`, or any policy of `Collector.tick`.
        make_env: a Gymnasium id or a callable.
        episodes: how many in total, shared equally by the environments, so that short
            ones are not favoured.
        envs: how many environments side by side.
        seed: of environments and actions. No training run has these episodes.
        track: names in `info` to report.
        parallel: give each environment a process of its own.
        greedy: take the agent's most likely actions instead of sampled ones.

    Returns:
        A list of {"env", "return", "length", and what is tracked}, one an episode.

    Raises:
        ValueError: for spaces that the agent does not fit.

    Source: none, bookkeeping.
    """
    policy = AgentPolicy(agent, greedy) if isinstance(agent, Dreamer) else agent
    left = episodes // envs + (np.arange(envs) < episodes % envs)
    results = []
    # Its own random numbers: evaluating does not change the run around it.
    with (
        open_vector(make_env, envs, seed, None, parallel, held_out=True) as vector,
        torch.random.fork_rng(),
    ):
        if policy is not agent:
            check_fit(agent, vector)
        torch.manual_seed(seed)
        collector = Collector(vector, track=track)
        while (left > 0).any():
            for episode in collector.tick(policy):
                if left[episode["env"]] > 0:
                    left[episode["env"]] -= 1
                    results.append(episode)
    runs.warn_untracked(collector.track, results)
    return results


def train(
    make_env: str | Callable,
    config: Config,
    logdir: str | os.PathLike,
    minutes: float | None = None,
    track: Sequence[str] = (),
    start_from: str | os.PathLike | None = None,
    callback: Callable | None = None,
    progress: bool = True,
    agent: Callable = Dreamer,
    callback_every: int | None = None,
) -> Dreamer:
    """The loop: collect experience, learn the model from it, learn to act in dreams.

    A run lives in its folder: started again with the same arguments it continues from
    the last checkpoint. On the CPU with one environment a run that was cut off equals
    an uninterrupted one to the bit if that checkpoint was written between two episodes.
    Two kinds are not: the last of a run whose `steps` are raised afterwards, and one
    that had to be written because an episode lasted more than a minute. Ctrl-C and
    SIGTERM end a run with a checkpoint.

    Args:
        make_env: a Gymnasium id or a callable.
        config: every number; learning rates, `entropy`, `ratio` and what is in
            `runs.FREE` may change when a run is continued.
        logdir: the run's folder.
        minutes: time limit of this call, which ends with the next episode, at most a
            minute later.
        track: names in `info` to record at the end of an episode.
        start_from: an agent file or run folder; a new run begins with its weights,
            where name and shape fit, and one warning lists the others.
        callback: called as callback(agent, run); the run ends, with a checkpoint, if it
            returns True.
        progress: show a bar; in a file that is a line every minute.
        agent: what makes the agent: a subclass of `Dreamer`, or any function of
            observation space, action space and config.
        callback_every: agent steps between two calls of `callback`; None: it is called
            with every video.

    Returns:
        The agent.

    Raises:
        TypeError, ValueError: for arguments, spaces or a folder that do not fit.
        OSError: for a folder that cannot be written or that another run holds.
        FloatingPointError: if weights or losses are no longer finite.

    Source: DreamerV3, section "Learning algorithm".
    """
    if not isinstance(config, Config):
        raise TypeError(
            f"train expects a Config, but got {config!r}; use Config.preset('1m')."
        )
    speed.reuse_memory()
    with scale.open_run(logdir, config, minutes, track, progress) as run:
        config = run.config  # with a seed of its own in each of several processes
        envs = run.make_envs(make_env)
        spaces = envs.single_observation_space, envs.single_action_space
        torch.manual_seed(config.seed)
        agent = agent(*spaces, config)
        known = agent.obs_space, agent.action_space
        replay = Replay(config.capacity, *known, config.envs, config.seed)
        if start_from and not run.state:
            runs.load_what_fits(agent, start_from)
        run.restore(agent, replay)
        collector, act = Collector(envs, replay, track), AgentPolicy(agent)
        random = act if start_from else random_policy(envs.single_action_space, run.rng)
        while not run.finished():
            policy = random if run.step < config.prefill else act
            run.count(collector.tick(policy), collector)
            agent.schedule(run.step)
            for _ in range(run.updates_due(replay)):
                run.log(agent.train_step(replay.sample(config.batch, config.length)))
            run.look(agent, replay, callback, callback_every)
            run.save_if_due(agent, replay)
        run.save(agent, replay)
    return agent
