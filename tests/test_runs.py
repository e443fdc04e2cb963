"""The run folder: whole files, one writer, clear sentences, a page of curves."""

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from dreamer_lite import files, runs
from dreamer_lite.dreamer import Config, Dreamer, evaluate, train
from dreamer_lite.envs import EnvFactory, make_vector
from dreamer_lite.files import Checkpoints, FolderLock, Table, write_atomically
from dreamer_lite.page import render
from dreamer_lite.replay import Replay

TINY = dict(units=16, deter=32, latents=4, classes=4, depth=4, blocks=4, device="cpu")
QUICK = dict(batch=2, length=4, horizon=2, prefill=10, ratio=2.0, log_every=1, warmup=5)
CONFIG = Config(**TINY, **QUICK, steps=40, precision="fp32")


def go(folder, env="CartPole-v1", **changes):
    return train(env, dataclasses.replace(CONFIG, **changes), folder, progress=False)


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Files


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fail(partial):
        partial.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_table_takes_columns_that_appear_late(tmp_path):
    table = Table(tmp_path / "t.csv")
    table.add({"step": 1, "a": 0.123456789})
    table.add({"step": 2, "b": 5})
    table.add({"step": 3, "a": 1.0, "b": 6})
    text = (tmp_path / "t.csv").read_text()
    assert text.split() == ["step,a,b", "1,0.123457,", "2,,5", "3,1,6"]
    assert (
        Table(tmp_path / "t.csv", 3).rows[0].items()
        >= {"a": "0.123457", "b": ""}.items()
    )


def test_table_goes_on_from_a_step_without_what_came_after(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("step,a\n1,5\n2,6\n3,7\n12")  # the last line was cut short
    table = Table(path, 2)
    table.add({"step": 3, "a": 8})
    assert path.read_text().split() == ["step,a", "1,5", "2,6", "3,8"]
    path.write_text("")
    assert Table(path, 2).rows == []


def test_a_table_that_is_only_read_stays_as_it_is(tmp_path):
    """A notebook looks at a run while it is written."""
    path = tmp_path / "t.csv"
    path.write_text("step,a\n1,5\n3,7\n12")
    table = Table(path, 2)
    assert (table.found, len(table.rows)) == (2, 1)
    assert path.read_text() == "step,a\n1,5\n3,7\n12"
    table.sync()
    assert path.read_text() == "step,a\n1,5\n"


@pytest.mark.parametrize(
    "text, words",
    [
        ("time,loss\n1,5\n", "no column step"),
        ("one line of a letter", "no column step"),
        ("step,a\nfirst,5\n", "invalid literal"),
        ("step,a\n1,5,6\n", "longer than the header"),
        (b"step,a\n1,\xff\n", "can't decode"),
    ],
)
def test_a_foreign_table_is_named(tmp_path, text, words):
    path = tmp_path / "metrics.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = snapshot(tmp_path)
    expected = rf"metrics.csv should be a table .*{words}.*; choose another folder"
    with pytest.raises(ValueError, match=expected):
        Table(path)
    with pytest.raises(ValueError, match=expected):
        go(tmp_path)
    (tmp_path / "run.lock").unlink()
    assert snapshot(tmp_path) == before


def test_checkpoints_stay_until_a_new_one_is_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.write(1, {"a": lambda p: p.write_text("one")})

    def fail(partial):
        raise RuntimeError("no space left")  # as torch says it

    with pytest.raises(OSError, match="previous one is kept, so free space"):
        checkpoints.write(2, {"a": lambda p: p.write_text("two"), "b": fail})
    assert checkpoints.latest().name == "checkpoint-000000001"
    (tmp_path / "checkpoint-000000003.partial").mkdir()  # of a process that was killed
    assert (checkpoints.latest() / "a").read_text() == "one"
    checkpoints.write(4, {"a": lambda p: p.write_text("four")})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-000000004"]
    checkpoints.write(4, {"a": lambda p: p.write_text("again")})
    assert (checkpoints.latest() / "a").read_text() == "four"


def test_the_newest_of_two_checkpoints_counts(tmp_path):
    """A process that died just after it wrote one leaves the one before as well."""
    checkpoints = Checkpoints(tmp_path)
    names = [f"checkpoint-{step:09d}" for step in (80, 999_999_999, 10**9)]
    for name in reversed(names):
        (tmp_path / name).mkdir()
    assert checkpoints.latest().name == "checkpoint-1000000000"
    checkpoints.write(10**9 + 1, {"a": lambda p: p.write_text("one")})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1000000001"]


def test_an_old_checkpoint_is_emptied_before_it_goes(tmp_path):
    """A drive with a waste basket would fill up with whole ones."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, {"a": lambda p: p.write_text("one")})
    os.link(checkpoints.latest() / "a", tmp_path / "basket")
    checkpoints.write(2, {"a": lambda p: p.write_text("two")})
    assert (tmp_path / "basket").read_bytes() == b""
    assert (checkpoints.latest() / "a").read_text() == "two"


def test_a_folder_that_cannot_be_synced_is_written(tmp_path, monkeypatch):
    sync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "as a shared folder says")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_atomically(tmp_path / "x.txt", lambda p: p.write_text("whole"))
    assert (tmp_path / "x.txt").read_text() == "whole"


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power cut a name must not stand before bytes that were never written."""
    synced, sync, replace = set(), os.fsync, os.replace

    def remember(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def rename(old, new):
        assert os.path.isdir(old) or os.stat(old).st_ino in synced, new
        replace(old, new)

    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(os, "replace", rename)
    write_atomically(tmp_path / "x.txt", lambda p: p.write_text("whole"))
    Checkpoints(tmp_path).write(1, {"a": lambda p: p.write_text("one")})
    assert os.stat(tmp_path).st_ino in synced  # the list of names, too


def test_weights_are_read_at_once(tmp_path):
    """A run may remove its old checkpoint while another program reads it."""
    path = tmp_path / "agent.safetensors"
    space = gym.spaces.Box(-1, 1, (3,), np.float32)
    Dreamer(space, gym.spaces.Discrete(2), CONFIG).save(path)
    *_, weights = files.load_agent(path)
    before = {key: weight.sum().item() for key, weight in weights.items()}
    with open(path, "rb+") as file:
        file.write(bytes(path.stat().st_size))
    assert {key: weight.sum().item() for key, weight in weights.items()} == before


def test_a_table_that_another_program_shows_is_written_later(tmp_path, monkeypatch):
    table = Table(tmp_path / "t.csv")
    table.add({"step": 1})

    def shown(*_):
        raise PermissionError(errno.EACCES, "as Windows says")

    with monkeypatch.context() as patch:
        for name in ("_append", "_write_all"):
            patch.setattr(Table, name, shown)
        with pytest.raises(PermissionError):  # elsewhere it is an error
            table.add({"step": 2})
        patch.setattr(files, "SHOWN", PermissionError)
        with pytest.warns(UserWarning, match="t.csv is open in another program"):
            table.add({"step": 3})
        with pytest.warns(UserWarning, match="its rows are kept"):
            table.sync()
    assert (tmp_path / "t.csv").read_text() == "step\n1\n"
    table.sync()
    assert (tmp_path / "t.csv").read_text() == "step\n1\n2\n3\n"


def test_only_folders_named_like_ours_are_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    names = ["checkpoint-000000080-best", "checkpoint-old", "checkpoint-7.partial.mine"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-000000099").write_text("a file")
    assert checkpoints.latest() is None
    for step in (80, 120):
        checkpoints.write(step, {"a": lambda p: p.write_text("one")})
    ours = ["checkpoint-000000099", "checkpoint-000000120"]
    assert {p.name for p in tmp_path.iterdir()} == {*names, *ours}


# One writer


def test_a_folder_has_one_writer(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError, match="Another run is writing"):
        FolderLock(tmp_path)
    code = "import sys; from dreamer_lite.files import FolderLock; FolderLock('.')"
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False
    )
    assert b"BlockingIOError" in other.stderr  # who was refused has not freed it
    lock.release()
    lock.release()
    FolderLock(tmp_path).release()


def test_the_lock_counts_between_processes_and_dies_with_them(tmp_path):
    code = (
        "import sys, time; from dreamer_lite.files import FolderLock\n"
        "lock = FolderLock(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    before = snapshot(tmp_path)
    with pytest.raises(BlockingIOError, match="wait for it or stop it"):
        go(tmp_path)
    assert snapshot(tmp_path) == before
    process.kill()
    process.wait()
    process.stdout.close()
    FolderLock(tmp_path).release()


def test_a_failed_start_frees_the_folder(tmp_path):
    with pytest.raises(TypeError):
        go(tmp_path, env=3)
    FolderLock(tmp_path).release()


# Clear sentences, nothing lost


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "cartpole"
    go(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    import shutil

    return shutil.copytree(finished, tmp_path / "copy")


def test_another_configuration_is_refused(folder):
    before = snapshot(folder)
    with pytest.raises(ValueError, match=r"another configuration \(units 16 -> 32\)"):
        go(folder, units=32)
    assert snapshot(folder) == before


def test_settings_of_the_machine_may_change(folder):
    go(folder, steps=48, precision="bf16", checkpoint_minutes=1.0)
    assert Checkpoints(folder).latest().name == "checkpoint-000000048"


def test_exactly_the_settings_of_the_machine_may_change(folder):
    accepted = set()
    for name, old in vars(CONFIG).items():
        words = {"device": "auto", "precision": "bf16", "speed": "compile"}
        if name in words:
            new = words[name]
        elif isinstance(old, bool):
            new = not old
        else:
            new = old / 2 if name in ("discount", "lam") else type(old)(2 * old or 1)
        config = dataclasses.replace(CONFIG, **{name: new})
        try:
            runs.Run(folder, config).lock.release()
            accepted.add(name)
        except ValueError as error:
            assert f"({name} " in str(error)
    clock = {"log_every", "checkpoint_minutes", "video_minutes"}
    assert accepted == {"steps", "device", "precision", "speed", "parallel"} | clock


def add_rows_after_the_checkpoint(folder):
    """As a run leaves them that was killed: a new start would drop them."""
    for name in ("metrics.csv", "episodes.csv"):
        table = Table(folder / name, 10**9)
        table.add(dict(table.rows[-1], step=45))


def test_another_environment_is_refused(folder):
    add_rows_after_the_checkpoint(folder)
    before = snapshot(folder)
    with pytest.raises(ValueError, match="another environment .*; choose another"):
        go(folder, env="Acrobot-v1", steps=50)
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", ["state.json", "training.pt", "replay.npz"])
def test_a_damaged_checkpoint_is_named_and_kept(folder, name):
    add_rows_after_the_checkpoint(folder)
    path = Checkpoints(folder).latest() / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = snapshot(folder)
    with pytest.raises(ValueError, match=f"is damaged: {name} cannot be read"):
        go(folder, steps=50)
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", ["state.json", "training.pt"])
def test_a_checkpoint_that_lacks_something_is_damaged(folder, name):
    path = Checkpoints(folder).latest() / name
    if name == "state.json":
        path.write_text('{"step": 40}')
    else:
        torch.save({"agent": {}}, path)
    before = snapshot(folder)
    with pytest.raises(ValueError, match=f"is damaged: {name} cannot be read"):
        go(folder, steps=50)
    assert snapshot(folder) == before


def lose_the_checkpoint(folder):
    import shutil

    shutil.rmtree(Checkpoints(folder).latest())
    return snapshot(folder)


def test_a_run_without_a_checkpoint_yet_begins_again(folder):
    """Killed before its first one: the same command makes its rows anew."""
    before = lose_the_checkpoint(folder)
    with pytest.raises(ValueError, match="another configuration .*; choose another"):
        go(folder, seed=1)
    assert snapshot(folder) == before
    go(folder)
    steps = [int(row["step"]) for row in Table(folder / "metrics.csv", 999).rows]
    assert steps == sorted(set(steps)) and len(steps) > 5


def test_rows_of_nobody_are_not_dropped(folder):
    lose_the_checkpoint(folder)
    (folder / "config.yaml").unlink()
    before = snapshot(folder)
    with pytest.raises(ValueError, match="with rows, but no run .*; choose another"):
        go(folder)
    assert snapshot(folder) == before


@pytest.mark.parametrize("edited", [False, True])
def test_a_run_asks_its_agent_how_it_is_configured(folder, edited):
    """The sizes, but also what no weight shows: another `envs` is another ratio."""
    path = folder / "config.yaml"
    if edited:  # by hand, and then it is no longer what the run began with
        path.write_text(path.read_text().replace("units: 16", "units: 32"))
    else:
        path.unlink()
    before = snapshot(folder)
    for changes, words in ((dict(units=32), "units 16"), (dict(envs=2), "envs 1")):
        with pytest.raises(ValueError, match=rf"another configuration \({words} -> "):
            go(folder, **changes)
        assert snapshot(folder) == before
    go(folder, steps=48)
    config = Config.from_yaml(path)
    assert (config.steps, config.units) == (48, 16)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        expected = "should be a folder, but .*file is a file; choose another folder"
        with pytest.raises(OSError, match=expected):
            go(path)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(runs.Path, "mkdir", refuse)
    with pytest.raises(OSError, match="cannot be written .* choose a folder"):
        go(tmp_path / "run")


def stop(error, step):
    def callback(agent, run):
        if run.step >= step:
            raise error

    return callback


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no game")])
def test_what_stops_a_run_says_what_is_kept(folder, tmp_path, error):
    options = dict(callback=stop(error, 50), progress=False)
    config = dataclasses.replace(CONFIG, steps=60, video_minutes=0.0)
    with pytest.raises(type(error)) as found:
        train("CartPole-v1", config, folder, **options)
    expected = "Stopped at step 50; the newest checkpoint is of step 40, the same call "
    assert found.value.__notes__ == [expected + "goes on from there."]
    assert Checkpoints(folder).latest().name == "checkpoint-000000040"
    del error.__notes__
    with pytest.raises(type(error)) as found:
        train("CartPole-v1", config, tmp_path / "new", **options)
    assert "there is no checkpoint yet, the same call begins" in error.__notes__[0]


def test_a_run_that_did_not_begin_has_no_note(folder):
    with pytest.raises(ValueError) as found:
        go(folder, units=32)
    assert not hasattr(found.value, "__notes__")


def test_environments_that_cannot_be_closed_do_not_hide_the_reason(tmp_path):
    class Stuck(Frames):
        def close(self):
            raise OSError("stuck")

    config = dataclasses.replace(CONFIG, video_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(Stuck, config, tmp_path, callback=stop(KeyboardInterrupt(), 9))
    FolderLock(tmp_path).release()


def test_numbers_that_break_replace_no_checkpoint(folder, tmp_path, monkeypatch):
    before = Checkpoints(folder).latest()
    step = Dreamer.train_step

    def broken(agent, batch):
        return step(agent, batch) | {"loss/obs": torch.tensor(float("nan"))}

    monkeypatch.setattr(Dreamer, "train_step", broken)
    expected = "loss/obs became nan by update .*; the newest checkpoint is of step 40 "
    for changes in (dict(log_every=1), dict(log_every=1000)):  # at a line, at a save
        with pytest.raises(FloatingPointError, match=expected + "and stays, so begin"):
            go(folder, steps=60, **changes)
        assert Checkpoints(folder).latest() == before

    def spoiled(agent, batch):
        agent.world_model.rssm.gates.bias.data.fill_(float("inf"))
        return {"loss/obs": torch.tensor(1.0)}

    monkeypatch.setattr(Dreamer, "train_step", spoiled)
    with pytest.raises(FloatingPointError, match="gates.bias became .*no checkpoint"):
        go(tmp_path / "new", steps=60)


def test_a_run_that_learns_nothing_says_from_where_it_would(tmp_path, recwarn):
    cases = [
        dict(prefill=100),
        dict(prefill=0, batch=4, length=8),
        dict(prefill=0, batch=1, length=6, envs=8, ratio=0.25),
    ]
    for number, changes in enumerate(cases):
        config = dataclasses.replace(CONFIG, **changes)
        first = runs.first_update(config)
        go(tmp_path / f"{number}", **changes, steps=first - config.envs)
        text = str(recwarn.pop(UserWarning).message)
        assert f"the first one comes at step {first}; raise steps" in text
        go(tmp_path / f"{number}", **changes, steps=first)
        latest = Checkpoints(tmp_path / f"{number}").latest()
        assert json.loads((latest / "state.json").read_text())["updates"] > 0
        assert not [w for w in recwarn if w.category is UserWarning]
    go(tmp_path / "none", ratio=0.0)  # nothing is what it asked for
    assert not [w for w in recwarn if w.category is UserWarning]


def test_a_line_of_metrics_is_the_mean_of_its_updates(tmp_path, monkeypatch):
    number = itertools.count()

    def update(agent, batch):
        return {"loss/obs": torch.tensor(float(next(number)))}

    monkeypatch.setattr(Dreamer, "train_step", update)
    go(tmp_path, log_every=3)
    rows = Table(tmp_path / "metrics.csv", 10**9).rows
    assert [(row["updates"], row["loss/obs"]) for row in rows] == [
        ("3", "1"),
        ("6", "4"),
    ]


def test_lines_of_metrics_go_on_across_a_checkpoint(tmp_path):
    """A line after it is the mean of all updates since the line before it."""
    often = dict(log_every=7, ratio=8.0, steps=60, checkpoint_minutes=0.0)
    often |= dict(video_minutes=0.0)
    go(tmp_path / "once", **often)
    config = dataclasses.replace(CONFIG, **often)
    options = dict(callback=stop(KeyboardInterrupt(), 50), progress=False)
    with pytest.raises(KeyboardInterrupt):
        train("CartPole-v1", config, tmp_path / "twice", **options)
    latest = Checkpoints(tmp_path / "twice").latest()
    assert json.loads((latest / "state.json").read_text())["pending"]
    go(tmp_path / "twice", **often)
    once, twice = (
        [
            {k: v for k, v in row.items() if k not in ("minutes", "speed/replayed")}
            for row in Table(tmp_path / name / "metrics.csv", 99).rows
        ]
        for name in ("once", "twice")
    )
    assert once == twice and len(once) > 5


LIMITED = """
import resource, signal, sys
from dreamer_lite.dreamer import Config, train
from dreamer_lite.runs import Board
Board(sys.argv[3]).close()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
config = Config.from_yaml(sys.argv[1] + "/config.yaml")
config = Config(**dict(vars(config), steps=60))
train("CartPole-v1", config, sys.argv[1], progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX file limit")
@pytest.mark.parametrize("limit", [20_000, 3_000])
def test_a_full_disk_loses_nothing(folder, tmp_path, limit):
    """The system refuses to write past a size, first weights, then also the tables."""
    for name in ("metrics.csv", "episodes.csv"):
        path = folder / name
        assert path.stat().st_size > 0
    command = [sys.executable, "-c", LIMITED, str(folder), str(limit)]
    done = subprocess.run(
        [*command, str(tmp_path / "b")], capture_output=True, text=True
    )
    last, note = done.stderr.strip().splitlines()[-2:]
    assert done.returncode == 1
    assert "the newest checkpoint is of step 40, the same call goes on" in note
    assert last.startswith("OSError: The ") and "run the same command again" in last
    assert Checkpoints(folder).latest().name == "checkpoint-000000040"
    go(folder, steps=60)
    steps = [int(row["step"]) for row in Table(folder / "metrics.csv", 999).rows]
    assert steps == sorted(set(steps)) and steps[-1] > 40


def test_a_replay_too_large_for_the_machine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "free_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match="100000 rows will need .* but only 0.0 GB"):
        go(tmp_path, steps=10**6)
    assert runs.check_memory(10**6, 100) is None
    with pytest.raises(MemoryError, match="begin another run with its agent and set"):
        runs.check_memory(10**7, 100, continued=True)


def test_rates_that_a_callback_has_set_survive_an_interruption(folder):
    rates = []

    def fall(agent, run):
        for group in agent.optimizer.param_groups:
            rates.append(group["lr"])
            group["lr"] = 1e-9

    config = dataclasses.replace(CONFIG, steps=60, video_minutes=0.0)
    train("CartPole-v1", config, folder, callback=fall, progress=False)
    assert max(rates) > 1e-9
    rates.clear()
    config = dataclasses.replace(config, steps=80)
    train("CartPole-v1", config, folder, callback=fall, progress=False)
    assert rates and set(rates) == {1e-9}


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
    agent = Dreamer.load(tmp_path)
    found = evaluate(agent, Choices, episodes=1)
    assert found[0]["length"] == 7


def test_the_system_tells_its_free_memory():
    free = runs.free_memory()
    if sys.platform == "linux":
        said = Path("/proc/meminfo").read_text()
        total = re.search(r"MemTotal: +(\d+) kB", said)[1]
        assert 10**6 < free <= int(total) * 1024
    else:
        assert free is None or 10**6 < free < 10**15


def test_a_capacity_below_one_sequence_is_refused(tmp_path):
    with pytest.raises(ValueError, match="raise the capacity"):
        go(tmp_path, capacity=3)


# The clock


def test_minutes_are_a_budget_and_a_second_call_goes_on(tmp_path):
    config = dataclasses.replace(CONFIG, steps=10**6, prefill=10**6)
    train("CartPole-v1", config, tmp_path, minutes=0.01, progress=False)
    state = json.loads((Checkpoints(tmp_path).latest() / "state.json").read_text())
    assert 0 < state["step"] < 10**6
    replay = Replay.load(Checkpoints(tmp_path).latest() / "replay.npz")
    assert replay.data["is_last"][0, len(replay) - 1]  # it stopped between episodes
    train("CartPole-v1", config, tmp_path, minutes=0.01, progress=False)
    again = json.loads((Checkpoints(tmp_path).latest() / "state.json").read_text())
    assert again["step"] > state["step"]
    assert again["minutes"] >= state["minutes"] + 0.01  # its own budget on top
    rows = Table(tmp_path / "episodes.csv", 10**9).rows
    assert len(rows) == sum(again["episodes"])


def test_the_replay_ratio_is_kept(tmp_path):
    """Rows replayed per agent step, also with a remainder and several environments."""
    go(tmp_path, envs=3, steps=90, prefill=0, ratio=3.0)
    state = json.loads((Checkpoints(tmp_path).latest() / "state.json").read_text())
    # 8 rows an update. Learning begins with the tick that gives each stream 4 rows.
    assert state["updates"] == int((90 - 12 + 3) * 3 / 8)


class Frames(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (16, 16, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        return np.full((16, 16, 1), 9, np.uint8), 0.0, False, False, {}


def test_the_clock_waits_for_an_episode_but_a_minute_at_most(tmp_path, monkeypatch):
    now, written, write = [0.0], [], Checkpoints.write

    class Endless(Frames):
        def step(self, action):
            now[0] += 10.0
            return super().step(action)

    def remember(self, step, writers):
        written.append(step)
        write(self, step, writers)

    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Checkpoints, "write", remember)
    config = dataclasses.replace(CONFIG, steps=60, prefill=60, checkpoint_minutes=1.0)
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
    run.lock.release()


def test_a_run_keeps_the_newest_rows_of_its_capacity(tmp_path):
    for steps in (60, 80):  # the second call goes on with a full ring
        go(tmp_path, envs=2, capacity=24, steps=steps)
        replay = Replay.load(Checkpoints(tmp_path).latest() / "replay.npz")
        assert replay.rows == 12 and replay.size.tolist() == [12, 12]
        assert replay.head.tolist() == [steps // 2 % 12] * 2


def test_looking_does_not_change_a_run(tmp_path):
    seen = []

    def callback(agent, run):
        seen.append(run.step)
        torch.rand(3)

    agents, states = [], []
    for name, minutes in (("looked", 0.0), ("alone", 99.0)):
        config = dataclasses.replace(CONFIG, steps=46, video_minutes=minutes)
        options = dict(callback=callback, progress=False)
        agents.append(train(Frames, config, tmp_path / name, **options).state_dict())
        replay = Replay.load(Checkpoints(tmp_path / name).latest() / "replay.npz")
        states.append(replay.rng.bit_generator.state)
    assert len(seen) == 46
    assert len(list((tmp_path / "looked" / "videos").glob("dream_*.gif"))) == 7
    assert states[0] == states[1]
    for key, value in agents[0].items():
        assert torch.equal(value, agents[1][key]), key


class Stacked(Frames):
    observation_space = gym.spaces.Box(0, 255, (16, 16, 4), np.uint8)

    def step(self, action):
        return np.full((16, 16, 4), 9, np.uint8), 0.0, False, False, {}


def test_a_run_with_stacked_frames_shows_the_first_one(tmp_path):
    go(tmp_path, env=Stacked, steps=60, video_minutes=0.0)
    assert list((tmp_path / "videos").glob("dream_obs_*.gif"))


def test_a_run_with_images_shows_its_dream(tmp_path):
    go(tmp_path, env=Frames, steps=60, video_minutes=0.0)
    from PIL import Image

    found = sorted((tmp_path / "videos").glob("dream_obs_*.gif"))
    with Image.open(found[-1]) as image:
        assert image.n_frames > 1  # equal frames are merged in the file
        assert image.size == (4 * 16, 3 * 16)
    values = board_values(tmp_path)
    assert {"dream/obs", "loss/reward", "speed/replayed"} <= set(values)
    with Image.open(
        io.BytesIO(values["dream/obs"][-1].image.encoded_image_string)
    ) as i:
        assert (i.format, i.size) == ("GIF", (64, 48)) and i.n_frames > 1


def test_a_dream_is_shown_where_no_episode_ends_in_it(tmp_path):
    """A dream knows of no reset: behind one, the error would not be the model's."""
    frame = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (4, 4, 1), np.uint8))
    replay = Replay(300, frame, gym.spaces.Discrete(2))
    for i in range(300):  # episodes of 60 rows: 40 of them fit into one
        obs = {"obs": np.full((4, 4, 1), i % 256, np.uint8)}
        replay.add(0, obs, 0, 0.0, i % 60 == 0, i % 60 == 59, i % 60 == 59)
    looked = []

    def dream(batch, context):
        looked.append(batch["is_first"][:, context:])
        return {"obs": torch.zeros(*batch["obs"].shape)}

    model = SimpleNamespace(encoder=SimpleNamespace(images=["obs"]))
    agent = SimpleNamespace(world_model=model, dream=dream)
    for step in range(5):
        run = SimpleNamespace(step=step, video=lambda *_: None)
        runs.Run.show_dream(run, agent, replay)
        runs.Run.show_dream(run, agent, replay, length=100)  # none fits: any will do
    whole, others = looked[::2], looked[1::2]
    assert all(flags.shape == (4, 35) and not flags.any() for flags in whole)
    assert all(flags.shape == (4, 95) and flags.any(1).all() for flags in others)


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


def test_without_the_extras_a_run_trains_on_and_keeps_its_tables(tmp_path, monkeypatch):
    """`pip install .` brings neither pillow nor TensorBoard."""
    for name in ("PIL", "PIL.Image", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    go(tmp_path, env=Frames, steps=60, video_minutes=0.0)
    assert Checkpoints(tmp_path).latest().name == "checkpoint-000000060"
    assert (tmp_path / "metrics.html").is_file()
    assert not (tmp_path / "videos").exists()
    assert not (tmp_path / "tensorboard").exists()
    with pytest.raises(ModuleNotFoundError, match="; run `pip install pillow`"):
        runs.write_gif(tmp_path / "x.gif", np.zeros((2, 4, 4, 3), np.uint8))


def test_a_bar_shows_progress_if_asked(tmp_path, capsys):
    go(tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    train("CartPole-v1", CONFIG, tmp_path / "bar", progress=True)
    shown = capsys.readouterr().err
    assert "40/40" in shown and "replayed/s=" in shown and "return=" in shown


def test_comparison_stacks_real_dreamed_error():
    real = np.full((2, 3, 4, 1), 200, np.uint8)
    stack = runs.compare_frames(real, real - 50)
    assert stack.shape == (2, 9, 4, 3)
    assert [stack[0, row, 0, 0] for row in (0, 3)] == [200, 150]
    assert (stack[:, 6:] == runs.error_frames(real, real - 50)).all()
    beside = runs.compare_frames(real, real, axis=2)
    assert beside.shape == (2, 3, 12, 3) and (beside[:, :, 8:] == 255).all()
    black, white = np.zeros_like(real), np.full_like(real, 255)
    assert tuple(runs.error_frames(black, white)[0, 0, 0]) == runs.WRONG


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_compared_by_the_first_in_grey(channels):
    real = np.random.default_rng(0).integers(0, 256, (2, 3, 4, channels), np.uint8)
    stack = runs.compare_frames(real, 255 - real)
    assert stack.shape == (2, 9, 4, 3)
    assert (stack[:, :3] == real[..., :1]).all()
    assert (stack[:, 6:] == runs.error_frames(real, 255 - real)).all()


def test_a_gif_takes_bytes_of_any_channels_and_says_what_else_it_got(tmp_path):
    from PIL import Image

    frames = np.arange(3 * 4 * 4 * 1, dtype=np.uint8).reshape(3, 4, 4, 1) * 5
    runs.write_gif(tmp_path / "x.gif", frames)
    with Image.open(tmp_path / "x.gif") as image:
        assert (image.n_frames, image.size) == (3, (4, 4))
        shown = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(shown - frames[0]).max() < 16 and np.ptp(shown, -1).max() == 0
    for wrong, words in (
        (frames / 255, r"float64 \[3, 4, 4, 1\]"),
        (frames[:0], r"uint8 \[0, 4, 4, 1\]"),
        (frames[..., 0], r"uint8 \[3, 4, 4\]"),
    ):
        expected = f"expects frames uint8 .*, at least one, but got {words}; pass bytes"
        with pytest.raises(ValueError, match=expected):
            runs.write_gif(tmp_path / "y.gif", wrong)


# The page


def page_data(text):
    found = re.search(r'id="data">(.*?)</script>', text, re.S).group(1)
    return json.loads(found)


def test_the_page_holds_every_column_and_needs_no_network(finished):
    text = (finished / "metrics.html").read_text()
    data = page_data(text)
    assert set(data) == {"episodes.csv", "metrics.csv"}
    table = Table(finished / "metrics.csv", 10**9)
    assert list(data["metrics.csv"]) == table.fields
    assert data["metrics.csv"]["loss/reward"][0] == float(table.rows[0]["loss/reward"])
    links = set(re.findall(r"https?://[^\"']+", text))
    assert links == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "src=" not in text and "@import" not in text


def test_the_page_is_short_and_safe():
    rows = [{"step": i, "x": i, "</script>": 1} for i in range(10_000)]
    rows[5]["x"] = "nan"
    text = render("<b>", {"t.csv": (rows, ["step", "x", "</script>"])})
    data = page_data(text)["t.csv"]
    assert len(data["x"]) <= 1500 and data["x"][1] == pytest.approx(10)
    assert "&lt;b>" in text and len(text) < 100_000
    assert page_data(render("e", {"t.csv": ([], [])})) == {"t.csv": {}}


# Environments


def test_episodes_are_seeded_one_by_one():
    """Episode k of environment i is the same in every run, also in one continued."""

    def first_frames(episodes):
        vector = make_vector("CartPole-v1", 2, seed=5, episodes=episodes)
        obs, _ = vector.reset()
        vector.close()
        return obs["obs"]

    env = EnvFactory("CartPole-v1", 5, 1)()
    frames = [env.reset()[0]["obs"] for _ in range(3)]
    assert np.array_equal(first_frames([0, 2])[1], frames[2])
    assert not np.array_equal(*first_frames([0, 0]))
    env.close()


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_environments_travel_to_new_processes(context):
    """macOS and Windows start workers afresh: what makes the environment is pickled."""
    import multiprocessing

    if context not in multiprocessing.get_all_start_methods():
        return
    factories = [EnvFactory("CartPole-v1", 0, i, 0) for i in range(2)]
    vector = gym.vector.AsyncVectorEnv(factories, context=context)
    obs, _ = vector.reset()
    vector.close()
    here = make_vector("CartPole-v1", 2)
    assert np.array_equal(obs["obs"], here.reset()[0]["obs"])
    here.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_the_keyboard_does_not_reach_the_workers():
    """Ctrl-C goes to every process of a terminal; only the one that trains answers."""
    before = signal.getsignal(signal.SIGINT)
    vector = make_vector("CartPole-v1", 2, parallel=True)
    vector.reset(seed=0)
    for worker in vector.processes:
        os.kill(worker.pid, signal.SIGINT)
    try:
        for _ in range(5):
            vector.step(np.zeros(2, int))
    except KeyboardInterrupt:  # which would stop the tests, too
        pytest.fail("a worker was interrupted")
    assert all(worker.is_alive() for worker in vector.processes)
    vector.close()
    assert signal.getsignal(signal.SIGINT) is before


UNEVEN = """
import os, time, gymnasium as gym, numpy as np
from dreamer_lite.dreamer import evaluate

class Uneven(gym.Wrapper):
    def reset(self, *, seed=None, options=None):
        self.slow = seed % 2  # seed 5 makes the second environment slow
        os.write(1, f"{os.getpid()}\\n".encode())  # a print may be cut by another one
        return super().reset(seed=seed, options=options)

    def step(self, action):
        time.sleep(60 * self.slow)
        return super().step(action)

def policy(obs, is_first):
    print("acts", flush=True)
    return np.zeros(len(is_first), int)

if __name__ == "__main__":
    make_env = lambda: Uneven(gym.make("CartPole-v1"))
    evaluate(policy, make_env, 2, 2, seed=5, parallel=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_the_keyboard_ends_a_parallel_evaluation_at_once(tmp_path):
    """Also while one worker has answered and another has not: none is waited for."""
    script = tmp_path / "uneven.py"
    script.write_text(UNEVEN)
    process = subprocess.Popen(
        [sys.executable, script], cwd=Path(__file__).parents[1], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    try:
        workers = {int(process.stdout.readline()) for _ in range(2)}
        assert len(workers) == 2 and process.pid not in workers
        assert process.stdout.readline() == "acts\n"
        time.sleep(1.0)  # the first worker has answered by now
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=40)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert said.splitlines()[-1] == "KeyboardInterrupt" and "Worker" not in said


def test_workers_load_no_torch():
    code = "import sys, dreamer_lite.envs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_fp16_state_of_the_scaler_survives(folder):
    """Continued with another precision, an empty scaler state is left alone."""
    assert go(folder, steps=44, precision="fp16").scaler.is_enabled()
    path = Checkpoints(folder).latest() / "training.pt"
    training = torch.load(path, weights_only=True)
    training["scaler"] |= {"scale": 128.0, "_growth_tracker": 3}
    torch.save(training, path)
    again = go(folder, steps=44, precision="fp16")
    assert again.scaler.state_dict() == training["scaler"]
