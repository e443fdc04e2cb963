"""The tiny worlds, the patches that take tricks out, and the stored runs."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from course import ablations, tasks
from dreamer_lite.dreamer import Config, Dreamer

WORLDS = [tasks.Sled, tasks.Corridor, tasks.Lever, tasks.Follow]


@pytest.mark.parametrize("world", WORLDS)
def test_worlds_are_gymnasium_environments(world):
    check_env(world(), skip_render_check=True)


def actions_of(env, moves):
    """Rewards and the last flags of a list of actions."""
    env.reset(seed=0)
    steps = [env.step(move) for move in moves]
    return [step[1] for step in steps], steps[-1][2], steps[-1][3]


def test_the_corridor_pays_only_with_the_key():
    straight, over, _ = actions_of(tasks.Corridor(), [1] * 4)
    assert (straight, over) == ([0.0] * 4, False)
    fetched, over, _ = actions_of(tasks.Corridor(), [0] * 2 + [1] * 5)
    assert (fetched, over) == ([0.0] * 6 + [1.0], True)


def test_the_lever_pays_what_the_light_said_and_shows_it_once():
    env = tasks.Lever()
    first, _ = env.reset(seed=0)
    assert abs(first[0]) == 10
    look, reward, *_ = env.step(1)
    assert reward == np.sign(first[0]) and look[0] == 0
    assert env.step(0)[1] == 0


def test_the_sled_in_millimetres_is_the_same_sled():
    here, far = tasks.Sled(), tasks.Sled(1000.0)
    assert (1000 * here.reset(seed=3)[0] == far.reset(seed=3)[0]).all()
    for move in (0, 2, 1, 1):
        one, other = here.step(move), far.step(move)
        assert (1000 * one[0] == other[0]).all()
        assert (1000 * one[1], *one[2:]) == (other[1], *other[2:])


def losses(name):
    """The losses of an agent in its third update, on fixed numbers."""
    torch.manual_seed(0)
    chosen = ablations.VARIANTS[name]
    space = gym.spaces.Dict(obs=gym.spaces.Box(-1e6, 1e6, (2,), np.float32))
    config = Config(**ablations.SETTINGS | {"seed": 0} | chosen.settings)
    agent = Dreamer(space, gym.spaces.Discrete(3), config)
    if chosen.patch:
        chosen.patch(agent)
    agent.actor_critic.normalizer.range[1] = 10.0  # returns that need a scale
    rng = np.random.default_rng(0)
    batch = {
        "obs": rng.normal(0, 3, (16, 10, 2)).astype(np.float32),
        "action": np.eye(3, dtype=np.float32)[rng.integers(0, 3, (16, 10))],
        "reward": rng.normal(0, 3, (16, 10)).astype(np.float32),
        **{k: rng.random((16, 10)) < 0.1 for k in ("is_first", "is_last")},
    }
    batch["is_terminal"] = batch["is_last"]
    for _ in range(3):
        metrics = agent.train_step(batch)
    return {key: float(value) for key, value in metrics.items()}


@pytest.fixture(scope="module")
def untouched():
    return losses("untouched")


@pytest.mark.parametrize("name", [n for n in ablations.VARIANTS if n != "untouched"])
def test_every_variant_updates_and_differs(name, untouched, monkeypatch):
    for owner, patched in [
        (ablations.networks, "symlog"),
        (ablations.ReturnNormalizer, "scale"),
        (ablations.State, "feature"),
    ]:
        monkeypatch.setattr(owner, patched, getattr(owner, patched))  # put back later
    metrics = losses(name)
    assert metrics != untouched
    assert np.isfinite(list(metrics.values())).all()


def write(path, runs):
    """A results file of (variant, seed) runs."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ablations.COLUMNS, restval=0)
        writer.writeheader()
        for variant, seed in runs:
            for point in range(ablations.POINTS):
                writer.writerow({"variant": variant, "seed": seed, "return": point})


def test_a_results_file_gives_one_curve_for_each_seed(tmp_path):
    path = tmp_path / "sled.csv"
    write(path, [("Adam", 0), ("untouched", 1), ("untouched", 0)])
    found = ablations.curves(path)
    assert {name: curve.shape for name, curve in found.items()} == {
        "Adam": (1, ablations.POINTS),
        "untouched": (2, ablations.POINTS),
    }
    assert ablations.scores(found["Adam"]) == [8.5]


def test_a_missing_seed_is_one_clear_sentence(tmp_path):
    path = tmp_path / "sled.csv"
    write(path, [("untouched", 0), ("Adam", 0), ("Adam", 1)])
    with pytest.raises(ValueError, match=r"sled\.csv expects .*'Adam' has seed.*; "):
        ablations.curves(path)


def test_a_run_cut_in_half_is_noticed(tmp_path):
    path = tmp_path / "sled.csv"
    write(path, [("untouched", 0)])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(ValueError, match=r"10 rows of each seed .* with \[8\] rows"):
        ablations.curves(path)


def test_a_verdict_needs_every_seed_a_tenth_and_two_seeds():
    def verdict(*without):
        beside = np.array([20.0, 25.0])[: len(without)]
        return ablations.Comparison("sled", "Adam", np.array(without), beside).verdict

    assert verdict(3.0, 19.0) == "worse"
    assert verdict(3.0, 21.0).startswith("no difference")
    assert verdict(19.5, 19.5).startswith("worse")
    assert verdict(26.0, 27.0) == "better"
    assert verdict(25.01, 25.01).startswith("no difference")
    assert verdict(3.0) == "one seed, no verdict"
