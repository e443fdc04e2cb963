"""Environments by name."""

import functools

import gymnasium as gym
import pytest

from dreamer_lite.envs import build_env, env_by_name, env_name
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
    if name.startswith("gymnasium:"):
        assert made == name
    else:
        assert env_name(made).removesuffix("()") == name
    env = build_env(made)
    assert isinstance(env.unwrapped, gym.envs.classic_control.CartPoleEnv)
    assert env.render_mode == ("rgb_array" if "render_mode" in name else None)
    env.close()


@pytest.mark.parametrize("name", ["none:make", "os:f(", "CartPole-v1(a=b)"])
def test_a_name_that_cannot_be_read_is_named(name):
    with pytest.raises(ValueError, match="Gymnasium id or module:function.*correct it"):
        env_by_name(name)
