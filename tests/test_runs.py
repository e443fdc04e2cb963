"""A run folder: one writer, one checkpoint, clear sentences, nothing lost."""

import contextlib
import csv
import dataclasses
import errno
import functools
import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
import zipfile
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from dreamer_lite import runs, video
from dreamer_lite.dreamer import Config, Dreamer, evaluate, train
from dreamer_lite.replay import Replay, write_whole

TINY = dict(units=16, deter=32, latents=4, classes=4, depth=4, blocks=4, device="cpu")
QUICK = dict(batch=2, length=4, horizon=2, prefill=10, ratio=2.0, log_every=1, warmup=5)
CONFIG = Config(**TINY, **QUICK, steps=40, precision="fp32")


def go(folder, env="CartPole-v1", callback=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return train(env, config, folder, callback=callback, progress=False)


def snapshot(folder):
    """What must not change when a run is refused: everything but the lock."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.lock"]
    return {p: p.read_bytes() for p in files}


def step_of(folder):
    return runs.read_checkpoint(folder)[0]["step"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "cartpole"
    go(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


class Frames(gym.Env):
    """An endless picture."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.uint8), {}

    def step(self, action):
        picture = np.full(self.observation_space.shape, 9, np.uint8)
        return picture, 0.0, False, False, {}


# Agent files


def change(path, new):
    """Write an agent file with other tensors or other facts."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors, facts = new(load(data), header["__metadata__"])
    path.write_bytes(save(tensors, facts))


def test_every_flipped_byte_of_an_agent_is_noticed(finished, tmp_path):
    data, path = runs.agent_bytes(finished), tmp_path / "agent.safetensors"
    rng = np.random.default_rng(0)
    for place in [0, 9, *rng.integers(len(data), size=100)]:
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is damaged, "):
            Dreamer.load(path)


@pytest.mark.parametrize(
    "new, words",
    [
        (lambda t, f: ({k: w * 2 for k, w in t.items()}, f), "checksum is wrong"),
        (
            lambda t, f: ({k: w.long() for k, w in t.items()}, no_sum(f)),
            "finite floats",
        ),
        (lambda t, f: ({k: w / 0 for k, w in t.items()}, no_sum(f)), "finite floats"),
        (lambda t, f: (t, {"dreamer_lite": '{"format": "x"}'}), "its format is not"),
        (lambda t, f: (t, {"other": "x"}), "'dreamer_lite'"),
    ],
)
def test_weights_that_are_no_agent_are_refused(folder, tmp_path, new, words):
    path = tmp_path / "agent.safetensors"
    path.write_bytes(runs.agent_bytes(folder))
    change(path, new)
    with pytest.raises(ValueError, match=f"agent.safetensors is damaged, .*{words}"):
        Dreamer.load(path)


def no_sum(facts):
    return {"dreamer_lite": facts["dreamer_lite"]}


def test_an_agent_file_from_before_checksums_is_read(folder, tmp_path):
    path = tmp_path / "agent.safetensors"
    path.write_bytes(runs.agent_bytes(folder))
    change(path, lambda tensors, facts: (tensors, no_sum(facts)))
    for key, weight in Dreamer.load(path).state_dict().items():
        assert torch.equal(weight, Dreamer.load(folder).state_dict()[key])


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX modes")
def test_files_have_the_mode_that_was_asked_for(folder, tmp_path):
    before = os.umask(0o027)
    try:
        Dreamer.load(folder).save(tmp_path / "agent.safetensors")
        go(tmp_path / "run")
    finally:
        os.umask(before)
    for path in (tmp_path / "agent.safetensors", tmp_path / "run" / runs.CHECKPOINT):
        assert path.stat().st_mode & 0o777 == 0o640


def test_paths_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    go("~/a run with ä/")
    assert step_of(tmp_path / "a run with ä") == 40
    Dreamer.load("~/a run with ä").save("~/agent.safetensors")
    Dreamer.load("~/agent.safetensors")
    assert not os.path.exists("~")


# The checkpoint


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.txt"
    write_whole(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power cut a name must not stand before bytes that were never written."""
    synced, sync, replace = set(), os.fsync, os.replace

    def remember(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def rename(old, new):
        assert os.stat(old).st_ino in synced, new
        replace(old, new)

    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(os, "replace", rename)
    go(tmp_path)
    assert os.stat(tmp_path / runs.CHECKPOINT).st_ino in synced


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_backup_of_links_survives_the_next_checkpoint(folder, tmp_path, link):
    backup = tmp_path / "backup"
    if link is os.link:
        shutil.copytree(folder, backup, copy_function=os.link)
    else:  # the run's own file is a link to one elsewhere
        backup.mkdir()
        os.replace(folder / runs.CHECKPOINT, backup / runs.CHECKPOINT)
        os.symlink(backup / runs.CHECKPOINT, folder / runs.CHECKPOINT)
    before = (backup / runs.CHECKPOINT).read_bytes()
    go(folder, steps=60)
    assert (step_of(folder), step_of(backup)) == (60, 40)
    assert (backup / runs.CHECKPOINT).read_bytes() == before


def test_an_agent_can_be_read_while_its_run_continues(tmp_path):
    running = threading.Thread(
        target=go, args=(tmp_path,), kwargs=dict(steps=300, checkpoint_minutes=0.0)
    )
    running.start()
    steps = set()
    while running.is_alive():
        with contextlib.suppress(FileNotFoundError):  # before the first checkpoint
            Dreamer.load(tmp_path)
            steps.add(step_of(tmp_path))
    running.join()
    assert len(steps) > 3


def members(folder):
    with zipfile.ZipFile(folder / runs.CHECKPOINT) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(folder, name, data, kind=zipfile.ZIP_STORED):
    """Replace a part of the checkpoint, as a hand or another program would."""
    parts = members(folder) | {name: data}
    with zipfile.ZipFile(folder / runs.CHECKPOINT, "w", kind) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


def assert_refused(folder, words, **changes):
    before = snapshot(folder)
    with pytest.raises(ValueError, match=words):
        go(folder, **{"steps": 50, **changes})
    assert snapshot(folder) == before


def test_a_flipped_byte_in_any_part_is_noticed_and_kept(folder):
    """The run refuses it and changes nothing, not even rows after the checkpoint."""
    for name in ("metrics.csv", "episodes.csv"):
        rows = runs.read_table(folder / name)
        runs.add_row(folder / name, dict(rows[-1], step=45))
    path, parts = folder / runs.CHECKPOINT, members(folder)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    assert {name.partition("/")[0] for name in parts} == {
        "state.json", "agent.safetensors", "optimizer.safetensors", "replay",
    }  # fmt: skip
    for data in parts.values():
        broken = bytearray(whole)
        place = whole.index(data) + rng.integers(len(data))
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        assert_refused(
            folder, "checkpoint.zip is damaged.*; restore a copy, or move it"
        )
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(folder, "is damaged")
    path.write_bytes(whole)
    go(folder, steps=50)


def test_parts_that_do_not_belong_together_are_refused(folder, tmp_path):
    whole = (folder / runs.CHECKPOINT).read_bytes()
    state = json.loads(members(folder)["state.json"])
    go(tmp_path / "larger", units=32)
    other = members(tmp_path / "larger")
    ring = state["replay"]
    changes = [
        ("agent.safetensors", other["agent.safetensors"]),
        ("optimizer.safetensors", other["optimizer.safetensors"]),
        ("replay/obs.npy", members(folder)["replay/action.npy"]),
        ("replay/obs.npy", members(folder)["replay/obs.npy"] + b"more"),
        ("state.json", b"[" * 10**5),
        *(
            ("state.json", json.dumps(state | new).encode())
            for new in (
                {"minutes": "x"}, {"minutes": -1.0}, {"credit": 1e6}, {"step": -3},
                {"episodes": [1, 2]}, {"sums": 3}, {"replay": ring | {"head": [-5]}},
                {"replay": ring | {"size": [10**9]}}, {"rates": None},
            )
        ),
    ]  # fmt: skip
    for name, data in changes:
        rewrite(folder, name, data)
        assert_refused(folder, "damaged")
        (folder / runs.CHECKPOINT).write_bytes(whole)
    rewrite(folder, "state.json", members(folder)["state.json"], zipfile.ZIP_DEFLATED)
    assert_refused(folder, "it is compressed")


def test_a_checkpoint_runs_no_code(folder):
    """Pickle would."""
    array, file = np.array([{"x": 1}], dtype=object), io.BytesIO()
    np.save(file, array, allow_pickle=True)
    rewrite(folder, "replay/obs.npy", file.getvalue())
    assert_refused(folder, "another shape or dtype")


MEMORY = """
import sys, psutil, threading, time
import numpy as np, gymnasium as gym
from dreamer_lite import runs
from dreamer_lite.replay import Replay
rows = int(sys.argv[2])
space = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
replay = Replay(rows, space, gym.spaces.Discrete(5))
me, peak = psutil.Process(), [0]
before = me.memory_info().rss
def watch():
    while True:
        peak[0] = max(peak[0], me.memory_info().rss)
        time.sleep(0.002)
with runs.open_checkpoint(sys.argv[1]) as (archive, state):
    replay.size[:] = state["replay"]["size"]
    threading.Thread(target=watch, daemon=True).start()
    runs.fill_replay(archive, replay)
print((peak[0] - before) / sum(column.nbytes for column in replay.data.values()))
assert replay.data["obs"][0, -1, 0, 0, 0] == 7
"""


def fill_checkpoint(folder, rows):
    """A checkpoint of a run with pictures whose replay is full."""
    config = dataclasses.replace(CONFIG, capacity=rows)
    space = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
    replay = Replay(rows, space, gym.spaces.Discrete(5))
    replay.data["obs"][:], replay.size[:] = 7, rows
    agent = Dreamer(space, gym.spaces.Discrete(5), config)
    ring = {"head": replay.head.tolist(), "size": replay.size.tolist()}
    state = {"replay": replay.describe() | ring}
    folder.mkdir()
    write_whole(
        folder / runs.CHECKPOINT,
        lambda file: runs.write_checkpoint(file, agent, replay, state),
    )


def test_resuming_holds_the_replay_once(tmp_path):
    fill_checkpoint(tmp_path / "run", 20_000)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "run"), "20000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.2


# One writer


def test_the_lock_holds_whatever_else_the_process_does(tmp_path):
    run = runs.Run(tmp_path / "run", CONFIG)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")  # opens and closes the lock
    with pytest.raises(BlockingIOError, match="Another run is writing in .*; wait"):
        go(tmp_path / "run")
    code = "import sys; from dreamer_lite.runs import *; Run(sys.argv[1], Config())"
    code = "from dreamer_lite.config import Config; " + code
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    other = subprocess.run(command, capture_output=True, check=False)
    assert b"BlockingIOError" in other.stderr
    run.opened.close()
    go(tmp_path / "run")


HOLD = """
import sys, time
from dreamer_lite.config import Config
from dreamer_lite.runs import Run
run = Run(sys.argv[1], Config()); print("held", flush=True); time.sleep(60)
"""


def test_the_lock_dies_with_its_process(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError):
        go(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.lock"]
    process.kill()
    process.wait()
    process.stdout.close()
    go(tmp_path)


def test_a_failed_start_frees_the_folder(tmp_path):
    with pytest.raises(TypeError):
        go(tmp_path, env=3)
    go(tmp_path)


# Which run is it


def test_another_configuration_is_refused(folder):
    words = r"another configuration \(units 16 -> 32\); choose another folder"
    assert_refused(folder, words, units=32)


def test_exactly_the_settings_of_time_and_machine_may_change(folder):
    accepted, shares = set(), ("discount", "lam", "dream_share")
    for name, old in vars(CONFIG).items():
        words = {"device": "auto", "precision": "bf16", "speed": "compile"}
        if name in words:
            new = words[name]
        elif isinstance(old, bool):
            new = not old
        else:
            new = old / 2 if name in shares else type(old)(2 * old or 1)
        config = dataclasses.replace(CONFIG, **{name: new})
        try:
            with runs.Run(folder, config) as run, contextlib.suppress(AttributeError):
                run.updates = 1  # no warning that there were none
                run.make_envs("CartPole-v1")
            accepted.add(name)
        except ValueError as error:
            assert f"({name} " in str(error)
    assert accepted == runs.FREE
    go(folder, steps=48, precision="bf16", checkpoint_minutes=1.0)
    assert step_of(folder) == 48


def make(gravity=9.8, steps=500):
    env = gym.make("CartPole-v1", max_episode_steps=steps)
    env.unwrapped.gravity = gravity
    return env


def test_another_environment_is_refused(folder, tmp_path):
    words = "another configuration .*environment CartPole-v1 -> .*; choose"
    assert_refused(folder, words, env=make)
    assert_refused(folder, words, env="CartPole-v0")
    moon = functools.partial(make, gravity=1.6)
    go(tmp_path / "moon", env=moon)
    words = r"make\(gravity=1.6\) -> .*make\(gravity=3\)"
    mars = functools.partial(make, gravity=3)
    assert_refused(tmp_path / "moon", words, env=mars)
    again = functools.partial(make, gravity=1.6)
    go(tmp_path / "moon", env=again, steps=50)


def test_an_environment_that_has_changed_is_refused(tmp_path, monkeypatch):
    go(tmp_path, env=Frames)
    larger = gym.spaces.Box(0, 255, (32, 32, 1), np.uint8)
    monkeypatch.setattr(Frames, "observation_space", larger)
    assert_refused(tmp_path, "obs_space", env=Frames)


def test_a_run_without_a_checkpoint_yet_begins_again(folder):
    (folder / runs.CHECKPOINT).unlink()
    assert_refused(folder, "another configuration", seed=1)
    go(folder)
    steps = [int(row["step"]) for row in runs.read_table(folder / "metrics.csv")]
    assert steps == sorted(set(steps)) and len(steps) > 5


def test_tables_of_nobody_are_not_dropped(folder):
    (folder / runs.CHECKPOINT).unlink()
    (folder / "config.yaml").rename(folder / "mine.yaml")
    assert_refused(folder, "holds tables, but no run .*; choose another")


def test_a_run_of_an_older_version_is_refused(folder):
    (folder / runs.CHECKPOINT).unlink()
    (folder / "checkpoint-000000040").mkdir()
    assert_refused(folder, "no run that this version could continue; choose another")


def test_what_is_written_by_hand_into_the_settings_does_not_count(folder):
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("units: 16", "units: 32"))
    assert_refused(folder, r"\(units 16 -> 32\)", units=32)
    go(folder, steps=48)
    assert Config.from_yaml(path) == dataclasses.replace(CONFIG, steps=48)


# What stops a run


def stop(error, step):
    def callback(agent, run):
        if run.step >= step:
            raise error

    return callback


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no game")])
def test_what_stops_a_run_says_what_is_kept(folder, tmp_path, error):
    with pytest.raises(type(error)) as found:
        go(folder, callback=stop(error, 50), steps=60, video_minutes=0.0)
    kept = "the newest checkpoint is of step 40; the same call continues from there."
    assert found.value.__notes__ == [f"Stopped at step 50; {kept}"]
    assert step_of(folder) == 40
    del error.__notes__
    with pytest.raises(type(error)) as found:
        go(tmp_path / "new", callback=stop(error, 50), steps=60, video_minutes=0.0)
    assert "there is no checkpoint yet; the same call begins anew" in error.__notes__[0]


def test_a_run_that_did_not_begin_has_no_note(folder):
    with pytest.raises(ValueError) as found:
        go(folder, units=32)
    assert not hasattr(found.value, "__notes__")


class Broken(gym.Wrapper):
    """Its step fails as a read-only disk does."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))

    def step(self, action):
        raise OSError(errno.EROFS, "its own save file")


@pytest.mark.parametrize("parallel", [False, True])
def test_the_environments_own_error_comes_out_as_it_is(tmp_path, parallel):
    with pytest.raises(OSError, match="its own save file") as found:
        go(tmp_path, env=Broken, envs=2, parallel=parallel)
    assert "run folder" not in str(found.value)
    assert parallel or found.value.errno == errno.EROFS
    assert "Stopped at step 0; there is no checkpoint" in found.value.__notes__[0]


def test_environments_that_cannot_be_closed_do_not_hide_the_reason(tmp_path):
    class Stuck(Frames):
        def close(self):
            raise OSError("stuck")

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, Stuck, stop(KeyboardInterrupt(), 9), video_minutes=0.0)
    go(tmp_path / "again")


SIGNALLED = """
import sys, time, gymnasium as gym
from dreamer_lite.dreamer import Config, train

class Slow(gym.Wrapper):
    def step(self, action):
        time.sleep(0.01)
        return super().step(action)

def make():
    return Slow(gym.make("CartPole-v1"))

def tell(agent, run):
    print(run.step, flush=True)

if __name__ == "__main__":
    config = Config.from_yaml(sys.argv[1])
    train(make, config, sys.argv[2], callback=tell, progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("envs", [1, 2])
def test_signals_end_a_run_with_a_checkpoint(tmp_path, number, envs):
    config = dataclasses.replace(CONFIG, steps=300, video_minutes=0.0, envs=envs)
    config = dataclasses.replace(config, parallel=envs > 1)
    config.to_yaml(tmp_path / "config.yaml")
    (tmp_path / "script.py").write_text(SIGNALLED)
    names = "script.py", "config.yaml", "run"
    command = [sys.executable, *(str(tmp_path / name) for name in names)]
    here = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=here,
    )  # fmt: skip
    while int(process.stdout.readline()) < 50:
        pass
    # A terminal sends Ctrl-C to the workers, too; SIGTERM comes to one process.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    said = process.communicate(timeout=60)[1]
    step = step_of(tmp_path / "run")
    assert 50 <= step < 300 and said.splitlines()[-2:] == [
        "KeyboardInterrupt",
        f"Stopped at step {step}; the newest checkpoint is of step {step}; the same "
        "call continues from there.",
    ]
    replay = runs.load_replay(tmp_path / "run")
    if envs == 1:  # it waited for the end of the episode
        assert replay.data["is_last"][0, step - 1]
    done = subprocess.run(command, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) == step + envs
    assert step_of(tmp_path / "run") == 300


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_second_signal_ends_a_run_at_once(tmp_path):
    def impatient(agent, run):
        if run.step == 20:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=""):
        go(tmp_path, callback=impatient, video_minutes=0.0)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / runs.CHECKPOINT).exists()


# Files that cannot be written


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="cannot be written .*file.*; free space or"):
            go(path)
    assert (tmp_path / "file").read_text() == "in the way"


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "owner, name",
    [
        (runs, "begin_table"), (runs, "add_row"), (runs, "write_checkpoint"),
        (runs, "write_page"), (Config, "to_yaml"), (os, "fsync"), (os, "replace"),
    ],
)  # fmt: skip
def test_a_full_disk_loses_nothing(folder, owner, name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(OSError, match="run folder .* cannot be written .*; free"):
            go(folder, steps=60)
    assert step_of(folder) in (40, 60)
    go(folder, steps=60)
    steps = [int(row["step"]) for row in runs.read_table(folder / "metrics.csv")]
    assert steps == sorted(set(steps)) and steps[-1] > 40 and step_of(folder) == 60


LIMITED = """
import resource, signal, sys
from dreamer_lite.dreamer import Config, train
from dreamer_lite.runs import optional
optional("torch.utils.tensorboard", "tensorboard")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
config = Config.from_yaml(sys.argv[1] + "/config.yaml")
config = Config(**dict(vars(config), steps=60))
train("CartPole-v1", config, sys.argv[1], progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX file limit")
@pytest.mark.parametrize("limit", [20_000, 3_000])
def test_files_that_may_not_grow_lose_nothing(folder, limit):
    """The system refuses to write past a size, first weights, then also the tables."""
    command = [sys.executable, "-c", LIMITED, str(folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("OSError: Th")]
    assert done.returncode == 1 and "then run the same command again" in said[-1]
    assert "Stopped at step" in done.stderr.splitlines()[-1]
    assert step_of(folder) == 40
    go(folder, steps=60)
    steps = [int(row["step"]) for row in runs.read_table(folder / "metrics.csv")]
    assert steps == sorted(set(steps)) and steps[-1] > 40


# Numbers that break


def test_losses_that_break_replace_no_checkpoint(folder, monkeypatch):
    before, step = members(folder), Dreamer.train_step

    def broken(agent, batch):
        return step(agent, batch) | {"loss/obs": torch.tensor(float("nan"))}

    monkeypatch.setattr(Dreamer, "train_step", broken)
    expected = "loss/obs became nan by update .*; the newest checkpoint is of step 40, "
    for changes in (dict(log_every=1), dict(log_every=1000)):  # at a line, at a save
        with pytest.raises(FloatingPointError, match=expected + ".* stays: begin"):
            go(folder, steps=60, **changes)
        assert members(folder) == before


def test_a_divergence_replaces_no_checkpoint(tmp_path):
    """Its weights may all be finite, and its losses are those of the weights before."""
    often = dict(steps=60, checkpoint_minutes=0.0, warmup=0, prefill=30)
    with pytest.raises(
        FloatingPointError, match="became .*the newest checkpoint is of"
    ):
        go(tmp_path, lr=1e30, **often)
    agent = Dreamer.load(tmp_path)
    assert all(w.abs().max() < 1e10 for w in agent.state_dict().values())
    assert len(evaluate(agent, "CartPole-v1", 1)) == 1


def test_weights_that_break_are_not_saved(tmp_path, monkeypatch):
    def spoiled(agent, batch):
        agent.world_model.rssm.gates.bias.data.fill_(float("inf"))
        return {"loss/obs": torch.tensor(1.0)}

    monkeypatch.setattr(Dreamer, "train_step", spoiled)
    with pytest.raises(FloatingPointError, match="gates.bias became .*no checkpoint"):
        go(tmp_path, steps=60)


# Tables


def test_a_table_is_what_the_csv_module_reads(finished):
    for name in ("metrics.csv", "episodes.csv"):
        with open(finished / name, newline="") as file:
            header, *rows = csv.reader(file)
        assert rows and all(len(row) == len(header) for row in rows)
        assert all(math.isfinite(float(cell)) for row in rows for cell in row if cell)
    assert header[:5] == ["step", "minutes", "env", "return", "length"]


def test_a_table_continues_without_the_rows_after_a_step(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("step,a\n1,5\n2,6\n3,7\n12")  # a full disk cut the last row
    assert len(runs.read_table(path)) == 3
    runs.begin_table(path, 2, ["a", "b"])
    runs.add_row(path, {"step": 3, "b": 8.123456789})
    assert path.read_text() == "step,a,b\n1,5,\n2,6,\n3,,8.12346\n"


@pytest.mark.parametrize("lose", [os.remove, lambda path: open(path, "w").close()])
def test_tables_that_are_lost_during_a_run_begin_anew(tmp_path, lose):
    def callback(agent, run):
        if run.step == 30:
            lose(tmp_path / "metrics.csv")

    go(tmp_path, callback=callback, video_minutes=0.0)
    assert 30 < int(runs.read_table(tmp_path / "metrics.csv")[0]["step"]) <= 40
    go(tmp_path, steps=50)


@pytest.mark.parametrize("name", ["step", "minutes", "env", "return", "length"])
def test_track_leaves_the_columns_of_the_table_alone(tmp_path, name):
    with pytest.raises(ValueError, match=rf"episodes.csv has \['{name}'\] already"):
        train("CartPole-v1", CONFIG, tmp_path / "run", track=(name,), progress=False)
    assert not (tmp_path / "run").exists()


def test_what_is_tracked_later_gets_a_column(folder):
    config = dataclasses.replace(CONFIG, steps=80)
    with pytest.warns(UserWarning, match="none had x"):
        train("CartPole-v1", config, folder, track="x", progress=False)
    rows = runs.read_table(folder / "episodes.csv")
    assert list(rows[0])[-1] == "x" and int(rows[-1]["step"]) > 40


def test_a_line_of_metrics_is_the_mean_of_its_updates(tmp_path, monkeypatch):
    number = itertools.count()

    def update(agent, batch):
        return {"loss/obs": torch.tensor(float(next(number)))}

    monkeypatch.setattr(Dreamer, "train_step", update)
    go(tmp_path, log_every=3)
    rows = runs.read_table(tmp_path / "metrics.csv")
    assert [(r["updates"], r["loss/obs"]) for r in rows] == [("3", "1"), ("6", "4")]


def test_lines_of_metrics_go_on_across_a_checkpoint(tmp_path):
    """A line after it is the mean of all updates since the line before it."""
    often = dict(log_every=7, ratio=8.0, steps=60, checkpoint_minutes=0.0)
    go(tmp_path / "once", **often)
    with pytest.raises(KeyboardInterrupt):
        error = stop(KeyboardInterrupt(), 50)
        go(tmp_path / "twice", callback=error, **often, video_minutes=0.0)
    assert runs.read_checkpoint(tmp_path / "twice")[0]["sums"]
    go(tmp_path / "twice", **often)
    tables = [runs.read_table(tmp_path / n / "metrics.csv") for n in ("once", "twice")]
    for row in itertools.chain(*tables):
        del row["minutes"], row["speed/replayed"]
    assert tables[0] == tables[1] and len(tables[0]) > 5


# Clock and counters


def test_minutes_are_a_budget_and_a_second_call_goes_on(tmp_path):
    config = dataclasses.replace(CONFIG, steps=10**6, prefill=10**6, ratio=0.0)
    train("CartPole-v1", config, tmp_path, minutes=0.01, progress=False)
    state = runs.read_checkpoint(tmp_path)[0]
    assert 0 < state["step"] < 10**6
    replay = runs.load_replay(tmp_path)
    assert replay.data["is_last"][0, len(replay) - 1]  # it stopped between episodes
    train("CartPole-v1", config, tmp_path, minutes=0.01, progress=False)
    again = runs.read_checkpoint(tmp_path)[0]
    assert again["step"] > state["step"]
    assert again["minutes"] >= state["minutes"] + 0.01  # its own budget on top
    assert len(runs.read_table(tmp_path / "episodes.csv")) == sum(again["episodes"])


def test_the_replay_ratio_is_kept(tmp_path):
    """Rows replayed per agent step, also with a remainder and several environments."""
    go(tmp_path, envs=3, steps=90, prefill=0, ratio=3.0)
    # 8 rows an update. Learning begins with the tick that gives each stream 4 rows.
    updates = runs.read_checkpoint(tmp_path)[0]["updates"]
    assert updates == int((90 - 12 + 3) * 3 / 8)


def test_a_run_that_learns_nothing_says_so(tmp_path):
    with pytest.warns(UserWarning, match="after 40 steps without an update; raise"):
        go(tmp_path / "a", prefill=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go(tmp_path / "b", ratio=0.0)  # nothing is what it asked for


def test_the_clock_waits_for_an_episode_but_a_minute_at_most(tmp_path, monkeypatch):
    now, written, write = [0.0], [], runs.write_checkpoint

    class Endless(Frames):
        def step(self, action):
            now[0] += 10.0
            return super().step(action)

    def remember(file, agent, replay, state):
        written.append(state["step"])
        write(file, agent, replay, state)

    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(runs, "write_checkpoint", remember)
    config = dataclasses.replace(CONFIG, steps=60, prefill=60, checkpoint_minutes=1.0)
    with pytest.warns(UserWarning, match="without an update"):
        train(Endless, config, tmp_path, minutes=4.0, progress=False)
    assert written == [12, 24, 30]  # after 1 + 1 minutes, again, and the budget 4 + 1


def test_no_pause_while_a_last_row_waits_to_be_stored(tmp_path):
    run = runs.Run(tmp_path, CONFIG)
    run.bar = SimpleNamespace(update=lambda steps: None)
    cases = [((1, 0), (0, 0), True), ((1, 0), (0, 1), False), ((0, 0), (0, 0), False)]
    for first, last, between in cases:
        flags = dict(first=np.array(first, bool), last=np.array(last, bool))
        run.count([], SimpleNamespace(**flags))
        assert run.between == between
    run.opened.close()


def test_a_run_keeps_the_newest_rows_of_its_capacity(tmp_path):
    for steps in (60, 80):  # the second call goes on with a full ring
        go(tmp_path, envs=2, capacity=24, steps=steps)
        replay = runs.load_replay(tmp_path)
        assert replay.rows == 12 and replay.size.tolist() == [12, 12]
        assert replay.head.tolist() == [steps // 2 % 12] * 2


def test_rates_that_a_callback_has_set_survive_an_interruption(folder):
    rates = []

    def fall(agent, run):
        for group in agent.optimizer.param_groups:
            rates.append(group["lr"])
            group["lr"] = 1e-9

    go(folder, callback=fall, steps=60, video_minutes=0.0)
    assert max(rates) > 1e-9
    rates.clear()
    go(folder, callback=fall, steps=80, video_minutes=0.0)
    assert rates and set(rates) == {1e-9}


def test_the_scaler_of_fp16_survives(folder):
    assert go(folder, steps=44, precision="fp16").scaler.is_enabled()
    state = json.loads(members(folder)["state.json"])
    state["scaler"] |= {"scale": 128.0, "_growth_tracker": 3}
    rewrite(folder, "state.json", json.dumps(state))
    again = go(folder, steps=44, precision="fp16")
    assert again.scaler.state_dict() == state["scaler"]
    go(folder, steps=48)  # with another precision it is left alone


class Choices(gym.Env):
    """An environment whose observation is a choice of a dtype of its own."""

    observation_space = gym.spaces.Discrete(4, dtype=np.int32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.int32(0), {}

    def step(self, action):
        self.t += 1
        return np.int32(self.t % 4), 1.0, self.t == 7, False, {}


def test_a_choice_of_another_dtype_goes_on_and_is_evaluated(tmp_path):
    go(tmp_path, env=Choices)
    go(tmp_path, env=Choices, steps=48)
    found = evaluate(Dreamer.load(tmp_path), Choices, episodes=1)
    assert found[0]["length"] == 7


# Memory


def test_a_replay_too_large_for_the_machine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "free_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match="100000 rows will need .* but only 0.0 GB"):
        go(tmp_path, steps=10**6)
    assert runs.check_memory(10**6, 100) is None


@pytest.mark.parametrize("name", ["memory.max", "memory.limit_in_bytes"])
def test_the_limit_of_a_container_counts(monkeypatch, name):
    read = runs.Path.read_text

    def limited(path, *args):
        return str(2**31) if path.name == name else read(path, *args)

    assert 10**6 < runs.free_memory()
    monkeypatch.setattr(runs.Path, "read_text", limited)
    assert 10**6 < runs.free_memory() < 2**31


# What one sees


def test_looking_does_not_change_a_run(tmp_path):
    seen = []

    def callback(agent, run):
        seen.append(run.step)
        torch.rand(3)

    agents = [
        go(tmp_path / name, Frames, callback, steps=46, video_minutes=minutes)
        for name, minutes in (("looked", 0.0), ("alone", 99.0))
    ]
    assert len(seen) == 46
    assert len(list((tmp_path / "looked" / "videos").glob("dream_*.gif"))) == 7
    a, b = (runs.load_replay(tmp_path / name).rng for name in ("looked", "alone"))
    assert a.bit_generator.state == b.bit_generator.state
    for key, value in agents[0].state_dict().items():
        assert torch.equal(value, agents[1].state_dict()[key]), key


def board_values(folder):
    """{tag: values} of a run's TensorBoard files."""
    from tensorboard.backend.event_processing.event_file_loader import (
        LegacyEventFileLoader,
    )

    found = {}
    for path in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(value)
    return found


def test_a_run_with_images_shows_its_dream(tmp_path):
    from PIL import Image

    go(tmp_path, env=Frames, steps=60, video_minutes=0.0)
    found = sorted((tmp_path / "videos").glob("dream_obs_*.gif"))
    with Image.open(found[-1]) as image:
        assert image.n_frames > 1  # equal frames are merged in the file
        assert image.size == (4 * 16, 3 * 16)
    values = board_values(tmp_path)
    assert {"dream/obs", "loss/reward", "speed/replayed"} <= set(values)
    gif = values["dream/obs"][-1].image.encoded_image_string
    with Image.open(io.BytesIO(gif)) as image:
        assert (image.format, image.size) == ("GIF", (64, 48)) and image.n_frames > 1


def test_a_dream_is_shown_where_no_episode_ends_in_it():
    """A dream knows of no reset: behind one, the error would not be the model's."""
    frame = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (16, 16, 1), np.uint8))
    replay = Replay(300, frame, gym.spaces.Discrete(2))
    for i in range(300):  # episodes of 60 rows: 40 of them fit into one
        obs = {"obs": np.full((16, 16, 1), i % 256, np.uint8)}
        replay.add(0, obs, 0, 0.0, i % 60 == 0, i % 60 == 59, i % 60 == 59)
    looked = []

    def dream(batch, context):
        looked.append(batch["is_first"][:, context:])
        return {"obs": torch.zeros(*batch["obs"].shape)}

    model = SimpleNamespace(fields=replay.fields)
    agent = SimpleNamespace(world_model=model, dream=dream)
    for seed in range(5):
        list(video.dream_videos(agent, replay, seed))
        list(video.dream_videos(agent, replay, seed, length=100))  # none fits: any
    whole, others = looked[::2], looked[1::2]
    assert all(flags.shape == (4, 35) and not flags.any() for flags in whole)
    assert all(flags.shape == (4, 95) and flags.any(1).all() for flags in others)


def test_curves_need_no_network(finished):
    text = (finished / "metrics.html").read_text(encoding="utf-8")
    assert "reward" in text and '"return"' in text
    assert "<script src=" not in text and len(text) > 10**6  # plotly is inside


@pytest.fixture
def no_memory_of_imports():
    video.optional.cache_clear()
    yield
    video.optional.cache_clear()


@pytest.mark.usefixtures("no_memory_of_imports")
def test_without_the_extras_a_run_trains_and_keeps_its_tables(
    tmp_path, monkeypatch, recwarn
):
    """`pip install .` brings neither pillow nor TensorBoard nor plotly."""
    roots = ("PIL", "tensorboard", "plotly")
    for name in list(sys.modules):
        if name.startswith((*roots, "torch.utils.tensorboard")):
            monkeypatch.delitem(sys.modules, name)
    for name in roots:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    go(tmp_path, env=Frames, steps=60, video_minutes=0.0)
    found = {path.name for path in tmp_path.iterdir()}
    tables = {"episodes.csv", "metrics.csv"}
    assert found == tables | {"run.lock", "config.yaml", runs.CHECKPOINT}
    assert not [w for w in recwarn if "cannot be used" in str(w.message)]


@pytest.mark.usefixtures("no_memory_of_imports")
@pytest.mark.parametrize("error", [TypeError, ImportError, RuntimeError])
def test_extras_that_are_broken_cost_one_warning_each(tmp_path, monkeypatch, error):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name in ("torch.utils.tensorboard", "PIL.Image", "plotly.io"):
                raise error("Descriptors cannot be created directly")

    for name in ("torch.utils.tensorboard", "PIL.Image", "plotly.io"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.warns(UserWarning) as found:
        go(tmp_path, env=Frames, steps=60, video_minutes=0.0)
    said = [str(w.message) for w in found if "cannot be used" in str(w.message)]
    assert sorted(text.split()[0] for text in said) == ["PIL", "plotly", "tensorboard"]
    assert step_of(tmp_path) == 60


def test_a_bar_shows_progress_if_asked(tmp_path, capsys):
    go(tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    train("CartPole-v1", CONFIG, tmp_path / "bar", progress=True)
    shown = capsys.readouterr().err
    assert "40/40" in shown and "replayed/s=" in shown and "return=" in shown


# Videos


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_comparison_stacks_real_dreamed_error(channels):
    real = np.random.default_rng(0).integers(0, 256, (2, 3, 4, channels), np.uint8)
    shown = real if channels == 3 else real[..., :1].repeat(3, -1)
    stack = video.compare_frames(real, 255 - real)
    assert stack.shape == (2, 9, 4, 3) and (stack[:, :3] == shown).all()
    assert (stack[:, 6:] == video.error_frames(real, 255 - real)).all()
    beside = video.compare_frames(real, real, axis=2)
    assert beside.shape == (2, 3, 12, 3) and (beside[:, :, 8:] == 255).all()
    black, white = np.zeros_like(real), np.full_like(real, 255)
    assert tuple(video.error_frames(black, white)[0, 0, 0]) == video.WRONG


@pytest.mark.parametrize("fps", [5, 7.5, 15, 30, 50, 60, 100])
def test_a_gif_lasts_as_long_as_its_frames(tmp_path, fps):
    from PIL import Image

    rng = np.random.default_rng(0)  # equal frames would be merged
    frames = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
    video.write_gif(tmp_path / "x.gif", frames, fps)
    with Image.open(tmp_path / "x.gif") as image:
        lasts = []
        for page in range(image.n_frames):
            image.seek(page)
            lasts.append(image.info["duration"])
    assert min(lasts) >= 20 and all(x % 10 == 0 for x in lasts)
    assert sum(lasts) == pytest.approx(60 / fps * 1000, abs=10)
