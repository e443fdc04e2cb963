"""The small car world: CarRacing-v3 behind a wrapper of our own."""

import sys

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("Box2D")
from course.driving import make_car
from dreamer_lite.envs import build_env

STRAIGHT = np.array([0.0, 0.4, 0.0])


@pytest.fixture
def env():
    env = make_car()
    yield env
    env.close()


def test_a_decision_is_four_frames_of_the_real_game(env):
    """Rewards are summed, and what is not drawn changes nothing that is seen."""
    real = gym.make("CarRacing-v3")
    first, _ = env.reset(seed=3)
    screen, _ = real.reset(seed=3)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    for _ in range(20):
        small, reward, *_ = env.step(STRAIGHT)
        frames = [real.step(STRAIGHT) for _ in range(4)]
        assert reward == pytest.approx(sum(frame[1] for frame in frames))
        assert np.array_equal(env.unwrapped.state, frames[-1][0])
        assert np.array_equal(small, env._look(frames[-1][0]))
    real.close()


def test_the_indicators_are_not_seen(env):
    obs, _ = env.reset(seed=0)
    black = (obs == 0).all(-1)
    assert not black[-1].all() and env.observation_space.contains(obs)


@pytest.mark.parametrize("raw, real", [(-1, (-1, 0, 0)), (0, (0, 0.5, 0.5)), (3, 1)])
def test_actions_reach_the_pedals_in_their_own_bounds(raw, real):
    env, seen = build_env(make_car), []
    env.reset()
    car = env.unwrapped.car
    car.steer, car.gas = (lambda x: seen.append(-x)), seen.append
    car.brake = seen.append
    env.step(np.full(3, raw, np.float32))
    assert seen[:3] == pytest.approx(np.broadcast_to(real, 3))
    env.close()


def test_an_episode_lasts_250_decisions_and_patience_shortens_it():
    lengths = []
    for patience in (None, 10):
        env = make_car(patience=patience)
        env.reset(seed=0)
        steps, ended, cut = 0, False, False
        while not (ended or cut):
            *_, ended, cut, _ = env.step(np.zeros(3))  # the car stands
            steps += 1
        lengths.append(steps)
        assert cut and not ended
        env.close()
    assert lengths[0] == 250 and lengths[1] < 30


def test_without_box2d_one_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ValueError, match="pip install box2d"):
        make_car()
