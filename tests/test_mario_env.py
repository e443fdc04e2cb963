"""The Mario environment, on whichever emulator generation this Python has.

Needs no torch: `test_other_generation` runs this very file on Python 3.13.
"""

import functools
import hashlib
import json
import os
import shutil
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


def test_checker_accepts_it_without_a_warning():
    spec = EnvSpec("DreamerLiteMario-v0", entry_point=make_mario)
    env = gym.make(spec, render_mode="rgb_array", disable_env_checker=True).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped:UserWarning")
def test_checker_accepts_it_with_every_option(make):
    env = make(actions="SIMPLE_MOVEMENT", grayscale=True, noops=30, sticky=0.25)
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("size", [64, 48])
def test_observation_is_the_screen_without_score_board(make, size):
    env = make(render_mode="rgb_array", size=size)
    for obs, *_ in play(env, [WALK] * 12)[::4]:
        assert obs.shape == (size, size, 3) and obs.dtype == np.uint8
        assert env.observation_space.contains(obs)
    screen = env.render()
    assert screen.shape == (240, 256, 3)
    expected = area_average(screen[32:], size)
    assert np.abs(play(env, [WALK] * 12)[-1][0] - expected).max() <= 0.501
    score = area_average(screen[:32], size)
    assert np.abs(obs[:8] - score[:8]).max() > 50  # the score board looks different


def test_observation_is_in_colour_and_mario_can_be_told_from_the_sky(make):
    env = make()
    red_at_mario = []
    for obs, _, _, _, info in play(env, known_run()[:250]):
        row, column = info["mario_pixel"]
        patch = obs[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        red_at_mario.append((patch[..., 0] - patch[..., 1].astype(int)).max())
    sky = obs[10, 32].astype(int)
    assert sky[2] > sky[0] + 100
    assert min(red_at_mario) >= 60


def test_walking_right_earns_its_pixels(make):
    env = make()
    _, info = env.reset()
    x = info["x_pos"]
    for action in [NOOP] * 3 + [WALK] * 20:
        _, reward, _, _, info = env.step(action)
        assert reward == pytest.approx((info["x_pos"] - x) / 16 - 0.02)
        x = info["x_pos"]
    assert x > 80 and reward > 0.2


def test_walking_left_costs_what_right_had_earned(make):
    env = make(actions="SIMPLE_MOVEMENT")
    left = env.action_names.index(["left"])
    steps = play(env, [WALK] * 30 + [NOOP] * 10 + [left] * 25)
    moved = steps[-1][4]["x_pos"] - 40
    assert min(step[1] for step in steps) < -0.2
    assert sum(step[1] for step in steps) == pytest.approx(moved / 16 - 0.02 * 65)


def test_first_goomba_kills(make):
    env = make()
    steps = play(env, [WALK] * 100)
    _, reward, terminated, truncated, info = steps[-1]
    assert terminated is True and truncated is False and len(steps) < 100
    assert info["dead"] and not info["flag_get"] and not info["stuck"]
    assert 290 < info["x_pos"] < 330
    progress = info["x_pos"] - steps[-2][4]["x_pos"]
    assert reward == pytest.approx(progress / 16 - 0.02 - 2)
    with pytest.raises(ValueError, match="reset"):
        env.step(WALK)


def test_first_pit_kills_at_the_bottom_of_the_picture(make):
    steps = play(make(), known_run()[:100] + [WALK] * 60)
    _, reward, terminated, _, info = steps[-1]
    assert terminated and info["dead"]
    assert 1100 < info["x_pos"] < 1150 and info["mario_pixel"][0] == 63
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


def test_progress_resets_the_patience(make):
    env = make(patience=10)
    assert len(play(env, [NOOP] * 8 + [WALK] * 4 + [NOOP] * 99)) > 20
    assert len(play(env, [NOOP] * 99)) == 10
    with pytest.raises(ValueError, match="reset"):  # the end holds, though Mario lives
        env.step(NOOP)


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
        expected = 0.0
        for _ in range(4):
            if not nes.done:
                expected += nes.step(env.buttons[WALK])[1]
        assert reward == expected == info["emulator_reward"]
        assert terminated == nes.done
    assert reward < -5
    nes.close()


def test_without_noops_and_stickiness_the_game_is_deterministic(make):
    runs = [play(make(), known_run()[:60], seed) for seed in (1, 2)]
    for one, two in zip(*runs, strict=True):
        assert np.array_equal(one[0], two[0]) and one[1] == two[1]


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


def test_sticky_repeats_what_was_done_in_a_quarter_of_the_steps(make):
    env = make(sticky=0.25)
    obs, _ = env.reset(seed=0)
    sent, done = [i % 5 for i in range(2000)], []
    env.unwrapped.step = lambda action: (
        done.append(action) or (obs, 0.0, False, False, {})
    )
    for action in sent:
        env.step(action)
    repeated = [now != want for now, want in zip(done, sent, strict=True)]
    assert not repeated[0] and 0.22 < np.mean(repeated) < 0.28
    for i in np.flatnonzero(repeated):
        assert done[i] == done[i - 1]
    env.reset(seed=1)
    env.step(3)
    assert done[-1] == 3  # nothing is carried over from the episode before


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
    env = make(max_frames=True, render_mode="rgb_array", skip=4)
    obs = play(env, [WALK] * 20)[-1][0]
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
    env = make()
    info = play(env, [WALK] * 5)[-1][4]
    kinds = {"x_pos": int, "y_pos": int, "time": int, "flag_get": bool, "dead": bool}
    kinds |= {"stuck": bool, "mario_pixel": np.ndarray, "emulator_reward": float}
    assert {name: type(value) for name, value in info.items()} == kinds
    assert info["time"] in (399, 400)


def test_reset_restores_and_does_not_replay_the_title_screen(make):
    env = make()
    first, _ = env.reset()
    play(env, [WALK] * 100)

    def refuse(*_):
        raise AssertionError("the title screen was replayed")

    env.nes._skip_start_screen = env.nes._frame_advance = refuse
    again, info = env.reset()
    assert np.array_equal(first, again) and info["x_pos"] == 40


def test_rendering(make):
    env = make(render_mode="rgb_array")
    env.reset()
    before = env.render()
    kept = before.copy()
    play(env, [WALK] * 20)
    assert np.array_equal(before, kept) and not np.array_equal(before, env.render())
    assert env.metadata["render_fps"] == 15
    silent = make()
    silent.reset()
    assert silent.render() is None


def test_human_rendering_shows_every_frame(make):
    env = make(render_mode="human")
    shown = []
    env.nes.render = lambda: shown.append(1)
    play(env, [WALK] * 3)
    assert len(shown) == 12


def test_closing_twice_is_harmless():
    env = make_mario()
    env.close()
    env.close()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"world": 9}, "world: 1 to 8, but got 9"),
        ({"stage": 0}, "stage: 1 to 4, but got 0"),
        ({"world": "1"}, "world: 1 to 8, but got '1'"),
        ({"stage": 1.5}, "stage: 1 to 4, but got 1.5"),
        ({"actions": "LEFT"}, "actions: one of .*RIGHT_ONLY.* but got 'LEFT'"),
        ({"reward": "score"}, "reward: one of .*unshaped.* but got 'score'"),
        ({"size": 60}, "size: a multiple of 16 up to 208, but got 60"),
        ({"skip": 0}, "skip: 1 to 60, but got 0"),
        ({"noops": -1}, "noops: 0 to 1000, but got -1"),
        ({"sticky": 1.0}, "sticky: a probability below 1, but got 1.0"),
        ({"patience": None}, "patience: 1 to 100000, but got None"),
        ({"render_mode": "ansi"}, "render_mode: one of .*human.* but got 'ansi'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        make_mario(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("action", [5, -1, 1.5, np.array([1]), None])
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


def test_two_processes_reset_on_the_step_after_the_end():
    factories = [functools.partial(make_mario, skip=4, patience=n) for n in (6, 50)]
    envs = gym.vector.AsyncVectorEnv(
        factories, context="spawn", autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP
    )
    first, _ = envs.reset(seed=0)
    for step in range(1, 8):
        obs, reward, terminated, _, info = envs.step(np.array([NOOP, WALK]))
        assert terminated.tolist() == [step == 6, False]
        assert info["x_pos"][1] >= 40 and info["mario_pixel"].shape == (2, 2)
    # The seventh step ignored the action of the first environment and began anew.
    assert np.array_equal(obs[0], first[0]) and reward[0] == 0
    assert not np.array_equal(obs[1], first[1]) and reward[1] > 0
    envs.close()


def run_python(code, *flags):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_worker_never_imports_torch_and_says_nothing():
    code = (
        "import sys; from dreamer_lite.mario import make_mario\n"
        "env = make_mario(noops=3, sticky=0.25, grayscale=True); env.reset(seed=0)\n"
        "env.step(1); env.close(); print('torch' in sys.modules)"
    )
    done = run_python(code, "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def find_python_3_13():
    """A Python with the other generation of the emulator: 3.13, on PATH or in pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(pyenv.glob("versions/3.13.*/bin/python3.13"))
    for python in [*found, shutil.which("python3.13")]:
        test = [python, "-c", "import venv, ensurepip"]
        if python and subprocess.run(test, capture_output=True).returncode == 0:
            return python
    return None


def venv_with_emulator(python, root=ROOT):
    """A virtual environment without torch, kept in build/ until versions change."""
    folder = root / "build" / "mario-python-3.13"
    inside = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / "ready"
    exact = root / "constraints.txt"
    versions = hashlib.sha256(exact.read_bytes()).hexdigest()
    if not ready.exists() or ready.read_text() != versions:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        needs = ["gymnasium", "numpy", "gym-super-mario-bros>=9", "nes-py>=9", "pytest"]
        pip = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", exact, *needs], check=True)
        ready.write_text(versions)
    return inside


def test_the_other_environment_is_built_anew_for_other_versions(tmp_path, monkeypatch):
    built = []

    def build(command, **options):
        if "venv" in command:
            built.append(command)
            command[-1].mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(subprocess, "run", build)
    for versions, count in [("numpy==1\n", 1), ("numpy==1\n", 1), ("numpy==2\n", 2)]:
        (tmp_path / "constraints.txt").write_text(versions)
        inside = venv_with_emulator("python3.13", tmp_path)
        assert len(built) == count and tmp_path in inside.parents


def test_other_generation_passes_the_same_tests():
    native = issubclass(emulator.load_emulator()[0], gym.Env)
    assert native == (sys.version_info >= (3, 13))
    if native:
        return  # this very run tested the generation with wheels
    python = find_python_3_13()
    if python is None:  # no skip: with CI set, those fail a run
        warnings.warn(
            "No Python 3.13 found: the newer emulator was not tested.", stacklevel=1
        )
        return
    inside = venv_with_emulator(python)
    command = [inside, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-W", "error", __file__],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout


def test_without_the_other_python_a_run_passes_with_a_warning(monkeypatch):
    if sys.version_info >= (3, 13):
        return  # which needs no other Python
    monkeypatch.setitem(globals(), "find_python_3_13", lambda: None)
    with pytest.warns(UserWarning, match="newer emulator was not tested"):
        test_other_generation_passes_the_same_tests()
