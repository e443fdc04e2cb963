"""Scripted behaviours, and the recording of what they live through.

Hand-written plumbing for notebook 10: `python -m dreamer_lite.mario record` makes the
data of notebooks 03 to 06 with it, and the evaluation compares the agent with these.
A behaviour is a generator of actions for one episode, given random numbers.
"""

import functools

import numpy as np

from dreamer_lite.mario import make_mario


def random_actions(rng, choices=5):
    """Endless behaviour: any action, drawn anew at every step."""
    while True:
        yield int(rng.integers(choices))


def sticky_right(rng):
    """Endless behaviour: mostly to the right and jumping, each choice held a while.

    It suits every action set, for all share the first five actions.
    """
    while True:
        action = int(rng.choice(5, p=[0.05, 0.15, 0.25, 0.2, 0.35]))
        yield from [action] * int(rng.integers(1, 13))


def right_and_jump(rng):
    """Endless behaviour: run and jump. The button must be let go between two jumps."""
    while True:
        yield from [4] * 7 + [3]


def follow(held, rng, leave=True):
    """Endless behaviour: a list of [action, steps], left at a random step.

    With `leave=False` it is followed to its end. Then it goes on as `sticky_right`.
    """
    actions = [action for action, steps in held for _ in range(steps)]
    yield from actions[: rng.integers(len(actions) * 4 // 3) if leave else None]
    yield from sticky_right(rng)


class Scripted:
    """A policy for `dreamer.Collector`: a behaviour, begun anew with every episode."""

    def __init__(self, behaviour, seed=0):
        self.behaviour, self.rng = behaviour, np.random.default_rng(seed)
        self.running = {}

    def __call__(self, obs, is_first):
        for env in np.flatnonzero(is_first):
            self.running[env] = self.behaviour(self.rng)
        return np.array([next(self.running[env]) for env in range(len(is_first))])


def record(path, policies, rows, seed=0, **options):
    """Let each policy play `rows` rows of experience; save them as a `Replay`.

    Args: path, of the file; policies, one for each stream of the replay; options, for
    `make_mario`. Returns: the finished episodes, {"env", "return", "length", "x_pos",
    "flag_get", "dead"}; "env" is the number of the policy.
    """
    from dreamer_lite.dreamer import Collector
    from dreamer_lite.envs import make_vector
    from dreamer_lite.replay import Replay

    def act(obs, first):
        parts = [slice(i, i + 1) for i in range(len(policies))]
        views = [({k: v[one] for k, v in obs.items()}, first[one]) for one in parts]
        return np.concatenate(
            [p(*view) for p, view in zip(policies, views, strict=True)]
        )

    envs = make_vector(functools.partial(make_mario, **options), len(policies), seed)
    spaces = envs.single_observation_space, envs.single_action_space
    replay = Replay(rows * len(policies), *spaces, len(policies), seed)
    collector = Collector(envs, replay, track=("x_pos", "flag_get", "dead"))
    episodes = [episode for _ in range(rows) for episode in collector.tick(act)]
    envs.close()
    replay.save(path, compress=True)
    return episodes
