"""The Mario environment, on whichever emulator generation this Python has.

Needs no torch: CI runs this file on Python 3.13, too, with the other generation.
"""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from dreamer_lite import emulator
from dreamer_lite.mario import make_mario

ROOT = Path(__file__).parents[1]
NOOP, WALK = 0, 1


@pytest.fixture
def make():
    """make_mario, closing what it made."""
    made = []

    def build(**options):
        made.append(make_mario(**options))
        return made[-1]

    yield build
    for env in made:
        env.close()


def known_run():
    held = json.loads((ROOT / "data/mario_1_1_actions.json").read_text())["runs"]
    return [action for action, steps in held for _ in range(steps)]


def play(env, actions, seed=None):
    """All steps (obs, reward, terminated, truncated, info) until the end of either."""
    env.reset(seed=seed)
    steps = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2]:
            break
    return steps


def area_average(picture, size):
    """Mean over each target's area, by way of a picture that both sizes divide."""
    rows, columns, channels = picture.shape
    tall = picture.astype(float).repeat(size, 0).reshape(size, rows, columns, channels)
    wide = tall.mean(1).repeat(size, 1).reshape(size, size, columns, channels)
    return wide.mean(2)


def test_the_generation_fits_the_python():
    native = issubclass(emulator.load_emulator()[0], gym.Env)
    assert native == (sys.version_info >= (3, 13))


def test_gymnasiums_checker_accepts_it_without_a_warning():
    spec = EnvSpec("DreamerLiteMario-v0", entry_point=make_mario)
    env = gym.make(spec, render_mode="rgb_array", disable_env_checker=True).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()


@pytest.mark.parametrize("size", [64, 48])
def test_observation_is_the_screen_without_score_board(make, size):
    env = make(render_mode="rgb_array", size=size)
    obs = play(env, [WALK] * 12)[-1][0]
    assert obs.shape == (size, size, 3) and env.observation_space.contains(obs)
    screen = env.render()
    assert screen.shape == (240, 256, 3) and env.metadata["render_fps"] == 15
    assert np.abs(obs - area_average(screen[32:], size)).max() <= 0.501
    play(env, [WALK] * 20)
    assert not np.array_equal(screen, env.render())  # the first one was a copy


def test_mario_is_where_info_says_and_can_be_told_from_the_sky(make):
    red_at_mario = []
    for obs, _, _, _, info in play(make(), known_run()[:250]):
        row, column = info["mario_pixel"]
        patch = obs[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        red_at_mario.append((patch[..., 0] - patch[..., 1].astype(int)).max())
    assert min(red_at_mario) >= 60


def test_walking_right_earns_its_pixels(make):
    env = make()
    x = env.reset()[1]["x_pos"]
    for action in [NOOP] * 3 + [WALK] * 20:
        _, reward, _, _, info = env.step(action)
        assert reward == pytest.approx((info["x_pos"] - x) / 16 - 0.02)
        x = info["x_pos"]
    assert x > 80 and reward > 0.2


@pytest.mark.parametrize(
    "actions, place",
    [
        ([WALK] * 100, (290, 330)),  # the first Goomba
        (known_run()[:100] + [WALK] * 60, (1100, 1150)),  # the first pit
    ],
)
def test_death_ends_the_episode_and_costs_2(make, actions, place):
    env = make()
    steps = play(env, actions)
    _, reward, terminated, truncated, info = steps[-1]
    assert terminated is True and truncated is False and len(steps) < len(actions)
    assert info["dead"] and not info["flag_get"] and not info["stuck"]
    assert place[0] < info["x_pos"] < place[1]
    progress = info["x_pos"] - steps[-2][4]["x_pos"]
    assert reward == pytest.approx(progress / 16 - 0.02 - 2)


def test_known_run_reaches_the_flag_with_the_same_frames_everywhere(make):
    steps = play(make(), known_run())
    _, reward, terminated, _, info = steps[-1]
    assert terminated and info["flag_get"] and not info["dead"]
    assert info["x_pos"] == 3161 and 4.9 < reward < 6
    assert sum(step[1] for step in steps) == pytest.approx(192.0025)
    frames = hashlib.sha256(b"".join(step[0].tobytes() for step in steps)).hexdigest()
    assert frames[:16] == "4a1ecae44ee5312a"


def test_stuck_after_exactly_120_steps_without_progress(make):
    steps = play(make(), [NOOP] * 200)
    assert len(steps) == 120
    assert [step[1] for step in steps[:-1]] == pytest.approx([-0.02] * 119)
    _, reward, terminated, truncated, info = steps[-1]
    assert terminated and not truncated and info["stuck"] and not info["dead"]
    assert reward == pytest.approx(-2.02)
    progress = [NOOP] * 8 + [WALK] * 4 + [NOOP] * 99
    assert len(play(make(patience=10), progress)) > 20  # progress begins it anew


def test_pipe_is_no_progress(make):
    env = make()
    env.reset()
    env.x, env.best, env.idle = 900, 900, 7
    emulator_of_env, env.nes = env.nes, SimpleNamespace(_x_position=2600)
    assert env._progress() == 0 and (env.x, env.best, env.idle) == (2600, 2600, 8)
    env.nes._x_position = 2608
    assert env._progress() == 8 and env.idle == 0
    env.nes = emulator_of_env


def test_unshaped_reward_is_the_emulators_own(make):
    env = make(reward="unshaped")
    steps = play(env, [WALK] * 100)
    nes = emulator.load_emulator()[0](target=(1, 1))
    nes.reset()
    for _, reward, terminated, _, info in steps:
        frames = [nes.step(env.buttons[WALK])[1] for _ in range(4) if not nes.done]
        assert reward == sum(frames) == info["emulator_reward"]
        assert terminated == nes.done
    assert reward < -5
    nes.close()


def test_seed_decides_noops_and_sticky_actions(make):
    env, other = make(noops=30, sticky=0.25), make(noops=30, sticky=0.25)

    def life(env, seed):
        steps = play(env, known_run()[:80], seed)
        return b"".join(step[0].tobytes() for step in steps)

    assert life(env, 5) == life(other, 5) == life(env, 5)
    assert life(env, 5) != life(env, 6)


def test_noop_starts_cover_0_to_30_frames(make):
    env = make(noops=30)
    frames, step = [], env.nes.step
    env.nes.step = lambda buttons: (frames.append(buttons), step(buttons))[1]
    counts = []
    for seed in range(60):
        frames.clear()
        env.reset(seed=seed)
        assert set(frames) <= {0}
        counts.append(len(frames))
    assert min(counts) <= 2 and 28 <= max(counts) <= 30 and len(set(counts)) > 15


def test_sticky_repeats_a_quarter_of_the_actions(make):
    env = make(sticky=0.25)
    obs, _ = env.reset(seed=0)
    done, result = [], (obs, 0.0, False, False, {})
    env.unwrapped.step = lambda action: done.append(action) or result
    for i in range(2000):
        env.step(i % 5)
    assert 0.22 < np.mean([now != i % 5 for i, now in enumerate(done)]) < 0.28


@pytest.mark.parametrize("share, low, high", [(1.0, 60, 60), (0.3, 8, 28)])
def test_a_share_of_the_episodes_is_sticky(make, share, low, high):
    """And `info` says which: in them alone another action than ours is carried out."""
    env, done = make(sticky=0.5, sticky_share=share), []
    step = env.unwrapped.step
    env.unwrapped.step = lambda action: (done.append(action), step(action))[1]
    found, changed = [], []
    for seed in range(60):
        _, info = env.reset(seed=seed)
        done.clear()
        infos = [env.step(i % 2)[4] for i in range(8)]
        assert {i["sticky"] for i in infos} == {info["sticky"]}
        changed.append(done != [0, 1] * 4)
        assert info["sticky"] or not changed[-1]
        found.append(info["sticky"])
    assert low <= sum(found) <= high and sum(changed) > 0.8 * sum(found)


@pytest.mark.parametrize(
    "name, choices",
    [("RIGHT_ONLY", 5), ("SIMPLE_MOVEMENT", 7), ("COMPLEX_MOVEMENT", 12)],
)
def test_action_sets(make, name, choices):
    env = make(actions=name)
    assert env.action_space == gym.spaces.Discrete(choices)
    assert env.action_names[:3] == [["NOOP"], ["right"], ["right", "A"]]
    assert env.buttons[:5] == [0, 128, 129, 130, 131]


def test_grayscale_has_one_channel_of_the_same_picture(make):
    colour = play(make(), [WALK] * 20)[-1][0]
    gray = play(make(grayscale=True), [WALK] * 20)[-1][0]
    assert gray.shape == (64, 64, 1) and gray.dtype == np.uint8
    assert np.abs(gray[..., 0] - colour @ [0.2125, 0.7154, 0.0721]).max() <= 1.001


def test_max_frames_takes_the_maximum_of_the_last_two(make):
    obs = play(make(max_frames=True), [WALK] * 20)[-1][0]
    single = make(skip=1, render_mode="rgb_array")
    single.reset()
    screens = []
    for _ in range(80):
        single.step(WALK)
        screens.append(single.render()[32:])
    expected = area_average(np.maximum(screens[-2], screens[-1]), 64)
    assert np.abs(obs - expected).max() <= 0.501
    assert np.abs(obs - area_average(screens[-1], 64)).max() > 2


def test_info_names_and_types(make):
    info = play(make(), [WALK] * 5)[-1][4]
    kinds = {"x_pos": int, "y_pos": int, "time": int, "flag_get": bool, "dead": bool}
    kinds |= {
        "stuck": bool,
        "sticky": bool,
        "mario_pixel": np.ndarray,
        "emulator_reward": float,
    }
    assert {name: type(value) for name, value in info.items()} == kinds
    assert info["time"] in (399, 400)


def test_reset_restores_and_does_not_replay_the_title_screen(make):
    env = make()
    first, _ = env.reset()
    play(env, [WALK] * 100)
    # Without these the title screen cannot be passed.
    env.nes._skip_start_screen = env.nes._frame_advance = None
    again, info = env.reset()
    assert np.array_equal(first, again) and info["x_pos"] == 40


def test_a_window_shows_every_frame(make):
    env = make(render_mode="human")
    shown = []
    env.nes.render = lambda: shown.append(1)
    play(env, [WALK] * 3)
    assert len(shown) == 12 and env.render() is None


# Mistakes


def test_a_window_without_a_display_is_refused(make, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    env = make(render_mode="human")
    env.reset()
    with pytest.raises(ValueError, match="DISPLAY is not set; use rgb_array"):
        env.step(NOOP)


@pytest.mark.parametrize("options", [{}, {"sticky": 0.25}, {"grayscale": True}])
def test_steps_outside_of_an_episode_are_refused(options):
    env = make_mario(**options, patience=3)
    with pytest.raises(ValueError, match="running episode, .*; call reset first"):
        env.step(NOOP)
    play(env, [NOOP] * 3)
    with pytest.raises(ValueError, match="running episode"):
        env.step(NOOP)  # the end holds, though Mario lives
    env.reset()
    env.close()
    env.close()  # twice is harmless
    with pytest.raises(ValueError, match="running episode"):
        env.step(NOOP)
    with pytest.raises(ValueError, match="was closed; make another one"):
        env.reset()
    assert env.render() is None


@pytest.mark.parametrize(
    "options, words",
    [
        ({"world": 9}, r"world in range\(1, 9\), but got 9"),
        ({"stage": 1.5}, "stage in .* but got 1.5"),
        ({"actions": "LEFT"}, "actions in .*RIGHT_ONLY.* but got 'LEFT'"),
        ({"size": 60}, r"size in range\(16, 209, 16\), but got 60"),
        ({"sticky": 1.0}, "sticky in 0 to below 1 .* but got 1.0 and 1.0"),
        ({"sticky_share": 2}, "sticky_share in 0 to 1, but got 0.0 and 2"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make_mario(**options)


@pytest.mark.parametrize("action", [5, -1, 1.5, None])
def test_bad_actions_are_refused(make, action):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match="expects an action in Discrete"):
        env.step(action)


def test_missing_emulator_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gym_super_mario_bros", None)
    emulator.load_emulator.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError, match="pip install gym-super-mario"):
            make_mario()
    finally:
        emulator.load_emulator.cache_clear()


def test_a_worker_never_imports_torch_and_says_nothing():
    code = (
        "import sys; from dreamer_lite.mario import make_mario\n"
        "env = make_mario(noops=3, sticky=0.25, grayscale=True); env.reset(seed=0)\n"
        "env.step(1); env.close(); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
