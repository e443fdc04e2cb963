"""Environments in the form that Dreamer Lite trains on, one or several side by side.

It imports no torch, so that the workers of parallel environments stay small.
"""

import ast
import contextlib
import functools
import importlib
import operator
import os
import re
import signal
import warnings

import gymnasium as gym
import numpy as np

from dreamer_lite.replay import admit, read_action, read_space, select_spaces


class SeededEpisodes(gym.Wrapper):
    """Seed every reset by (seed, environment, episode), whoever calls it.

    A vector environment resets by itself and without a seed; with this wrapper episode
    k of environment i is the same in every run, also in one that was continued.

    Args:
        env: the environment.
        seed: the seed of the run.
        index: number of the environment.
        episode: number of the first episode.
        held_out: play other episodes, which no run with a seed below 2**32 trains on.
    """

    def __init__(self, env, seed, index=0, episode=0, held_out=False):
        super().__init__(env)
        self.key, self.episode, self.held_out = (seed, index), episode, held_out

    def reset(self, *, seed=None, options=None):
        # A 0 for the others would change the episodes of seeds beyond 32 bits.
        numbers = (*self.key, self.episode, *([1] if self.held_out else []))
        sequence = np.random.SeedSequence(numbers)
        self.episode += 1
        seed = int(sequence.generate_state(1)[0])
        self.env.action_space.seed(seed)
        return self.env.reset(seed=seed, options=options)


def leaves(space, value=None, name=""):
    """Yield (name, space, value) of every space inside Dict and Tuple spaces.

    A name is made of the keys on the way, joined by a slash; a plain space is obs.
    """
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        names = space if isinstance(space, gym.spaces.Dict) else range(len(space))
        for key in names:
            if isinstance(value, dict) and key not in value:
                continue  # `admit` will miss it
            inner = None if value is None else value[key]
            yield from leaves(space[key], inner, f"{name}/{key}".lstrip("/"))
    else:
        yield name or "obs", space, value


STEP = "observation reward terminated truncated info"


def expect(result, names):
    """What an environment returned, if it returns what Gymnasium asks for.

    Raises:
        TypeError: for less or more, as of an environment of the old gym.
    """
    if not isinstance(result, tuple) or len(result) != len(names.split()):
        raise TypeError(
            f"A Gymnasium environment returns {names.replace(' ', ', ')}, but got "
            f"{result!r:.80}; return these, or convert one of the old gym with shimmy."
        )
    return result


class DictObservation(gym.Wrapper):
    """Observations as one flat dictionary; rewards as plain numbers.

    A single space is named obs. Nested Dict and Tuple spaces become "a/b" or "0".

    Raises:
        ValueError: for a reset whose observation does not fit its space.
    """

    def __init__(self, env):
        super().__init__(env)
        spaces = {name: space for name, space, _ in leaves(env.observation_space)}
        self.observation_space, self.fields = gym.spaces.Dict(spaces), {}
        for name, space in spaces.items():
            with contextlib.suppress(TypeError):  # obs_keys may leave it out
                self.fields[name] = read_space(space)

    def observation(self, obs):
        """One observation in the new form."""
        found = leaves(self.env.observation_space, obs)
        return {name: value for name, _, value in found}

    def reset(self, *, seed=None, options=None):
        result = self.env.reset(seed=seed, options=options)
        obs, info = expect(result, "observation info")
        obs = self.observation(obs)
        admit(self.fields, obs)
        return obs, info

    def step(self, action):
        obs, reward, *rest = expect(self.env.step(action), STEP)
        return self.observation(obs), float(np.asarray(reward).item()), *rest


class UnitActions(gym.ActionWrapper):
    """Act in a bounded Box as in [-1, 1]^A: clip, then rescale to its bounds.

    Whole numbers get equal shares of [-1, 1], the highest one too.

    Raises:
        ValueError: for a Box without finite bounds.
    """

    def __init__(self, env):
        super().__init__(env)
        space = env.action_space
        self.low, self.high = space.low.astype(float), space.high.astype(float)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self.low.size,), np.float32)
        self.dtype, self.whole = space.dtype, space.dtype.kind in "iub"
        if not np.isfinite([self.low, self.high]).all():
            raise ValueError(
                f"Continuous actions need finite bounds, but the space is {space}; "
                "wrap the environment in gymnasium.wrappers.TransformAction(env, "
                "lambda action: action, Box(low, high, shape))."
            )

    def action(self, action):
        share = (np.clip(action, -1.0, 1.0).astype(float) + 1) / 2
        share = share.reshape(self.low.shape)
        if self.whole:
            scaled = np.floor(self.low + share * (self.high - self.low + 1))
        else:
            scaled = (1 - share) * self.low + share * self.high
        return np.clip(scaled, self.low, self.high).astype(self.dtype)


def env_name(make_env):
    """One line that names an environment, the same in every process.

    Args:
        make_env: a Gymnasium id or a callable, also a `functools.partial` of one.

    Returns:
        The id, or `module:function`; the options of a partial follow in parentheses, as
        in `dreamer_lite.mario:make_mario(noops=30)`.
    """
    if isinstance(make_env, str):
        return make_env
    whole = functools.partial(make_env)  # one, also of several partials
    args, options = whole.args, sorted(whole.keywords.items())
    if whole.func is gym.make:
        name, *args = args
    else:
        kind = type(whole.func)
        named = whole.func if hasattr(whole.func, "__qualname__") else kind
        name = f"{named.__module__}:{named.__qualname__}"
    words = [*map(repr, args), *(f"{key}={value!r}" for key, value in options)]
    # Addresses of objects differ from process to process.
    return name + re.sub(r" at 0x\w+", "", f"({', '.join(words)})") * bool(words)


def env_by_name(name, **more):
    """What makes the environment that `env_name` names: a callable.

    Args:
        name: a Gymnasium id, `module:id` (of a module that registers ids when it is
            imported) or `module:function`, optionally with options in parentheses.
        **more: further options.

    Raises:
        ValueError: for a name that cannot be read or found.
    """
    head, _, options = name.partition("(")
    module, _, function = head.rpartition(":")
    try:
        call = ast.parse(f"f({options or ')'}", mode="eval").body
        args = [ast.literal_eval(value) for value in call.args]
        options = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        make = module and getattr(importlib.import_module(module), function, None)
        if not make:
            gym.spec(function)
    except (SyntaxError, ValueError, ImportError, gym.error.Error) as error:
        raise ValueError(
            "An environment is a Gymnasium id or module:function, optionally with "
            f"(option=value), but {name!r} cannot be found ({error}); correct it."
        ) from None
    make = make or functools.partial(gym.make, head)
    return functools.partial(make, *args, **options | more)


def build_env(make_env, seed=0, index=0, episode=0, held_out=False):
    """One environment: actions in [-1, 1], observations named, resets seeded.

    Args:
        make_env: a Gymnasium id, or a callable that returns an environment.
        seed: see `SeededEpisodes`, also for the others.

    Raises:
        TypeError: for a callable that returns anything else.
    """
    env = gym.make(make_env) if isinstance(make_env, str) else make_env()
    if not isinstance(env, gym.Env):
        raise TypeError(
            f"make_env is a callable that returns a gymnasium.Env, but got {env!r}; "
            "return the environment from it."
        )
    if isinstance(env.action_space, gym.spaces.Box):
        env = UnitActions(env)
    env = DictObservation(gym.wrappers.OrderEnforcing(env))
    return SeededEpisodes(env, seed, index, episode, held_out)


def build_worker(trainer, *args):
    """`build_env`, also in a process of its own.

    Ctrl-C reaches every process of a terminal; only the one that trains answers it and
    ends its workers, so that none of them breaks off in a step and prints how it died.

    Args:
        trainer: id of the process that trains.
        *args: those of `build_env`.
    """
    if os.getpid() != trainer:
        # No SIG_IGN: a program that an environment starts would inherit it.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which a run catches
    return build_env(*args)


def make_vector(
    make_env, num_envs, seed=0, episodes=None, parallel=False, held_out=False
):
    """Several copies side by side, resetting themselves on the step after the end.

    Args:
        make_env: as in `build_env`.
        num_envs: number of copies.
        seed: see `SeededEpisodes`.
        episodes: the number of the first episode of each (default: 0).
        parallel: give each a process of its own.
        held_out: play episodes that no training run has.
    """
    factories = [
        functools.partial(build_worker, os.getpid(), make_env, seed, i, k, held_out)
        for i, k in enumerate(episodes or [0] * num_envs)
    ]
    mode = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
    if parallel and num_envs > 1:
        # Texts in Gymnasium's shared memory stay as they were at the start.
        return gym.vector.AsyncVectorEnv(factories, shared_memory=False, **mode)
    return gym.vector.SyncVectorEnv(factories, **mode)


def break_off(vector):
    """Close a vector environment after an error: at once, and silently.

    A step that was broken off is not waited for: a worker may never answer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the step that was broken off
        for _ in range(2):  # the first may fail on that step
            with contextlib.suppress(Exception, KeyboardInterrupt):  # a second one
                vector.close(terminate=True)


@contextlib.contextmanager
def open_vector(*args, **options):
    """`make_vector` for a with block, which closes it; after an error at once."""
    vector = make_vector(*args, **options)
    try:
        yield vector
    except BaseException:
        break_off(vector)
        raise
    vector.close()


def random_policy(action_space, rng):
    """A policy for `Collector.tick` that acts at random, uniformly in unit actions."""
    field = read_action(action_space)

    def policy(obs, is_first):
        size = (len(is_first), *field.shape)
        if field.sizes:
            return rng.integers(field.low, field.high + 1, size)
        return rng.uniform(-1, 1, size).astype(np.float32)

    return policy


def check_fit(agent, envs):
    """Refuse an environment, vector or not, that an agent was not made for.

    Choices and shapes must be the same; the bounds of numbers may differ, and there may
    be further observations.

    Raises:
        ValueError: with the name of the space.
    """
    form = operator.attrgetter("kind", "shape", "dtype", "sizes", "starts")
    several = isinstance(envs, gym.vector.VectorEnv)
    space = envs.single_observation_space if several else envs.observation_space
    action = envs.single_action_space if several else envs.action_space
    c = agent.config
    theirs = {**select_spaces(space, c.obs_keys, c.text_keys), "action": action}
    for name, space in {**agent.obs_space, "action": agent.action_space}.items():
        read, other = read_action if name == "action" else read_space, theirs.get(name)
        if other is None or form(read(space)) != form(read(other)):
            raise ValueError(
                f"The agent expects an environment with {name!r} as it knows it, "
                f"{space}, but got {other}; use the environment that it learnt in, or "
                "another agent."
            )
