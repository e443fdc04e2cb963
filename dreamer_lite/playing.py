"""Players that follow a script, and episodes: played, filmed, dreamed beside, recorded.

The command line and notebook 10 use it.
"""

import functools
import json
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from dreamer_lite.dreamer import AgentPolicy, Collector, Dreamer
from dreamer_lite.envs import (
    build_env,
    check_fit,
    env_by_name,
    open_vector,
    random_policy,
)
from dreamer_lite.networks import keys_of, scale_picture
from dreamer_lite.replay import Replay
from dreamer_lite.runs import read_checkpoint
from dreamer_lite.video import compare_frames, in_colour

RUN = Path(__file__).resolve().parents[1] / "data" / "mario_1_1_actions.json"

# Behaviours: generators of the actions of one episode, given random numbers. They suit
# every set of actions of Mario, because all sets share the first five.


def sticky_right(rng):
    """Mostly run to the right and jump; each choice is held for a while."""
    while True:
        action = int(rng.choice(5, p=[0.05, 0.15, 0.25, 0.2, 0.35]))
        yield from [action] * int(rng.integers(1, 13))


def known_run(path=RUN):
    """The stored list of [action, steps] that reaches the flag of level 1-1."""
    return json.loads(Path(path).read_text("utf-8"))["runs"]


def follow(rng, held=None, leave=True):
    """Follow a list of [action, steps] up to a random step, then `sticky_right`.

    Args:
        rng: the random numbers.
        held: the list; `known_run` by default.
        leave: whether to leave the list at a random step, or follow all of it.
    """
    held = known_run() if held is None else held
    actions = [action for action, steps in held for _ in range(steps)]
    yield from actions[: rng.integers(len(actions) * 4 // 3) if leave else None]
    yield from sticky_right(rng)


SCRIPTS = {"right": sticky_right, "follow": follow}


class Scripted:
    """A policy for `Collector`: a behaviour, started afresh with every episode."""

    def __init__(self, behaviour, seed=0):
        self.behaviour, self.rng = behaviour, np.random.default_rng(seed)
        self.running = {}

    def __call__(self, obs, is_first):
        for env in np.flatnonzero(is_first):
            self.running[env] = self.behaviour(self.rng)
        return np.array([next(self.running[env]) for env in range(len(is_first))])


def player(name, action_space, seed=0):
    """A policy for `Collector`: "random", a script of Mario, or an agent's file."""
    if name == "random":
        return random_policy(action_space, np.random.default_rng(seed))
    if name in SCRIPTS:
        return Scripted(SCRIPTS[name], seed)
    return AgentPolicy(Dreamer.load(name).eval())


def record(path, make_env, players, rows, seed=0, track=()):
    """Let every player play, and save what happens as a `Replay`, one stream for each.

    Args:
        path: file to write.
        make_env: a Gymnasium id or a callable.
        players: names as for `player`, or policies.
        rows: rows of each stream.
        seed: seed of environments and players.
        track: names in `info` to report at the end of an episode.

    Returns:
        The finished episodes, {"env", "return", "length", and what is tracked}; "env"
        is the number of the player.
    """
    made = open_vector(make_env, len(players), seed)
    with made as envs, torch.random.fork_rng():
        torch.manual_seed(seed)
        spaces = envs.single_observation_space, envs.single_action_space
        replay = Replay(rows * len(players), *spaces, len(players), seed)
        policies = [
            player(one, spaces[1], seed + i) if isinstance(one, (str, Path)) else one
            for i, one in enumerate(players, 1)
        ]

        def act(obs, first):
            own = [slice(i, i + 1) for i in range(len(policies))]
            views = [({key: obs[key][i] for key in obs}, first[i]) for i in own]
            return np.concatenate([p(*view) for p, view in zip(policies, views)])

        collector = Collector(envs, replay, track)
        episodes = [episode for _ in range(rows) for episode in collector.tick(act)]
    replay.save(path, compress=True)
    return episodes


def with_render_mode(make_env, mode):
    """An environment in a render mode, or in none if it cannot be made in that one."""
    if isinstance(make_env, str):
        make_env = functools.partial(gym.make, make_env)
    try:
        return make_env(render_mode=mode)
    except (TypeError, ValueError, AssertionError, gym.error.Error):
        return make_env()  # which says what is wrong if it was not the mode


@dataclass
class Played:
    """One episode: T+1 rows as the replay has them, screens, and the last `info`."""

    rows: dict  # {"obs": [T+1, ...], "action": [T+1, A], "reward": [T+1], ...}
    screens: np.ndarray  # [T+1, H, W, 3] uint8
    fps: float  # frames per second at the environment's own speed
    info: dict

    @property
    def total(self):
        """The sum of the rewards."""
        return float(self.rows["reward"].sum())


def play_episode(agent, make_env, seed=0, max_steps=3000, show=False, greedy=False):
    """Let an agent play one episode.

    Args:
        agent: a `Dreamer`.
        make_env: a Gymnasium id or a callable. It is asked for rendered screens if it
            takes a render mode; else the pictures that the agent sees are filmed.
        seed: seed of the environment and the agent.
        max_steps: agent steps at most.
        show: show the episode in a window, at its own pace; no screens are kept.
        greedy: take the most likely actions instead of sampled ones.

    Raises:
        ValueError: for an environment that the agent does not fit, or that cannot be
            shown or filmed.
    """
    mode = "human" if show else "rgb_array"
    shown = functools.partial(with_render_mode, make_env, mode)
    with closing(build_env(shown, seed)) as env, torch.random.fork_rng():
        check_fit(agent, env)
        rendered = env.render_mode == "rgb_array"
        if show and env.render_mode != mode:
            raise ValueError(
                "play_episode expects the render mode human to show an episode, but "
                f"this environment has {env.render_mode!r}; leave out show, or --human."
            )
        if not (rendered or show):
            picture_keys(agent)  # or there is nothing to film
        fps = env.metadata.get("render_fps", 15)
        torch.manual_seed(seed)
        replay = Replay(max_steps + 1, agent.obs_space, agent.action_space)
        policy, screens, begin = AgentPolicy(agent, greedy), [], time.perf_counter()
        (obs, info), reward, ended, cut = env.reset(), 0.0, False, False
        for step in range(max_steps + 1):
            first, last = step == 0, ended or cut or step == max_steps
            batch = {key: np.asarray(value)[None] for key, value in obs.items()}
            action = policy(batch, np.array([first]))[0]
            replay.add(0, obs, action, reward, first, last, ended)
            screens += [env.render()] if rendered else []
            if last:
                break
            obs, reward, ended, cut, info = env.step(action)
            if show:  # wait until the frames of this step would have been shown
                time.sleep(max(0.0, begin + (step + 1) / fps - time.perf_counter()))
    rows = {key: column[0, : step + 1] for key, column in replay.data.items()}
    if not (rendered or show):
        screens = stack([pictures(agent, rows, key) for key in picture_keys(agent)])
    return Played(rows, np.array(screens), fps, info)


def picture_keys(agent):
    """The keys of the pictures that an agent sees. Raises: ValueError for none."""
    keys = keys_of(agent.world_model.fields, "picture")
    if not keys:
        raise ValueError(
            "The agent sees no pictures, and so it dreams none; film it where the "
            "environment has the render mode rgb_array, and without a dream."
        )
    return keys


def pictures(agent, rows, key):
    """The pictures `key` of an episode's rows, as uint8 [T+1, H, W, C]."""
    value = scale_picture(agent.world_model.fields[key], torch.as_tensor(rows[key]))
    return (255 * value).round().byte().numpy()


def stack(clips):
    """Clips [T, H, W, C] of any size as one [T, H, W, 3], one below the other."""
    width = max(clip.shape[2] for clip in clips)
    sides = [(0, 0), (0, GAP), (0, 0), (0, 0)]
    padded = []
    for clip in map(in_colour, clips):
        sides[2] = (0, width - clip.shape[2])
        padded.append(np.pad(clip, sides, constant_values=255))
    return np.concatenate(padded, axis=1)[:, :-GAP]


@torch.no_grad()
def dream_beside(agent, rows, context=5, horizon=30, key=None):
    """What the agent would have dreamed, to be shown beside the real pictures.

    The model watches the first `context` rows. From then on it dreams `horizon` steps
    at a time from the actions alone, each time from a state that has watched all rows
    before.

    Args:
        agent: a `Dreamer` that sees pictures.
        rows: the rows of `Played`.
        context: rows that are watched first.
        horizon: steps of one dream.
        key: which picture (default: the first one).

    Returns:
        The dreamed picture, [T+1, H, W, C] uint8.
    """
    batch = {key: torch.as_tensor(column)[None] for key, column in rows.items()}
    batch = agent._on_device(batch)
    model, end = agent.world_model, len(rows["reward"]) - 1
    with torch.random.fork_rng(), agent._autocast():
        torch.manual_seed(0)
        states, _, _ = model.observe(batch)
        features = [states.feature[:, :context]]
        for start in range(context - 1, end, horizon):
            now = states.map(lambda x, t=start: x[:, t])
            actions = batch["action"][:, start : min(start + horizon, end)]
            future, _ = model.rssm.imagine(now, actions, actions.shape[1])
            features.append(future.feature[:, 1:])
        frames = model.decoder(torch.cat([f.float() for f in features], 1))
        frames = frames[key or picture_keys(agent)[0]][0]
    return (frames.float().clamp(0, 1) * 255).round().byte().cpu().numpy()


GAP = 2  # white pixels between pictures, or sky and ground would run through them


def beside(agent, rows, scale=3):
    """Frames real | dreamed | error of an episode, enlarged: uint8 [T+1, ..., 3].

    Several pictures are shown one below the other.
    """
    strips = []
    for key in picture_keys(agent):
        real, dreamed = pictures(agent, rows, key), dream_beside(agent, rows, key=key)
        real, dreamed, error = np.split(compare_frames(real, dreamed, axis=2), 3, 2)
        white = np.full_like(real[:, :, :GAP], 255)
        strips.append(np.concatenate([real, white, dreamed, white, error], axis=2))
    return stack(strips).repeat(scale, 1).repeat(scale, 2)


def film(agent, run, make_env):
    """A callback of `train`: one episode, kept as a video of the run."""
    length = min(600, run.config.steps // 8)
    played = play_episode(agent, make_env, run.step, length)
    run.video("episode", played.screens, played.fps)


def env_of(path, name, options, fallback=None):
    """What makes the environment of a run folder, or the one that is asked for.

    Args:
        path: the run folder, or an agent's file.
        name: the name of another environment, or None.
        options: further options, {name: value}.
        fallback: the environment's name for an agent's file, which has none.

    Raises:
        ValueError: if nothing names an environment.
    """
    if name is None and Path(path).expanduser().is_dir():
        name = read_checkpoint(path)[0]["environment"]
    name = name or fallback
    if name is None:
        raise ValueError(f"{path} does not name an environment; add --env.")
    return env_by_name(name, **options)
