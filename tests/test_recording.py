"""Scripted behaviours, and recordings that hold what really happened."""

import functools
import itertools

import numpy as np
import pytest

from dreamer_lite.mario import make_mario
from dreamer_lite.recording import (
    Scripted,
    follow,
    random_actions,
    record,
    right_and_jump,
    sticky_right,
)
from dreamer_lite.replay import Replay


def take(actions, count):
    return list(itertools.islice(actions, count))


def test_sticky_right_mostly_goes_right_and_holds_its_choice():
    actions = np.array(take(sticky_right(np.random.default_rng(0)), 3000))
    assert np.bincount(actions, minlength=5).min() > 50
    assert (actions > 0).mean() > 0.9
    assert 4 < len(actions) / np.count_nonzero(np.diff(actions)) < 10


def test_random_actions_are_uniform_over_the_choices():
    actions = take(random_actions(np.random.default_rng(0), choices=7), 7000)
    assert np.abs(np.bincount(actions) - 1000).max() < 120


def test_right_and_jump_lets_the_button_go():
    assert take(right_and_jump(None), 16) == 2 * ([4] * 7 + [3])


def test_follow_keeps_to_its_list_and_leaves_it_somewhere():
    held = [[2, 10], [1, 20], [0, 10]]
    actions = [2] * 10 + [1] * 20 + [0] * 10
    whole = follow(held, np.random.default_rng(0), leave=False)
    assert take(whole, 40) == actions
    assert sum(take(whole, 100)) > 100  # then it goes on to the right
    kept = []
    for seed in range(40):
        played = take(follow(held, np.random.default_rng(seed)), 40)
        same = [a == b for a, b in zip(played, actions, strict=True)] + [False]
        kept.append(same.index(False))
    assert min(kept) < 10 and max(kept) == 40 and len(set(kept)) > 10


def test_scripted_policy_begins_anew_where_an_episode_begins():
    policy = Scripted(lambda rng: itertools.count())
    firsts = [(True, True), (False, False), (False, True), (False, False)]
    played = [policy({}, np.array(first)).tolist() for first in firsts]
    assert played == [[0, 0], [1, 1], [2, 0], [3, 1]]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two streams of 120 rows: walking into the first Goomba, and a random player."""
    path = tmp_path_factory.mktemp("recording") / "mario.npz"
    walk = Scripted(lambda rng: itertools.repeat(1))
    return path, record(path, [walk, Scripted(random_actions)], rows=120, seed=3)


def test_record_reports_the_episodes_that_ended(recording):
    path, episodes = recording
    walked = [episode for episode in episodes if episode["env"] == 0]
    assert len(walked) == 2 and walked[0]["dead"] == 1 and walked[0]["flag_get"] == 0
    assert 290 < walked[0]["x_pos"] < 330 and walked[0]["length"] < 60
    replay = Replay.load(path)
    ends = np.flatnonzero(replay.data["is_last"][0])
    assert ends.tolist() == [walked[0]["length"], 2 * walked[0]["length"] + 1]


def test_recorded_rows_are_what_the_game_shows_when_played_again(recording):
    data = Replay.load(recording[0]).data
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


def test_same_seed_records_the_same(recording, tmp_path):
    walk = Scripted(lambda rng: itertools.repeat(1))
    again = tmp_path / "again.npz"
    record(again, [walk, Scripted(random_actions)], rows=120, seed=3)
    one, two = Replay.load(recording[0]).data, Replay.load(again).data
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_options_reach_the_game(tmp_path):
    behaviour = functools.partial(follow, [[1, 30]])
    path = tmp_path / "small.npz"
    record(path, [Scripted(behaviour)], rows=5, size=16, grayscale=True)
    assert Replay.load(path).data["obs"].shape == (1, 5, 16, 16, 1)
