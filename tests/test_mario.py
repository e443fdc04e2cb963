"""The commands of notebook 10, from end to end on the real game."""

import csv
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from dreamer_lite import mario_cli, playing
from dreamer_lite.config import Config
from dreamer_lite.dreamer import Dreamer
from dreamer_lite.envs import build_env
from dreamer_lite.mario import PROFILES, make_mario
from dreamer_lite.replay import Replay, replay_bytes
from dreamer_lite.runs import load_replay, read_checkpoint

ROOT = Path(__file__).parents[1]
TINY = dict(units=16, deter=64, latents=4, classes=4, depth=4, length=8, batch=2)


def run(*arguments, cwd=ROOT):
    """A command as a reader types it; one thread, for tests run side by side."""
    command = [sys.executable, "-m", "dreamer_lite.mario", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=env,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def agent_file(tmp_path_factory):
    """An agent that knows nothing yet, with notes beside it."""
    env = build_env(make_mario)
    torch.manual_seed(0)
    agent = Dreamer(env.observation_space, env.action_space, Config(**TINY))
    env.close()
    path = tmp_path_factory.mktemp("agent") / "small.safetensors"
    agent.save(path)
    path.with_suffix(".json").write_text('{"steps": 7}')
    return path


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_debug_profile_trains_with_all_parts_and_the_same_command_goes_on(tmp_path):
    logdir = tmp_path / "run"
    train = ["train", "--logdir", logdir, "--profile", "debug", "--quiet"]

    def state():
        return read_checkpoint(logdir)[0]

    first = run(*train, "--minutes", 0.02)  # until an episode ends
    assert first.returncode == 0, first.stderr
    stopped = state()
    assert f"{stopped['step']} of 500 steps; the same command goes on" in first.stdout
    assert 0 < stopped["step"] < 500
    other = run(*train, "--seed", 1)
    assert other.returncode == 1 and "another configuration" in other.stderr
    assert other.stderr.startswith("train: ") and other.stderr.count("\n") == 1

    second = run(*train)
    assert second.returncode == 0, second.stderr
    assert second.stdout.endswith("500 of 500 steps; its steps are done\n")
    assert state()["step"] == 500 and state()["updates"] > stopped["updates"]
    assert state()["minutes"] > stopped["minutes"]
    assert len(load_replay(logdir)) == 500
    for name in ("config.yaml", "metrics.html", "metrics.csv", "episodes.csv"):
        assert (logdir / name).stat().st_size > 0
    episodes = rows_of(logdir / "episodes.csv")
    assert {"return", "x_pos", "flag_get", "time"} <= set(episodes[0])
    steps = [int(row["step"]) for row in episodes]
    assert steps == sorted(steps) and steps[0] <= stopped["step"] + 300
    videos = {path.name.rsplit("_", 1)[0] for path in (logdir / "videos").iterdir()}
    assert videos == {"dream_obs", "episode"}


def test_training_from_an_agent_takes_over_its_weights_and_sizes(
    agent_file, tmp_path, monkeypatch
):
    config, minutes = playing.mario_config("evening", agent_file, seed=3)
    assert (config.deter, config.depth, config.seed, minutes) == (64, 4, 3, 240.0)
    assert config.envs == PROFILES["evening"]["envs"]
    quick = dict(PROFILES["debug"], envs=1, parallel=False, prefill=60, ratio=1e-3)
    quick |= dict(steps=64, video_minutes=60.0, length=8)
    asked, act = [], Dreamer.act
    monkeypatch.setattr(Dreamer, "act", lambda *a: asked.append(a) or act(*a))
    agent = playing.train_mario(tmp_path, quick, start=agent_file, progress=False)
    before = playing.load_agent(agent_file).state_dict()
    assert all(torch.equal(w, before[key]) for key, w in agent.state_dict().items())
    replay = load_replay(tmp_path)
    assert len(replay) == len(asked) == 64  # its own play, from the first step on


def test_a_run_from_an_agent_has_its_rates(agent_file, tmp_path):
    own = dict(lr=1e-5, critic_lr=2e-5, actor_lr=3e-6, warmup=7)
    small = playing.load_agent(agent_file)
    path = tmp_path / "own.safetensors"
    Dreamer(small.obs_space, small.action_space, Config(**TINY, **own)).save(path)
    for profile in ("evening", "hour"):  # the second one has rates, for its own size
        config, _ = playing.mario_config(profile, path)
        assert {name: getattr(config, name) for name in own} == own
    rates = {p: playing.mario_config("hour", preset=p)[0].lr for p in ("3m", "12m")}
    assert rates == {"3m": 6e-4, "12m": Config.preset("12m").lr}


def test_options_reach_training_and_play(tmp_path, monkeypatch):
    asked, played = [], SimpleNamespace(info={"flag_get": True}, total=0.0)

    def train(make_env, config, *given, **more):
        asked.append(((make_env, config, *given), more))
        return SimpleNamespace(config=config)

    monkeypatch.setattr(playing, "train", train)
    words = ["train", "--logdir", str(tmp_path), "--speed", "compile", "--preset", "1m"]
    mario_cli.main([*words, "--seed", "7", "--minutes", "3", "--quiet"])
    (_, config, _, minutes, *_), more = asked.pop()
    assert (config.speed, config.units, config.seed) == ("compile", 64, 7)
    assert (minutes, more) == (3.0, {"progress": False})
    monkeypatch.setattr(playing, "load_agent", lambda path: None)
    play = lambda agent, *given, **_: asked.append(given) or played  # noqa: E731
    monkeypatch.setattr(playing, "play_episode", play)
    monkeypatch.setenv("DISPLAY", ":0")
    mario_cli.main(["play", "--seed", "9", "--steps", "12", "--human"])
    assert asked == [(9, 12, True)]


def test_a_size_beside_an_agent_to_start_from_is_refused(agent_file, tmp_path):
    command = ["train", "--logdir", str(tmp_path / "run"), "--preset", "12m"]
    with pytest.raises(SystemExit, match="preset '12m' was asked for, too; leave one"):
        mario_cli.main([*command, "--from", str(agent_file)])
    assert not (tmp_path / "run").exists()


def test_an_agent_of_another_environment_is_refused(tmp_path):
    spaces = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)
    path = tmp_path / "cartpole.safetensors"
    Dreamer(*spaces, Config(units=16, deter=32, depth=4, blocks=4)).save(path)
    for command in (["play", "--out", str(tmp_path / "x.gif")], ["evaluate"]):
        with pytest.raises(
            SystemExit, match="The agent expects an environment with 'obs'"
        ):
            mario_cli.main([*command, str(path)])


@pytest.mark.parametrize(
    "words, noops, sticky",
    [([], 0, 0), (["--noops", "30"], 30, 0), (["--sticky", "0.25"], 0, 0.25)],
)
def test_the_game_is_as_asked(words, noops, sticky, tmp_path, monkeypatch, agent_file):
    made = []

    def train(make_env, config, *_, **__):
        made.append(make_env())
        return SimpleNamespace(config=config)

    monkeypatch.setattr(playing, "train", train)
    mario_cli.main(["train", "--logdir", str(tmp_path), "--quiet", *words])
    real = playing.make_mario
    monkeypatch.setattr(
        playing, "make_mario", lambda **game: made.append(real(**game)) or made[-1]
    )
    out = str(tmp_path / "film.gif")
    mario_cli.main(["play", str(agent_file), "--steps", "2", "--out", out, *words])
    for env in made:
        options = env.unwrapped.options
        assert (options.noops, options.sticky) == (noops, sticky)
        env.close()
    assert len(made) == 2


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_a_valid_config_that_fits_its_memory(name):
    config, minutes = playing.mario_config(name)
    assert config.capacity // config.envs >= config.length
    assert config.prefill < config.steps and (minutes is None or minutes > 0)
    screen = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
    memory = replay_bytes(config.capacity, screen, gym.spaces.Discrete(5))
    assert memory < 5e9
    expected = "A profile is one of debug, short, .* 'turbo'; choose one"
    with pytest.raises(ValueError, match=expected):
        playing.mario_config("turbo")


def test_gpu_profile_on_a_machine_without_one_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    small = dict(PROFILES["gpu"], envs=1, parallel=False, capacity=1000, steps=900)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        playing.train_mario(tmp_path, small, preset="1m", progress=False)


def test_hours_to_finish_follow_from_the_last_lines(tmp_path):
    Config(steps=1600).to_yaml(tmp_path / "config.yaml")
    (tmp_path / "metrics.csv").write_text("step,minutes,updates\n100,1,5\n")
    assert playing.hours_to_finish(tmp_path) is None
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("400,4,10\n")  # 100 steps a minute, 1200 are left
    assert playing.hours_to_finish(tmp_path) == pytest.approx(0.2)


def test_runs_live_in_drive_only_if_it_is_mounted(monkeypatch, tmp_path):
    assert playing.default_logdir("evening", tmp_path) == str(
        tmp_path / "mario_evening"
    )
    one, two = playing.default_logdir("short"), playing.default_logdir("short")
    assert one != two and Path(one).is_dir() and not list(Path(two).iterdir())
    monkeypatch.setattr(Path, "is_dir", lambda path: "MyDrive" in str(path))
    assert "MyDrive" in playing.default_logdir("gpu", tmp_path)


def test_play_writes_a_gif_of_the_screen_or_of_the_dream(agent_file, tmp_path):
    screen, dream = tmp_path / "screen.gif", tmp_path / "dream.gif"
    mario_cli.main(["play", str(agent_file), "--out", str(screen), "--steps", "20"])
    options = ["--out", str(dream), "--steps", "20", "--dream"]
    mario_cli.main(["play", str(agent_file), *options])
    with Image.open(screen) as image:
        assert image.size == (256, 240) and image.n_frames > 10
    with Image.open(dream) as image:
        assert (
            image.size == (3 * (3 * 64 + 2 * playing.GAP), 3 * 64)
            and image.n_frames > 10
        )


def test_an_episode_is_stored_as_the_replay_would_store_it(agent_file):
    agent = playing.load_agent(agent_file)
    played = playing.play_episode(agent, seed=3, max_steps=25)
    rows = played.rows
    assert len(rows["obs"]) == 26 == len(played.screens)
    assert rows["is_first"].tolist() == [True] + [False] * 25
    assert rows["is_last"].tolist() == [False] * 25 + [True]
    assert not rows["is_terminal"].any() and not rows["action"][-1].any()
    assert (rows["action"][:-1].sum(-1) == 1).all()
    env = make_mario()
    env.reset(seed=3)
    for t in range(25):
        obs, reward, *_ = env.step(int(rows["action"][t].argmax()))
        assert np.array_equal(obs, rows["obs"][t + 1])
        assert np.float32(reward) == rows["reward"][t + 1]
    env.close()
    again = playing.play_episode(agent, seed=3, max_steps=25)
    assert np.array_equal(again.rows["action"], rows["action"])


def test_a_dream_sees_no_frame_after_its_context(agent_file):
    agent = playing.load_agent(agent_file)
    rows = playing.play_episode(agent, seed=3, max_steps=25).rows
    whole = playing.dream_beside(agent, rows, context=5, horizon=30)
    assert whole.shape == rows["obs"].shape and whole.dtype == np.uint8
    blind = dict(
        rows, obs=np.where(np.arange(26)[:, None, None, None] < 5, rows["obs"], 0)
    )
    assert np.array_equal(playing.dream_beside(agent, blind, 5, 30), whole)
    short = playing.dream_beside(agent, rows, context=5, horizon=7)
    assert short.shape == whole.shape and np.array_equal(short[:12], whole[:12])
    assert not np.array_equal(short[12:], whole[12:])


def test_human_play_shows_a_window_at_the_games_pace(agent_file, monkeypatch):
    shown = []
    from dreamer_lite.emulator import load_emulator

    monkeypatch.setattr(load_emulator()[0], "render", lambda nes: shown.append(1))
    agent, start = playing.load_agent(agent_file), time.monotonic()
    played = playing.play_episode(agent, max_steps=9, show=True)
    assert len(shown) == 4 * 9 and not len(played.screens)
    assert time.monotonic() - start >= 9 / 15


def ends_by_hand():
    """How four episodes end: two flags, a pit and a Goomba."""
    ends = [
        dict(env=0, x_pos=3161.0, flag_get=1.0, dead=0.0, stuck=0.0, time=300.0)
    ] * 2
    ends += [dict(ends[0], flag_get=0.0, dead=1.0, x_pos=x) for x in (1130.0, 301.0)]
    return [dict(end, length=9, **{"return": end["x_pos"] / 16}) for end in ends]


@pytest.mark.parametrize("words, sticky", [([], 0), (["--sticky", "0.25"], 0.25)])
def test_the_evaluation_begins_after_idle_frames_and_is_as_sticky_as_asked(
    words, sticky, agent_file, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        playing, "evaluate", lambda *given: asked.append(given) or ends_by_hand()
    )
    options = ["--episodes", "4", "--seed", "5", "--envs", "2", *words]
    mario_cli.main(["evaluate", str(agent_file), *options])
    [(player, make_env, *rest)] = asked
    assert isinstance(player, Dreamer) and rest == [4, 2, 5, playing.TRACK, True]
    env = make_env()
    options = env.unwrapped.options
    assert (options.noops, options.sticky) == (30, sticky)
    env.close()


def test_evaluate_ends_with_the_flag_rate_and_writes_everything(
    agent_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(playing, "evaluate", lambda *_: ends_by_hand())
    out = tmp_path / "result.json"
    options = ["--episodes", "4", "--baselines", "--sticky", "0.25", "--out", str(out)]
    mario_cli.main(["evaluate", str(agent_file), *options])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "flag rate: 0.50 (2/4)"
    assert any("95 % interval 0.15 to 0.85" in text for text in printed)
    result = json.loads(out.read_text())
    assert result["protocol"] == {
        "episodes": 4, "seed": 0, "sticky": 0.25, "noops": 30, "actions": "sampled",
        "envs": 4,
    }  # fmt: skip
    assert result["agent"]["steps"] == 7 and len(result["agent"]["sha256"]) == 64
    assert result["hardware"]["torch"] == torch.__version__ and "commit" in result
    assert list(result["players"]) == [
        "agent",
        "random",
        "right and jump",
        "fixed list",
    ]
    found = result["players"]["agent"]
    assert found["deaths_by_x"] == {"300": 1, "1100": 1} and found["deaths"] == 2
    assert found["x_quartiles"][0] == 301 and len(found["each"]) == 4


def test_evaluation_plays_whole_seeded_episodes(agent_file):
    agent = playing.load_agent(agent_file)
    once = dict(episodes=1, seed=5, envs=1, parallel=False)
    assert playing.evaluate_mario(agent, **once) == playing.evaluate_mario(
        agent, **once
    )
    walk = playing.Scripted(lambda rng: itertools.repeat(1))
    found = playing.evaluate_mario(walk, 3, envs=2, parallel=False)
    assert (found["episodes"], found["deaths"], found["flags"]) == (3, 3, 0)
    assert {int(x) for x in found["deaths_by_x"]} <= {200, 300}


def test_wilson_interval_by_hand():
    z2 = 1.96**2
    assert playing.wilson(4, 4)[0] == pytest.approx(4 / (4 + z2))
    assert playing.wilson(4, 4)[1] == 1.0
    assert playing.wilson(0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    low, high = playing.wilson(50, 100)
    half = 1.96 * math.sqrt(0.25 / 100 + z2 / 40_000) / (1 + z2 / 100)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    assert playing.wilson(97, 100) == pytest.approx((0.9155, 0.9897), abs=1e-3)


def test_record_makes_the_shipped_file_and_refuses_to_overwrite(tmp_path, capsys):
    path = tmp_path / "rows.npz"
    command = ["record", str(path), "--rows", "60"]
    mario_cli.main(command)
    mine = Replay.load(path).data
    stored = Replay.load(ROOT / "data/mario_episodes.npz").data
    for key in mine:
        assert np.array_equal(mine[key], stored[key][:, :60]), key
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="is there already; add --overwrite"):
        mario_cli.main(command)
    assert path.read_bytes() == before
    mario_cli.main([*command, "--overwrite", "--seed", "1"])
    assert path.read_bytes() != before
    assert "wrote" in capsys.readouterr().out


def test_bad_files_are_named_in_one_sentence(tmp_path):
    missing = run("evaluate", tmp_path / "none.safetensors")
    assert missing.returncode == 1 and missing.stdout == ""
    assert "There is no agent at" in missing.stderr and missing.stderr.count("\n") == 1
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no agent")
    for command in ("play", "evaluate"):
        with pytest.raises(SystemExit, match="damaged or foreign"):
            mario_cli.main([command, str(broken)])


@pytest.mark.parametrize(
    "command, words",
    [
        ("evaluate --episodes 0", "--episodes is at least 1, but got 0; choose a"),
        ("evaluate --envs 0", "--envs is at least 1, but got 0; choose a larger"),
        ("evaluate --seed -1", "--seed is at least 0, but got -1;"),
        ("evaluate --out none/x.json", "no folder none; make it first"),
        ("play --steps -3", "--steps is at least 1, but got -3;"),
        ("play --out none/x.gif", "--out is a file in a folder that exists, but there"),
        ("play --out .", "--out is a file, but . is a folder; add a name"),
        ("play --human", "--human needs a display, but DISPLAY is not set; leave it"),
        ("train --minutes -1", "--minutes is at least 0, but got -1.0;"),
        ("evaluate --sticky 1", "--sticky is below 1, but got 1.0; choose a smaller"),
        ("evaluate --seed 4294967296", "--seed is below 4294967296, but got"),
        ("play --out x.mp4", "--out is a .gif, but got x.mp4; give it that ending"),
        ("train --minutes nan", "--minutes is at least 0, but got nan;"),
        (
            "record none/x.npz",
            "path is a file in a folder that exists, but there is no",
        ),
        ("record x.npz --rows 0", "--rows is at least 1, but got 0;"),
    ],
)
def test_wrong_options_are_named_before_anything_is_played(
    command, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mario_cli.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    for name in ("record", "train", "play", "evaluate"):
        monkeypatch.setattr(mario_cli, name, lambda o: pytest.fail("it was played"))
    with pytest.raises(SystemExit) as stopped:
        mario_cli.main(command.split())
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert said.startswith(command.split()[0] + ": ") and words in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_the_keyboard_stops_training_in_one_sentence(tmp_path):
    """Ctrl-C reaches the workers, too; none of them prints how it died."""
    command = [
        sys.executable,
        "-m",
        "dreamer_lite.mario",
        "train",
        "--profile",
        "debug",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--quiet", "--logdir", tmp_path / "run"],
        cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 300
    while not (tmp_path / "run" / "config.yaml").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert re.match(
        r"train: Stopped at step \d+; .*, the same call", said.splitlines()[-1]
    )


@pytest.mark.parametrize("text", ['{"steps": 7', "[1, 2]", b"\xff"])
def test_torn_notes_beside_an_agent_are_named(agent_file, tmp_path, text):
    agent = tmp_path / "small.safetensors"
    agent.write_bytes(agent_file.read_bytes())
    notes = agent.with_suffix(".json")
    notes.write_bytes(text if isinstance(text, bytes) else text.encode())
    expected = r"small.json should hold one JSON object.*; correct it or restore"
    with pytest.raises(ValueError, match=expected):
        playing.about_agent(agent)
    with pytest.raises(ValueError, match=expected):
        playing.known_run(notes)
    with pytest.raises(SystemExit, match=f"^evaluate: .*{expected}"):
        mario_cli.main(["evaluate", str(agent)])


def test_help_needs_no_torch():
    code = "import sys; from dreamer_lite import mario_cli\n"
    code += "try: mario_cli.main(['train', '--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.endswith("False\n") and "--profile" in done.stdout
