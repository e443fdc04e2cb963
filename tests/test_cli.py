"""The command line, for any environment and for Mario."""

import dataclasses
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from small import TINY

from dreamer_lite import __main__ as cli
from dreamer_lite import dreamer, mario, playing
from dreamer_lite.config import Config
from dreamer_lite.dreamer import Dreamer
from dreamer_lite.envs import env_name
from dreamer_lite.mario import PROFILES, TRACK, make_mario
from dreamer_lite.replay import Replay

ROOT = Path(__file__).parents[1]
SHIPPED = "data/mario_episodes.npz"
FAST = dict(batch=2, length=8, prefill=40, ratio=2.0, envs=1)


def flags(**fields):
    return [word for key, x in fields.items() for word in (f"--config.{key}", f"{x}")]


class Corridor(gym.Env):
    """Ten steps with a picture, reported in info, and a screen of another size."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, shade=10):
        self.render_mode, self.shade = render_mode, shade

    def _look(self):
        return np.full((16, 16, 3), self.shade * self.at, np.uint8)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self._look(), {}

    def step(self, action):
        self.at += 1
        return self._look(), 1.0, self.at == 10, False, {"won": action == 1}

    def render(self):
        return np.full((30, 40, 3), self.shade * self.at, np.uint8)


def Blind():
    """CartPole without a render mode."""
    return gym.make("CartPole-v1")


class Broken(Corridor):
    def step(self, action):
        raise ValueError("the environment's own")


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    """Untrained agents: for CartPole, Corridor and Mario."""
    folder = tmp_path_factory.mktemp("agents")
    envs = {"cartpole": gym.make("CartPole-v1"), "corridor": Corridor()}
    for name, env in (envs | {"mario": make_mario()}).items():
        config = Config(**TINY)
        agent = Dreamer(env.observation_space, env.action_space, config)
        agent.save(folder / f"{name}.safetensors")
        env.close()
    return {path.stem: str(path) for path in folder.iterdir()}


def run(*words):
    """A command as it is typed; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def asked(monkeypatch):
    """What the command line asks `train` for, instead of training."""
    calls = []
    train = lambda *args, **more: calls.append((args, more))  # noqa: E731
    monkeypatch.setattr(dreamer, "train", train)
    return calls


def refused(words, capsys, main=cli.main):
    """Run a command that ends with status 2; returns what it said."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    return capsys.readouterr().err


def mario_main(words, monkeypatch):
    """The short form for the game, in this process."""
    monkeypatch.setattr(sys, "argv", ["mario", *words])
    runpy.run_path(mario.__file__, run_name="__main__")


# Help and flags


@pytest.mark.parametrize("module", ["dreamer_lite", "dreamer_lite.mario"])
def test_help_names_every_field_and_needs_no_torch(module):
    for words in (["--help"], ["train", "--help"]):
        done = run(module, *words)
        assert done.returncode == 0 and " torch\n" not in done.stderr
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in done.stdout
    assert "width of the deterministic state h" in done.stdout


@pytest.mark.parametrize(
    "words, config",
    [
        ("", Config()),
        ("--preset 1m", Config.preset("1m")),
        ("--preset=1m --config.lr=6e-4", Config.preset("1m", lr=6e-4)),
        # What is given counts, also where it is what another preset has.
        ("--preset 1m --config.lr 3e-4", Config.preset("1m", lr=3e-4)),
        (
            "--config.critic_lr 1.5e-4 --config.lr 6e-4",
            Config.preset("3m", lr=6e-4, critic_lr=1.5e-4),
        ),
        ("--lr 6e-4 --no-parallel", Config.preset("3m", lr=6e-4)),
        ("--parallel --log-every 3", Config(parallel=True, log_every=3)),
    ],
)
def test_flags_change_the_preset(words, config, asked):
    cli.main(["train", "--env", "CartPole-v1", "--logdir", "x", *words.split()])
    [(args, _)] = asked
    assert env_name(args[0]) == "CartPole-v1" and args[2] == Path("x")
    assert vars(args[1]) == pytest.approx(vars(config))


@pytest.mark.parametrize(
    "words, expected",
    [
        ("train --env CartPole-v1", "logdir"),
        ("train --env CartPole-v1 --logdir x --config.lrr 1", "--lrr"),
        ("train --env CartPole-v1 --logdir x --config.units 0", "units as int from 1"),
        ("train --env CartPole-v1 --logdir x --preset 5m", "5m"),
        ("train --env none:make --logdir x", "(No module named 'none'); correct it"),
        ("train --env Nope-v1 --logdir x", "Environment `Nope` doesn't exist"),
        ("train --env CartPole-v1 --logdir x --device tpu", "device"),
        ("train --env CartPole-v1 --logdir x --from none", "no agent at none"),
        ("evaluate none", "There is no agent at none"),
        ("play none", "There is no agent at none"),
        ("evaluate {cartpole}", "add --env"),
        ("evaluate {cartpole} --env Pendulum-v1", "The agent expects an environment"),
        ("play {cartpole} --env test_cli:Blind", "sees no pictures"),
        ("play {corridor} --env test_cli:Corridor --out x", "Is a directory"),
        ("evaluate {corridor} --env test_cli:Corridor --out x", "Is a directory"),
        ("record x --env test_cli:Corridor --overwrite", "Is a directory"),
        ("record y --env test_cli:Corridor", "y exists; add --overwrite"),
    ],
)
def test_mistakes_are_named_in_one_sentence(
    words, expected, agents, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir() if expected == "Is a directory" else None
    (tmp_path / "y").touch()
    said = refused(words.format(**agents).split(), capsys)
    assert expected in said and "Traceback" not in said
    if "For full helptext" not in said:  # tyro's boxes show the right flags, too
        assert said.startswith(words.split()[0] + ": ") and said.count("\n") == 1


def test_an_error_of_the_environment_keeps_its_traceback(tmp_path):
    words = ["--env", "test_cli:Broken", "--logdir", str(tmp_path), *flags(**TINY)]
    with pytest.raises(ValueError, match="the environment's own"):
        cli.main(["train", "--quiet", *words])


# Any environment


def test_train_continue_evaluate_and_play(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    env = ["--env", "test_cli:Corridor(shade=20)"]
    train = ["train", *env, "--logdir", "runs/x", "--quiet", "--film", "--track", "won"]
    train += flags(**TINY, **FAST, video_minutes=0)
    cli.main([*train, "--config.steps", "50"])
    cli.main([*train, "--config.steps", "56"])
    assert Config.from_yaml("runs/x/config.yaml").steps == 56
    assert len(list(Path("runs/x/videos").glob("episode_*.gif"))) > 1
    with open("runs/x/episodes.csv") as file:
        assert "won" in file.readline() and len(file.readlines()) == 4

    evaluate = ["evaluate", "runs/x", *env, "--episodes", "3", "--track", "won"]
    cli.main([*evaluate, "--envs", "1", "--out", "result.json"])
    printed = capsys.readouterr().out
    assert "return: mean 10, from 10 to 10" in printed and "of 3, mean" in printed
    result = json.loads(Path("result.json").read_text())
    assert [episode["length"] for episode in result["episodes"]] == [10, 10, 10]

    cli.main(["play", "runs/x"])  # which knows its environment
    cli.main(["play", "runs/x", "--dream", "--out", "new/dream.gif"])
    assert "10 steps, return 10.0" in capsys.readouterr().out
    with Image.open("runs/x.gif") as image:
        assert (image.size, image.n_frames) == ((40, 30), 11)
    with Image.open("new/dream.gif") as image:
        assert image.size == (3 * (3 * 16 + 2 * playing.GAP), 3 * 16)


def test_ctrl_c_ends_a_command_with_one_line(monkeypatch, capsys):
    """What a signal does to a run is in test_runs.py."""

    def stop(*args, **more):
        error = KeyboardInterrupt()
        error.add_note("Stopped at step 9; the newest checkpoint is of step 9.")
        raise error

    monkeypatch.setattr(dreamer, "train", stop)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--env", "CartPole-v1", "--logdir", "x"])
    said = "train: Stopped at step 9; the newest checkpoint is of step 9.\n"
    assert end.value.code == 130 and capsys.readouterr().err == said


def test_record_any_environment_with_a_random_player_and_an_agent(agents, tmp_path):
    path = tmp_path / "new" / "rows.npz"
    words = ["record", str(path), "--env", "CartPole-v1", "--rows", "20"]
    cli.main([*words, "--players", "random", agents["cartpole"]])
    assert Replay.load(path).data["obs"].shape == (2, 20, 4)


@pytest.mark.parametrize("command", ["evaluate", "play"])
def test_greedy_reaches_the_agent(command, agents, tmp_path, monkeypatch):
    asked, act = [], Dreamer.act

    def watch(agent, obs, state, first, greedy):
        asked.append(greedy)
        return act(agent, obs, state, first, greedy)

    monkeypatch.setattr(Dreamer, "act", watch)
    words = [command, agents["corridor"], "--env", "test_cli:Corridor", "--greedy"]
    more = ["--episodes", "1"] if command == "evaluate" else []
    cli.main([*words, *more, "--out", str(tmp_path / "out.gif")])
    assert set(asked) == {True}


# The documented commands


@pytest.mark.parametrize("file", ["README.md", "data/README.md"])
def test_documented_training_commands_are_understood(file, asked, monkeypatch):
    text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    found = re.findall(r"python -m dreamer_lite(\.mario)? (train [^`\n]+)", text)
    for game, words in found:
        words = words.split()
        mario_main(words, monkeypatch) if game else cli.main(words)
    assert len(asked) == len(found) > 1


# The short form for Mario


@pytest.fixture(autouse=True)
def own_annotations(monkeypatch):
    """`main` writes a game's flags into its commands: not into the next test's."""
    for command in (cli.train, cli.evaluate, cli.play, cli.record):
        monkeypatch.setattr(command, "__annotations__", dict(command.__annotations__))


def test_the_game_has_flags_of_its_own(asked, monkeypatch):
    words = "train --profile hour --noops 30 --sticky 0.25 --actions SIMPLE_MOVEMENT"
    words += " --minutes 3 --seed 7 --quiet"
    mario_main(words.split(), monkeypatch)
    [((make_env, config, folder, _, track, _, film, progress), more)] = asked
    assert tuple(track) == TRACK and film and not progress and not more
    assert config == dataclasses.replace(PROFILES["hour"], minutes=3.0, seed=7)
    assert folder == Path("runs/mario")
    env = make_env()
    options = env.unwrapped.options
    assert (options.noops, options.sticky) == (30, 0.25)
    assert options.actions == "SIMPLE_MOVEMENT"
    env.close()


def test_a_profile_may_play_another_game(asked, monkeypatch):
    mario_main("train --profile evening --sticky 0.1".split(), monkeypatch)
    mario_main("train --profile hour".split(), monkeypatch)
    games = [env_name(args[0]) for args, _ in asked]
    assert games == [
        "dreamer_lite.mario:make_mario(noops=30, sticky=0.1, sticky_share=0.5)",
        "dreamer_lite.mario:make_mario",
    ]


def test_sizes_and_rates_follow_the_preset_or_the_agent(asked, agents, monkeypatch):
    mario_main("train --profile hour --preset 12m".split(), monkeypatch)
    mario_main(["train", "--from", agents["mario"], "--lr", "1e-5"], monkeypatch)
    mario_main("train --profile hour --lr 1e-3".split(), monkeypatch)
    sized, started, moved = (args[1] for args, _ in asked)
    large, evening = Config.preset("12m"), PROFILES["evening"]
    assert (sized.units, sized.lr, sized.entropy) == (large.units, large.lr, 3e-3)
    assert (started.deter, started.envs, started.lr) == (32, evening.envs, 1e-5)
    assert started.critic_lr == 5e-6
    assert (moved.lr, moved.critic_lr, moved.warmup) == (1e-3, 5e-4, 250)


def test_evaluation_of_mario_begins_after_idle_frames(agents, monkeypatch, tmp_path):
    out = tmp_path / "result.json"
    words = ["--episodes", "1", "--sticky", "0.5", "--out", str(out)]
    mario_main(["evaluate", agents["mario"], *words], monkeypatch)
    result = json.loads(out.read_text())
    options = "noops=30, sticky=0.5, sticky_share=1.0"
    assert result["env"] == f"dreamer_lite.mario:make_mario({options})"
    assert {"x_pos", "flag_get"} <= set(result["episodes"][0])


def test_a_run_of_mario_is_judged_at_its_own_level(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = "train --stage 2 --sticky 0.5 --sticky_share 0.5 --logdir runs/pole-0.5"
    tiny = [*flags(**TINY, **FAST, steps=42), "--config.no-parallel"]
    mario_main([*words.split(), "--quiet", *tiny], monkeypatch)
    words = "evaluate runs/pole-0.5 --episodes 1 --out result.json"
    mario_main(words.split(), monkeypatch)
    options = "noops=30, stage=2, sticky=0.0, sticky_share=1.0"
    result = json.loads(Path("result.json").read_text())
    assert result["env"] == f"dreamer_lite.mario:make_mario({options})"
    mario_main("play runs/pole-0.5 --steps 9".split(), monkeypatch)
    assert Path("runs/pole-0.5.gif").is_file()


def test_a_film_of_mario_says_where_it_ends(monkeypatch, tmp_path, capsys):
    out = str(tmp_path / "film.gif")
    mario_main(["play", "--steps", "9", "--out", out], monkeypatch)  # the shipped agent
    assert "no flag, the episode ended at x = " in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.size == (256, 240)


def test_record_makes_the_shipped_file_again(tmp_path, monkeypatch):
    path = tmp_path / "rows.npz"
    mario_main(["record", str(path), "--rows", "60"], monkeypatch)
    mine, stored = (Replay.load(p).data for p in (path, ROOT / SHIPPED))
    for key in mine:
        assert np.array_equal(mine[key], stored[key][:, :60]), key
