"""The commands that put results into data/: what ships is what was asked for."""

import dataclasses
import json
import os
import re
import subprocess

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

import bench
import deaths
import gpu
import machine
import ship
from course import data_path, train_world_model
from dreamer_lite.dreamer import Config, Dreamer, train
from dreamer_lite.replay import Replay

START, FLAG = 40, 3161  # x of Mario at the first frame, and under the flag


def endings(replay, stream):
    """(x, how) of every episode that ends in a recorded stream, from its rewards."""
    rows = {key: column[stream] for key, column in replay.data.items()}
    found, x = [], START
    for i, reward in enumerate(rows["reward"]):
        end = bool(rows["is_terminal"][i])
        how = "flag" if end and reward > 3 else "lost" if end else "cut"
        extra = {"flag": 5, "lost": -2, "cut": 0}[how]
        x = START if rows["is_first"][i] else x + 16 * (reward - extra + 0.02)
        if rows["is_last"][i]:
            found.append((round(float(x)), how))
    return found


def test_the_recording_holds_deaths_a_pit_and_the_flag():
    replay = Replay.load(data_path("mario_episodes.npz"))
    assert list(replay.size) == [2000, 2000, 2000]
    ends = [endings(replay, stream) for stream in range(3)]
    assert all("lost" in [how for _, how in found] for found in ends[:2])
    # The first pit of the level is 32 pixels wide and begins at x = 1104.
    assert any(how == "lost" and 1104 <= x <= 1150 for x, how in ends[1])
    assert any(how == "flag" and abs(x - FLAG) < 16 for x, how in ends[2])
    mean = [np.mean([x for x, _ in found]) for found in ends]
    assert mean[2] > 2 * max(mean[:2])  # a better policy than chance and its bias


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run."""
    config = Config.preset("1m", steps=60, prefill=40, batch=2, length=8, ratio=1.0)
    folder = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(config, seed=5, log_every=1)
    train("CartPole-v1", config, folder, progress=False)
    return folder


def test_a_run_is_shipped_with_all_that_made_it(run, tmp_path):
    options = ship.parse([str(run), "--agent", "--commit", "abc", "--note", "by hand"])
    about = ship.ship(options, tmp_path)
    assert (about["seed"], about["commit"]) == (5, "abc")
    assert about["note"] == "by hand"
    assert about["updates"] > 0 and about["steps"] == 60
    assert Dreamer.load(tmp_path / "mario_agent.safetensors").config.seed == 5
    assert json.loads((tmp_path / "mario_agent.json").read_text()) == about
    stored = tmp_path / "curves/mario_evening_seed5.json"
    assert json.loads(stored.read_text()) == about
    for table in ("metrics.csv", "episodes.csv", "config.yaml"):
        stored = tmp_path / f"curves/mario_evening_seed5_{table}"
        assert stored.read_bytes() == (run / table).read_bytes()


def test_curves_alone_leave_the_agent_as_it_is(run, tmp_path):
    ship.ship(ship.parse([str(run), "--name", "hour"]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"curves"}
    names = [path.name for path in (tmp_path / "curves").iterdir()]
    assert len(names) == 4 and all(n.startswith("mario_hour_seed5") for n in names)


def test_the_trial_of_a_gpu_keeps_tables_and_agent(run, tmp_path):
    gpu.keep(run, tmp_path)
    assert Dreamer.load(tmp_path / "agent.safetensors").config.seed == 5
    assert {path.name for path in tmp_path.iterdir()} > set(gpu.KEPT)


def test_the_trial_of_a_gpu_keeps_the_tables_of_a_run_that_failed(run, tmp_path):
    failed, out = tmp_path / "failed", tmp_path / "out"
    failed.mkdir(), out.mkdir()
    (failed / "metrics.csv").write_bytes((run / "metrics.csv").read_bytes())
    gpu.keep(failed, out)
    assert [path.name for path in out.iterdir()] == ["metrics.csv"]


def test_the_bench_measures_an_update():
    found = bench.measure("1m CartPole", "fp32", "eager", "cpu", repeat=1)
    assert found["step"]["median"] > 0 and found["parameters"] > 500_000


def test_only_changed_code_makes_a_commit_dirty(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def git(*words):
        me = ["-c", "user.name=me", "-c", "user.email=me@here"]
        subprocess.run(["git", "-C", str(tmp_path), *me, *words], check=True)

    for name in ("dreamer_lite/a.py", "tools/b.py", "data/c.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    assert machine.commit(tmp_path) is None
    git("init", "-q"), git("add", "."), git("commit", "-qm", "one")
    (tmp_path / "data/c.csv").write_text("2")
    clean = machine.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    (tmp_path / "tools/new.py").write_text("1")
    assert machine.commit(tmp_path) == clean + "-dirty"


def test_the_world_model_that_ships_can_be_made_again(tmp_path, capsys, monkeypatch):
    """The documented command, cut short, gives a file of the same form."""
    out = tmp_path / "model.safetensors"
    monkeypatch.setattr(train_world_model, "BATCH", 2)
    monkeypatch.setattr(train_world_model, "LENGTH", 4)
    train_world_model.main(["--updates", "2", "--out", str(out)])
    assert "'updates': 2" in capsys.readouterr().out
    from safetensors import safe_open

    with (
        safe_open(out, "pt") as new,
        safe_open(data_path("world_model.safetensors"), "pt") as old,
    ):
        assert set(new.keys()) == set(old.keys())
        assert set(new.metadata()) >= set(old.metadata())


class Counted(gym.Wrapper):
    """CartPole that says how long it took, and calls an even number a flag."""

    def reset(self, **kwargs):
        self.steps = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, ended, cut, info = self.env.step(action)
        self.steps += 1
        known = {"x_pos": self.steps, "flag_get": self.steps % 2 == 0}
        return obs, reward, ended, cut, info | known


class Strict(Counted):
    """A Counted one whose flag is for those who never push to the left."""

    def reset(self, **kwargs):
        self.flag = True
        return super().reset(**kwargs)

    def step(self, action):
        obs, reward, ended, cut, info = super().step(action)
        self.flag = self.flag and bool(action)
        return obs, reward, ended, cut, info | {"flag_get": self.flag}


TRACK = ("x_pos", "flag_get")


def pushing_right(nats):
    """A new agent of CartPole whose actor prefers to push right by so many nats."""
    config = Config.preset("1m", device="cpu", precision="fp32")
    env = CartPoleEnv()
    agent = Dreamer(env.observation_space, env.action_space, config)
    with torch.no_grad():
        agent.actor_critic.actor.mlp[-1].bias.copy_(torch.tensor([0.0, nats]))
    return agent


def test_without_a_uniform_share_the_actor_alone_decides():
    agent = pushing_right(50.0)
    how = 20, 0, lambda: Strict(CartPoleEnv()), False, TRACK
    assert deaths.watch(agent, 0.5, *how)["flags"] < 10
    found = deaths.watch(agent, 0.0, *how)
    assert (found["episodes"], found["flags"]) == (20, 20)


def test_every_death_has_its_own_last_steps():
    agent = pushing_right(1.0)  # away from equally likely actions
    how = 30, 0, lambda: Counted(CartPoleEnv()), False, TRACK
    found = deaths.watch(agent, 0.0, *how)
    assert found["episodes"] == 30 and 0 < found["flags"] < 30
    assert len(found["deaths"]) == 30 - found["flags"]
    for death in found["deaths"]:
        steps = min(deaths.LAST, death["x"])
        assert death["x"] % 2 and len(death["probability"]) == steps
        assert death["value"] == [0.0] * steps  # a new critic expects nothing
        assert all(p < 0.3 or p > 0.7 for p in death["probability"])
