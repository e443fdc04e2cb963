"""Environments by name, and several side by side."""

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from dreamer_lite.envs import (
    build_env,
    build_worker,
    env_by_name,
    env_name,
    make_vector,
)
from dreamer_lite.mario import make_mario


class Callable:
    def __call__(self):
        return gym.make("CartPole-v1")


@pytest.mark.parametrize(
    "make_env, name",
    [
        ("CartPole-v1", "CartPole-v1"),
        (make_mario, "dreamer_lite.mario:make_mario"),
        (
            functools.partial(functools.partial(make_mario, noops=3), 2, sticky=0.25),
            "dreamer_lite.mario:make_mario(2, noops=3, sticky=0.25)",
        ),
        (
            functools.partial(gym.make, "CartPole-v1", render_mode="rgb_array"),
            "CartPole-v1(render_mode='rgb_array')",
        ),
        (Callable(), "test_envs:Callable"),
    ],
)
def test_an_environment_has_one_name(make_env, name):
    assert env_name(make_env) == name


def test_objects_among_the_options_have_the_same_name_in_every_process():
    one, two = (functools.partial(make_mario, noops=object()) for _ in range(2))
    assert env_name(one) == env_name(two)


@pytest.mark.parametrize(
    "name",
    [
        "CartPole-v1",
        "CartPole-v1(render_mode='rgb_array')",
        "gymnasium.envs.classic_control.cartpole:CartPoleEnv(render_mode='rgb_array')",
        "gymnasium:CartPole-v1",  # imports the module, which registers the id
    ],
)
def test_a_name_gives_the_environment_back(name):
    made = env_by_name(name)
    assert env_name(made) == name
    env = build_env(made)
    assert isinstance(env.unwrapped, gym.envs.classic_control.CartPoleEnv)
    assert env.render_mode == ("rgb_array" if "render_mode" in name else None)
    env.close()


def test_further_options_win():
    made = env_by_name("test_envs:make(size=1, more=2)", size=3)
    assert env_name(made) == "test_envs:make(more=2, size=3)"


def make(**options):
    """An environment with options."""


@pytest.mark.parametrize("name", ["none:make", "os:f(", "CartPole-v1(a=b)", "Pole-v9"])
def test_a_name_that_cannot_be_read_is_named(name):
    with pytest.raises(ValueError, match="Gymnasium id or module:function.*correct it"):
        env_by_name(name)


# Several environments


def test_episodes_are_seeded_one_by_one():
    """Episode k of environment i is the same in every run, also in one continued."""

    def first_frames(episodes):
        vector = make_vector("CartPole-v1", 2, seed=5, episodes=episodes)
        obs, _ = vector.reset()
        vector.close()
        return obs["obs"]

    env = build_env("CartPole-v1", 5, 1)
    frames = [env.reset()[0]["obs"] for _ in range(3)]
    assert np.array_equal(first_frames([0, 2])[1], frames[2])
    assert not np.array_equal(*first_frames([0, 0]))
    env.close()


STARTS = {"spawn", "forkserver"} & set(multiprocessing.get_all_start_methods())


@pytest.mark.parametrize("context", sorted(STARTS))
def test_environments_travel_to_new_processes(context):
    """macOS and Windows start workers afresh: what makes the environment is pickled."""
    make = functools.partial(build_worker, os.getpid(), "CartPole-v1", 0)
    factories = [functools.partial(make, i) for i in range(2)]
    vector = gym.vector.AsyncVectorEnv(factories, context=context)
    obs, _ = vector.reset()
    vector.close()
    here = make_vector("CartPole-v1", 2)
    assert np.array_equal(obs["obs"], here.reset()[0]["obs"])
    here.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_the_keyboard_does_not_reach_the_workers():
    """Ctrl-C goes to every process of a terminal; only the one that trains answers."""
    before = signal.getsignal(signal.SIGINT)
    vector = make_vector("CartPole-v1", 2, parallel=True)
    vector.reset(seed=0)
    for worker in vector.processes:
        os.kill(worker.pid, signal.SIGINT)
    try:
        for _ in range(5):
            vector.step(np.zeros(2, int))
    except KeyboardInterrupt:  # which would stop the tests, too
        pytest.fail("a worker was interrupted")
    assert all(worker.is_alive() for worker in vector.processes)
    vector.close()
    assert signal.getsignal(signal.SIGINT) is before


UNEVEN = """
import os, time, gymnasium as gym, numpy as np
from dreamer_lite.dreamer import evaluate

class Uneven(gym.Wrapper):
    def reset(self, *, seed=None, options=None):
        self.slow = seed % 2  # seed 5 makes the second environment slow
        os.write(1, f"{os.getpid()}\\n".encode())  # a print may be cut by another one
        return super().reset(seed=seed, options=options)

    def step(self, action):
        time.sleep(60 * self.slow)
        return super().step(action)

def policy(obs, is_first):
    print("acts", flush=True)
    return np.zeros(len(is_first), int)

if __name__ == "__main__":
    make_env = lambda: Uneven(gym.make("CartPole-v1"))
    evaluate(policy, make_env, 2, 2, seed=5, parallel=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_the_keyboard_ends_a_parallel_evaluation_at_once(tmp_path):
    """Also while one worker has answered and another has not: none is waited for."""
    script = tmp_path / "uneven.py"
    script.write_text(UNEVEN)
    process = subprocess.Popen(
        [sys.executable, script], cwd=Path(__file__).parents[1], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    try:
        workers = {int(process.stdout.readline()) for _ in range(2)}
        assert len(workers) == 2 and process.pid not in workers
        assert process.stdout.readline() == "acts\n"
        time.sleep(1.0)  # the first worker has answered by now
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=40)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert said.splitlines()[-1] == "KeyboardInterrupt" and "Worker" not in said


def test_workers_load_no_torch():
    code = "import sys, dreamer_lite.envs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
