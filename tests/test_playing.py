"""Scripted players, recordings, played episodes and dreams, on the real game."""

import functools
import itertools
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from small import TINY

from dreamer_lite import playing
from dreamer_lite.config import Config
from dreamer_lite.dreamer import Dreamer
from dreamer_lite.mario import make_mario
from dreamer_lite.playing import (
    GAP,
    Scripted,
    beside,
    dream_beside,
    follow,
    play_episode,
    record,
    sticky_right,
)
from dreamer_lite.replay import Replay

WALK = functools.partial(Scripted, lambda rng: itertools.repeat(1))


def take(actions, count):
    return list(itertools.islice(actions, count))


def test_sticky_right_mostly_goes_right_and_holds_its_choice():
    actions = np.array(take(sticky_right(np.random.default_rng(0)), 3000))
    assert np.bincount(actions, minlength=5).min() > 50
    assert (actions > 0).mean() > 0.9
    assert 4 < len(actions) / np.count_nonzero(np.diff(actions)) < 10


def test_follow_keeps_to_its_list_and_leaves_it_somewhere():
    held = [[2, 10], [1, 20], [0, 10]]
    actions = [2] * 10 + [1] * 20 + [0] * 10
    whole = follow(np.random.default_rng(0), held, leave=False)
    assert take(whole, 40) == actions
    assert sum(take(whole, 100)) > 100  # then it continues to the right
    kept = []
    for seed in range(40):
        played = take(follow(np.random.default_rng(seed), held), 40)
        same = [a == b for a, b in zip(played, actions, strict=True)] + [False]
        kept.append(same.index(False))
    assert min(kept) < 10 and max(kept) == 40 and len(set(kept)) > 10


def test_scripted_policy_begins_anew_where_an_episode_begins():
    policy = Scripted(lambda rng: itertools.count())
    firsts = [(True, True), (False, False), (False, True), (False, False)]
    played = [policy({}, np.array(first)).tolist() for first in firsts]
    assert played == [[0, 0], [1, 1], [2, 0], [3, 1]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two streams of 120 rows: walking into the first Goomba, and a random player."""
    path = tmp_path_factory.mktemp("recorded") / "mario.npz"
    ends = record(path, make_mario, [WALK(), "random"], 120, 3, ("x_pos", "dead"))
    return path, ends


def test_record_reports_the_episodes_that_ended(recorded):
    path, episodes = recorded
    walked = [episode for episode in episodes if episode["env"] == 0]
    assert len(walked) == 2 and walked[0]["dead"] == 1
    assert 290 < walked[0]["x_pos"] < 330 and walked[0]["length"] < 60
    ends = np.flatnonzero(Replay.load(path).data["is_last"][0])
    assert ends.tolist() == [walked[0]["length"], 2 * walked[0]["length"] + 1]


def test_an_agent_is_recorded_by_the_seed(agent, tmp_path):
    agent.save(tmp_path / "agent.safetensors")
    players, columns = [tmp_path / "agent.safetensors"], []
    for name, seed in {"one": 1, "same": 1, "other": 2}.items():
        torch.rand(1)  # what was drawn before does not matter
        record(tmp_path / f"{name}.npz", make_mario, players, 30, seed)
        columns.append(Replay.load(tmp_path / f"{name}.npz").data["action"])
    one, same, other = columns
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_recorded_rows_are_what_the_game_shows_when_played_again(recorded):
    data = Replay.load(recorded[0]).data
    env = make_mario()
    for stream in range(2):
        for row in range(119):
            now = {key: column[stream, row] for key, column in data.items()}
            if now["is_first"]:
                obs, reward, terminated = env.reset()[0], 0.0, False
            assert np.array_equal(now["obs"], obs)
            assert now["reward"] == np.float32(reward)
            assert now["is_last"] == now["is_terminal"] == terminated
            if terminated:
                assert not now["action"].any()
            else:
                obs, reward, terminated, _, _ = env.step(int(now["action"].argmax()))
    env.close()


SMALL = Config(**TINY)


@pytest.fixture(scope="module")
def agent():
    """An agent that knows nothing yet."""
    env = make_mario()
    torch.manual_seed(0)
    yield Dreamer(env.observation_space, env.action_space, SMALL)
    env.close()


def test_an_episode_is_stored_as_the_replay_would_store_it(agent):
    played = play_episode(agent, make_mario, seed=3, max_steps=25)
    rows = played.rows
    assert len(rows["obs"]) == 26 == len(played.screens) and played.fps == 15
    assert rows["is_first"].tolist() == [True] + [False] * 25
    assert rows["is_last"].tolist() == [False] * 25 + [True]
    assert not rows["is_terminal"].any() and not rows["action"][-1].any()
    assert (rows["action"][:-1].sum(-1) == 1).all()
    env = make_mario()
    env.reset()
    for t in range(25):
        obs, reward, *_ = env.step(int(rows["action"][t].argmax()))
        assert np.array_equal(obs, rows["obs"][t + 1])
        assert np.float32(reward) == rows["reward"][t + 1]
    env.close()
    again = play_episode(agent, make_mario, seed=3, max_steps=25)
    assert np.array_equal(again.rows["action"], rows["action"])
    assert played.total == pytest.approx(rows["reward"].sum())


def test_a_dream_sees_no_frame_after_its_context(agent):
    rows = play_episode(agent, make_mario, seed=3, max_steps=25).rows
    whole = dream_beside(agent, rows, context=5, horizon=30)
    assert whole.shape == rows["obs"].shape and whole.dtype == np.uint8
    seen = np.arange(26)[:, None, None, None] < 5
    blind = dict(rows, obs=np.where(seen, rows["obs"], 0))
    assert np.array_equal(dream_beside(agent, blind, 5, 30), whole)
    short = dream_beside(agent, rows, context=5, horizon=7)
    assert short.shape == whole.shape and np.array_equal(short[:12], whole[:12])
    assert not np.array_equal(short[12:], whole[12:])


class TwoCameras(gym.Env):
    """A large picture in colour and a small one in grey, and nothing to render."""

    observation_space = Dict(
        far=Box(0, 255, (20, 32, 3), np.uint8), near=Box(0, 255, (16, 16), np.uint8)
    )
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


class OnlyAWindow(TwoCameras):
    """As Gymnasium's own environments refuse a mode that they do not have."""

    metadata = {"render_modes": ["human"]}

    def __init__(self, render_mode=None):
        assert render_mode is None or render_mode in self.metadata["render_modes"]
        self.render_mode = render_mode


@pytest.mark.parametrize("env", [TwoCameras, OnlyAWindow])
@pytest.mark.parametrize("registered", [True, False])
def test_without_rendered_screens_the_pictures_are_filmed(env, registered):
    agent = Dreamer(env.observation_space, Discrete(2), SMALL)
    name = f"{env.__name__}-v0"
    gym.register(name, entry_point=env)
    played = play_episode(agent, name if registered else env, seed=3, max_steps=2)
    gym.registry.pop(name)
    assert played.screens.shape == (3, 20 + GAP + 16, 32, 3)


@pytest.mark.parametrize("mode", [None, "rgb_array"])
def test_what_has_no_window_is_not_shown(mode, monkeypatch):
    monkeypatch.setattr(TwoCameras, "render_mode", mode)
    agent = Dreamer(TwoCameras.observation_space, Discrete(2), SMALL)
    with pytest.raises(ValueError, match=f"render mode human .* has {mode!r};"):
        play_episode(agent, TwoCameras, show=True)


def test_every_picture_is_filmed_one_below_the_other():
    agent = Dreamer(TwoCameras.observation_space, Discrete(2), SMALL)
    played = play_episode(agent, TwoCameras, seed=3, max_steps=6)
    assert played.screens.shape == (7, 20 + GAP + 16, 32, 3)
    far, near = played.screens[:, :20], played.screens[:, 20 + GAP :]
    assert np.array_equal(far, played.rows["far"])
    assert np.array_equal(near[:, :, :16, 0], played.rows["near"])
    assert (near[:, :, 16:] == 255).all()
    width = 3 * 32 + 2 * GAP
    assert beside(agent, played.rows, scale=1).shape == (7, 20 + GAP + 16, width, 3)


def test_a_window_shows_play_at_the_games_pace(agent, monkeypatch):
    shown = []
    from dreamer_lite.emulator import load_emulator

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(load_emulator()[0], "render", lambda nes: shown.append(1))
    slept = []
    clock = SimpleNamespace(perf_counter=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(playing, "time", clock)
    played = play_episode(agent, make_mario, max_steps=9, show=True)
    assert len(shown) == 4 * 9 and not len(played.screens)
    assert slept == pytest.approx([1 / 15] * 9)
