"""The commands that put results into data/: what ships is what was asked for."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

import command
import deaths
import further
import reference_figures
import ship
from course import data_path
from course.train_world_model import main as train_world_model
from dreamer_lite import playing
from dreamer_lite.dreamer import Config, Dreamer, train
from dreamer_lite.replay import Replay
from dreamer_lite.runs import read_table

TABLES = ("metrics", "episodes")
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


def test_a_run_is_shipped_up_to_its_checkpoint(tmp_path):
    config = Config.preset("1m", steps=90, prefill=40, batch=2, length=8, ratio=1.0)
    config = dataclasses.replace(config, seed=5, log_every=1, checkpoint_minutes=0.0)
    run, data = tmp_path / "run", tmp_path / "data"
    train("CartPole-v1", config, run, progress=False)
    columns = read_table(run / "episodes.csv")[0]
    with open(run / "episodes.csv", "a") as file:  # rows of a later, unsaved agent
        file.write(",".join(["9999"] * len(columns)) + "\n")
    about = ship.ship(run, data, trained_with="abc", note="no-ops from step 50")
    assert about["note"] == "no-ops from step 50"
    assert (about["steps"], about["seed"], about["commit"]) == (90, 5, "abc")
    assert Dreamer.load(data / "mario_agent.safetensors").config.seed == 5
    assert json.loads((data / "mario_agent.json").read_text()) == about
    rows = read_table(data / "curves/mario_seed5_episodes.csv")
    assert rows and all(int(row["step"]) <= 90 for row in rows)
    assert json.loads((data / "curves/mario_seed5.json").read_text()) == about


def test_the_tables_of_another_seed_leave_the_agent_alone(tmp_path):
    config = Config.preset("1m", steps=60, prefill=40, batch=2, length=8, ratio=1.0)
    run, data = tmp_path / "run", tmp_path / "data"
    config = dataclasses.replace(config, seed=6, log_every=1)
    train("CartPole-v1", config, run, progress=False)
    data.mkdir()
    (data / "mario_agent.json").write_text("another run's")
    ship.ship(run, data, agent=False)
    with pytest.raises(ValueError, match="'hour', leaves the agent .*; add --tables"):
        ship.ship(run, data, name="hour")
    before = {path.name for path in (data / "curves").iterdir()}
    ship.ship(run, data, agent=False, name="hour")
    new = {path.name for path in (data / "curves").iterdir()} - before
    assert len(new) == 4 and all(name.startswith("mario_hour_seed") for name in new)
    assert (data / "mario_agent.json").read_text() == "another run's"
    assert not (data / "mario_agent.safetensors").exists()
    assert (data / "curves/mario_seed6_metrics.csv").is_file()


def test_a_run_from_the_agent_that_ships_goes_behind_its_curves(tmp_path):
    config = Config.preset("1m", steps=90, prefill=40, batch=2, length=8, ratio=1.0)
    config = dataclasses.replace(config, log_every=1)
    first, second, data = tmp_path / "first", tmp_path / "second", tmp_path / "data"
    train("CartPole-v1", config, first, progress=False)
    first_about = ship.ship(first, data, note="how it began", hardware="an abacus")
    old = {k: read_table(data / f"curves/mario_seed0_{k}.csv") for k in TABLES}
    start = data / "mario_agent.safetensors"
    further = dataclasses.replace(config, steps=70)
    train("CartPole-v1", further, second, start_from=start, progress=False)
    with open(second / "episodes.csv") as file:  # a column that the first had not
        lines = [
            line.strip() + f",{'dead' if i == 0 else 1}" for i, line in enumerate(file)
        ]
    (second / "episodes.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="expects a run of the seed .*, 0, but this"):
        other = dataclasses.replace(config, seed=7)
        train("CartPole-v1", other, tmp_path / "other", progress=False)
        ship.ship(tmp_path / "other", data, append=True)
    about = ship.ship(second, data, append=True)
    assert about["steps"] == first_about["steps"] + 70 == 160
    stored = {path: path.read_bytes() for path in data.rglob("*.*")}
    with pytest.raises(ValueError, match="is not yet in .*, but .* is there"):
        ship.ship(second, data, append=True)
    assert stored == {path: path.read_bytes() for path in data.rglob("*.*")}
    assert about["updates"] > first_about["updates"]
    assert (about["note"], about["hardware"]) == ("how it began", "an abacus")
    for kind, before in old.items():
        rows = read_table(data / f"curves/mario_seed0_{kind}.csv")
        kept, new = rows[: len(before)], rows[len(before) :]
        assert [{**row, "dead": ""} for row in before] == [
            {**row, "dead": row.get("dead", "")} for row in kept
        ]
        assert new and all(90 < int(row["step"]) <= 160 for row in new)
        minutes = [float(row["minutes"]) for row in rows]
        assert minutes == sorted(minutes)
        own = read_table(second / f"{kind}.csv")
        assert [int(row["step"]) - 90 for row in new] == [
            int(row["step"]) for row in own
        ]
    assert all(row["dead"] == "1" for row in new)  # the last kind: episodes
    stored = data / "curves/mario_seed0_metrics.csv"
    updates = [int(row["updates"]) for row in read_table(stored)]
    assert updates == list(range(1, about["updates"] + 1))


def test_ship_refuses_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint; train longer"):
        ship.ship(tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_tool_refuses_in_one_line(capsys, monkeypatch):
    def main():
        raise ValueError("expected this, but got that; do so.")

    monkeypatch.setattr(sys, "argv", ["tools/ship.py"])
    with pytest.raises(SystemExit) as stopped:
        command.run(main)
    assert stopped.value.code == "ship: expected this, but got that; do so."


@pytest.mark.parametrize("what, known", [("train", "healthy"), ("draw", "counters")])
def test_a_name_that_no_figure_has_is_refused(what, known, capsys):
    with pytest.raises(SystemExit):
        reference_figures.main([what, known, "nowhere"])
    words = capsys.readouterr().err
    assert f"{known}," in words and "but got nowhere; correct" in words


def test_only_changed_code_makes_a_commit_dirty(tmp_path):
    def git(*words):
        me = ["-c", "user.name=me", "-c", "user.email=me@here"]
        subprocess.run(["git", "-C", str(tmp_path), *me, *words], check=True)

    for name in ("dreamer_lite/a.py", "tools/b.py", "data/c.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    assert playing.commit(tmp_path) is None
    git("init", "-q"), git("add", "."), git("commit", "-qm", "one")
    (tmp_path / "data/c.csv").write_text("2")
    clean = playing.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    (tmp_path / "tools/new.py").write_text("1")
    assert playing.commit(tmp_path) == clean + "-dirty"


def test_the_world_model_that_ships_can_be_made_again(tmp_path, capsys):
    """The documented command, cut short, gives a file of the same form."""
    out, folder = tmp_path / "model.safetensors", tmp_path / "run"
    threads = torch.get_num_threads()
    command = ["--updates", "2", "--batch", "2", "--length", "4"]
    command += ["--out", str(out), "--folder", str(folder)]
    try:
        train_world_model(command)
    finally:
        torch.set_num_threads(threads)
    assert "'updates': 2" in capsys.readouterr().out
    from safetensors import safe_open

    with (
        safe_open(out, "pt") as new,
        safe_open(data_path("world_model.safetensors"), "pt") as old,
    ):
        assert set(new.keys()) == set(old.keys())
        assert set(new.metadata()) == set(old.metadata())
    shutil.rmtree(folder)


def test_training_on_draws_sticky_episodes_and_lets_the_rates_fall(tmp_path):
    pytest.importorskip("gym_super_mario_bros")
    env = further.make_env(0.5)
    env.reset(seed=0)
    drawn = [env.repeat_action_probability for _ in range(40) if env.reset()]
    env.close()
    assert set(drawn) == {0.0, 0.25} and 10 < drawn.count(0.25) < 30
    rates = []

    class Look(further.FallingRates):
        def __call__(self, agent, run):
            super().__call__(agent, run)
            rates.append([group["lr"] for group in agent.optimizer.param_groups])

    start, folder = data_path("mario_agent.safetensors"), tmp_path / "run"
    small = dict(prefill=64, batch=2, length=8, envs=2, parallel=False, capacity=2000)
    small |= dict(
        ratio=2.0, steps=80, video_minutes=0.0, speed="eager", checkpoint_minutes=0.0
    )
    old = Dreamer.load(start).config
    full = [old.lr, old.critic_lr, old.actor_lr]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(further, "FallingRates", Look)
        further.further(folder, 60.0, 0.5, 30.0, start, **small)  # far from the end
        assert rates and all(row == pytest.approx(full) for row in rates)
        rates.clear()
        further.further(tmp_path / "late", 60.0, 0.5, 6000.0, start, **small)
        low = [0.01 * rate for rate in full]  # 60 of the last 6,000 minutes: the floor
    assert rates and all(row == pytest.approx([5 * x for x in low]) for row in rates)
    assert 0 < further.minutes_so_far(folder) < 60
    assert further.minutes_so_far(tmp_path / "none") == 0


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


def test_without_the_mixture_the_actor_alone_decides():
    agent = pushing_right(50.0)
    actor = agent.actor_critic.actor
    actor.unimix = 0.5
    how = 20, 0, lambda: Strict(CartPoleEnv()), False, TRACK
    assert deaths.watch(agent, *how)["flags"] < 10
    assert deaths.unmixed(agent, *how) == {"episodes": 20, "flags": 20}
    assert actor.unimix == 0.5


def test_every_death_has_its_own_last_steps():
    agent = pushing_right(1.0)  # away from equally likely actions
    found = deaths.watch(agent, 30, 0, lambda: Counted(CartPoleEnv()), False, TRACK)
    assert found["episodes"] == 30 and 0 < found["flags"] < 30
    assert len(found["deaths"]) == 30 - found["flags"]
    for death in found["deaths"]:
        steps = min(deaths.LAST, death["x"])
        assert death["x"] % 2 and len(death["probability"]) == steps
        assert death["value"] == [0.0] * steps  # a new critic expects nothing
        assert all(p < 0.3 or p > 0.7 for p in death["probability"])
