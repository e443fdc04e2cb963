"""Environments in the form that Dreamer Lite trains on, one or several side by side.

Plumbing, nothing of DreamerV3 itself, hence written by hand and not exported from a
notebook. It imports no torch: the workers of parallel environments stay small.
"""

import ast
import contextlib
import functools
import importlib
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
    k of environment i is the same in every run, also in one that was continued. With
    `held_out` it is another one, which no run of any seed trains on.
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
    """The spaces inside nested Dict and Tuple spaces: (name, space, value) of each.

    Names are the keys on the way, joined by a slash.
    """
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        names = space if isinstance(space, gym.spaces.Dict) else range(len(space))
        for key in names:
            if isinstance(value, dict) and key not in value:
                continue  # whoever reads the observation will miss it
            inner = None if value is None else value[key]
            yield from leaves(space[key], inner, f"{name}/{key}".lstrip("/"))
        return
    yield name or "obs", space, value


class DictObservation(gym.Wrapper):
    """Observations as one flat dictionary; rewards as plain numbers.

    A single space is named obs. Nested Dict and Tuple spaces become "a/b" or "0".
    Raises: ValueError for a reset whose observation does not fit its space.
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
        obs, info = self.env.reset(seed=seed, options=options)
        obs = self.observation(obs)
        admit(self.fields, obs)
        return obs, info

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        return self.observation(obs), float(np.asarray(reward).item()), *rest


class UnitActions(gym.ActionWrapper):
    """Let a bounded Box be acted in as [-1, 1]: clip, then rescale to its bounds.

    Whole numbers get equal shares of [-1, 1], the highest one too.
    Raises: ValueError for a Box without finite bounds, of bool, or of whole numbers of
    2**53 and more.
    """

    def __init__(self, env):
        super().__init__(env)
        space = env.action_space
        size = (int(np.prod(space.shape)),)
        self.action_space = gym.spaces.Box(-1.0, 1.0, size, np.float32)
        self.dtype, self.whole = space.dtype, space.dtype.kind in "iu"
        if space.dtype.kind == "b":
            raise ValueError(
                f"Actions are numbers, but the space is {space}; use a Discrete space, "
                "or a Box of whole numbers from 0 to 1."
            )
        self.low, self.high = space.low.astype(float), space.high.astype(float)
        if self.whole and not (np.abs([self.low, self.high]) < 2.0**53).all():
            raise ValueError(
                f"Whole numbers as actions are below 2**53 in size, but the space is "
                f"{space}; beyond it floats skip some, so give it closer bounds."
            )
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
    args, options = (), {}
    while isinstance(make_env, functools.partial):
        args, options = make_env.args + args, make_env.keywords | options
        make_env = make_env.func
    if make_env is gym.make:
        name, *args = args
    else:
        named = make_env if hasattr(make_env, "__qualname__") else type(make_env)
        name = f"{named.__module__}:{named.__qualname__}"
    words = [*map(repr, args), *(f"{key}={options[key]!r}" for key in sorted(options))]
    # Addresses of objects differ from process to process.
    return name + re.sub(r" at 0x\w+", "", f"({', '.join(words)})") * bool(words)


def env_by_name(name):
    """What `env_name` names, as a Gymnasium id or a callable.

    Args:
        name: a Gymnasium id, `module:id` (of a module that registers ids when it is
            imported) or `module:function`, optionally with options in parentheses.

    Raises:
        ValueError: for a name that cannot be read, a missing module or function.
    """
    head, opened, tail = name.partition("(")
    module, _, function = head.rpartition(":")
    try:
        call = ast.parse(f"f({tail}" if opened else "f()", mode="eval").body
        args = [ast.literal_eval(value) for value in call.args]
        options = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        found = module and getattr(importlib.import_module(module), function, None)
    except (SyntaxError, ValueError, ImportError) as error:
        raise ValueError(
            "An environment is a Gymnasium id or module:function, optionally with "
            f"(option=value), but {name!r} cannot be found ({error}); correct it."
        ) from None
    if found:
        return functools.partial(found, *args, **options)
    return functools.partial(gym.make, head, *args, **options) if opened else head


def build_env(make_env, seed=0, index=0, episode=0, held_out=False):
    """One environment: actions in [-1, 1], observations named, resets seeded.

    Args: make_env, a Gymnasium id or a callable; the others, see `SeededEpisodes`.
    Raises: TypeError for anything else, or a callable that returns anything else.
    """
    if isinstance(make_env, str):
        env = gym.make(make_env)
    elif callable(make_env):
        env = make_env()
        if not isinstance(env, gym.Env):
            raise TypeError(
                "make_env is a callable that returns a gymnasium.Env, but got "
                f"{env!r}; return the environment from it."
            )
    else:
        raise TypeError(
            "make_env is a Gymnasium id or a callable that returns an environment, but "
            f"got {make_env!r}; pass for example 'CartPole-v1'."
        )
    if isinstance(env.action_space, gym.spaces.Box):
        env = UnitActions(env)
    env = DictObservation(gym.wrappers.OrderEnforcing(env))
    return SeededEpisodes(env, seed, index, episode, held_out)


class EnvFactory:
    """A picklable `build_env` call, for worker processes started in any way.

    Ctrl-C reaches every process of a terminal; only the one that trains answers it and
    ends its workers, so that none of them breaks off in a step and prints how it died.
    """

    def __init__(self, *args):
        self.args, self.trainer = args, os.getpid()

    def __call__(self):
        if os.getpid() != self.trainer:
            # No SIG_IGN: a program that an environment starts would inherit it.
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which a run catches
        return build_env(*self.args)


def make_vector(
    make_env, num_envs, seed=0, episodes=None, parallel=False, held_out=False
):
    """`num_envs` copies side by side, resetting themselves on the step after the end.

    Args: episodes, the number of the first episode of each; parallel, one process each;
    held_out, episodes that no training run has.
    """
    episodes = [0] * num_envs if episodes is None else episodes
    factories = [
        EnvFactory(make_env, seed, i, k, held_out) for i, k in enumerate(episodes)
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


def alike(one, other):
    """Whether two fields hold the same things; the bounds of numbers may differ."""
    forms = [(f.kind, f.shape, f.dtype, f.sizes) for f in (one, other)]
    same_start = not one.sizes or np.array_equal(one.low, other.low)
    return forms[0] == forms[1] and same_start


def check_fit(agent, envs):
    """Refuse an environment, vector or not, that an agent was not made for.

    Choices must be the same and shapes too; bounds and further observations may differ.
    Raises: ValueError with the name of the space.
    """
    several = isinstance(envs, gym.vector.VectorEnv)
    space = envs.single_observation_space if several else envs.observation_space
    action = envs.single_action_space if several else envs.action_space
    c = agent.config
    theirs = {**select_spaces(space, c.obs_keys, c.text_keys), "action": action}
    mine = {**agent.obs_space, "action": agent.action_space}
    for name, space in mine.items():
        read = read_action if name == "action" else read_space
        other = theirs.get(name)
        if other is None or not alike(read(space), read(other)):
            raise ValueError(
                f"The agent expects an environment with {name!r} as it knows it, "
                f"{space}, but got {other}; use the environment that it learnt in, or "
                "another agent."
            )
