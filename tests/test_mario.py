"""Profiles of Mario, and the figures of an evaluation."""

import dataclasses
import itertools
import json
import math

import gymnasium as gym
import numpy as np
import pytest
from small import SMALL

import evaluate
from course import mario as results
from dreamer_lite.dreamer import Dreamer, train
from dreamer_lite.mario import PROFILES, TRACK, make_mario
from dreamer_lite.playing import Scripted
from dreamer_lite.replay import replay_bytes
from dreamer_lite.runs import read_checkpoint


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_fits_its_memory(name):
    config = PROFILES[name]
    assert config.capacity // config.envs >= config.length
    assert config.prefill < config.steps
    screen = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
    memory = replay_bytes(config.capacity, screen, gym.spaces.Discrete(5))
    assert memory < 5e9


def test_minutes_of_the_config_end_a_call(tmp_path):
    config = dataclasses.replace(PROFILES["debug"], minutes=1e-4, prefill=400)
    config = dataclasses.replace(config, envs=1, parallel=False)
    train(make_mario, config, tmp_path, progress=False)
    assert read_checkpoint(tmp_path)[0]["step"] < config.steps


def ends_by_hand():
    """How four episodes end: two flags, a pit and a Goomba."""
    flag = dict(env=0, x_pos=3161.0, flag_get=1.0, dead=0.0, stuck=0.0, time=300.0)
    ends = [flag, flag]
    ends += [dict(ends[0], flag_get=0.0, dead=1.0, x_pos=x) for x in (1130.0, 301.0)]
    return [dict(end, length=9, **{"return": end["x_pos"] / 16}) for end in ends]


def test_an_evaluation_in_figures():
    found = results.summarise(ends_by_hand())
    assert (found["flags"], found["episodes"], found["flag_rate"]) == (2, 4, 0.5)
    assert found["interval_95"] == pytest.approx((0.15, 0.85), abs=0.005)
    assert found["deaths_by_x"] == {"300": 1, "1100": 1} and found["deaths"] == 2
    assert found["x_quartiles"][0] == 301 and len(found["each"]) == 4


def test_evaluation_plays_whole_seeded_episodes():
    env = make_mario()
    agent = Dreamer(env.observation_space, env.action_space, SMALL)
    env.close()
    once = dict(episodes=1, seed=5, envs=1, parallel=False)
    first, second = (results.evaluate_mario(agent, **once) for _ in range(2))
    assert first == second and set(TRACK) <= set(first["each"][0])
    walk = Scripted(lambda rng: itertools.repeat(1))
    found = results.evaluate_mario(walk, 3, envs=2, parallel=False)
    assert (found["episodes"], found["deaths"], found["flags"]) == (3, 3, 0)
    assert {int(x) for x in found["deaths_by_x"]} <= {200, 300}


def test_wilson_interval_by_hand():
    z2 = 1.96**2
    assert results.wilson(4, 4)[0] == pytest.approx(4 / (4 + z2))
    assert results.wilson(4, 4)[1] == 1.0
    assert results.wilson(0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    low, high = results.wilson(50, 100)
    half = 1.96 * math.sqrt(0.25 / 100 + z2 / 40_000) / (1 + z2 / 100)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    assert results.wilson(97, 100) == pytest.approx((0.9155, 0.9897), abs=1e-3)


def test_the_command_for_the_stored_evaluation(tmp_path, capsys, monkeypatch):
    out = tmp_path / "result.json"
    asked = []

    def play(player, make_env, *how):
        asked.append((make_env(), *how))
        return ends_by_hand()

    monkeypatch.setattr(results, "evaluate", play)
    evaluate.main([str(out), "--episodes", "4", "--sticky", "0.25", "--envs", "1"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "flag rate: 0.50 (2/4)"
    result = json.loads(out.read_text())
    assert list(result["players"])[:2] == ["agent", "random"]
    assert result["protocol"]["sticky"] == 0.25 and len(result["agent"]["sha256"]) == 64
    for env, *how in asked:
        options = env.unwrapped.options
        assert (options.noops, options.sticky) == (30, 0.25)
        assert how == [4, 1, 0, TRACK, False]
        env.close()


def test_the_agent_of_a_run_is_evaluated_alone(tmp_path, monkeypatch):
    config = dataclasses.replace(PROFILES["debug"], steps=240, prefill=200, seed=7)
    train(make_mario, config.changed(envs=1, parallel=False), tmp_path, progress=False)
    monkeypatch.setattr(results, "evaluate", lambda *how: ends_by_hand())
    out = tmp_path / "result.json"
    evaluate.main([str(out), "--run", str(tmp_path), "--episodes", "4"])
    result = json.loads(out.read_text())
    assert list(result["players"]) == ["agent"]
    assert (result["agent"]["seed"], result["agent"]["step"]) == (7, 240)


def test_hours_to_finish_follow_from_the_last_rows(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,minutes,updates\n100,1,5\n")
    assert results.hours_to_finish(tmp_path, 1600) is None
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("400,4,10\n")  # 100 steps a minute, 1200 are left
    assert results.hours_to_finish(tmp_path, 1600) == pytest.approx(0.2)
