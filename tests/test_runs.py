"""A run's folder: one writer, one checkpoint, clear sentences, nothing lost."""

import contextlib
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
import warnings
import zipfile
from concurrent import futures
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from small import TINY

from dreamer_lite import runs, speed, video
from dreamer_lite.dreamer import Config, Dreamer, evaluate, train
from dreamer_lite.replay import Replay

QUICK = dict(batch=2, length=4, horizon=2, prefill=10, ratio=2.0, log_every=1, warmup=5)
CONFIG = Config(**TINY, **QUICK, steps=40, precision="fp32")
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


def go(folder, env="CartPole-v1", callback=None, callback_every=1, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    how = dict(callback=callback, callback_every=callback_every, progress=False)
    return train(env, config, folder, **how)


def stop_at(step, error):
    def callback(agent, run):
        if run.step >= step:
            raise error

    return callback


def snapshot(folder):
    """What must not change when a run is refused: everything but the lock."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.lock"]
    return {p: p.read_bytes() for p in files}


def assert_refused(folder, words, **changes):
    before = snapshot(folder)
    with pytest.raises(ValueError, match=words) as found:
        go(folder, **{"steps": 50, **changes})
    assert snapshot(folder) == before
    assert not hasattr(found.value, "__notes__")  # it had not begun


def step_of(folder):
    return runs.read_checkpoint(folder)[0]["step"]


def steps_of(folder, name="metrics.csv"):
    return [int(row["step"]) for row in runs.read_table(folder / name)]


def members(folder):
    with zipfile.ZipFile(folder / runs.CHECKPOINT) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(folder, name, data, kind=zipfile.ZIP_STORED):
    """Replace a part of the checkpoint, as a hand or another program would."""
    parts = members(folder) | {name: data}
    with zipfile.ZipFile(folder / runs.CHECKPOINT, "w", kind) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


def script(code, *args, **options):
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, **options)


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


@pytest.fixture
def agent_file(folder, tmp_path):
    path = tmp_path / "agent.safetensors"
    path.write_bytes(runs.read_checkpoint(folder)[1])
    return path


def change(path, new):
    """Write an agent file with other tensors or other facts."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    path.write_bytes(save(*new(load(data), header["__metadata__"])))


def no_sum(facts):
    return {"dreamer_lite": facts["dreamer_lite"]}


def test_flipped_bytes_of_an_agent_are_noticed(agent_file):
    data, rng = agent_file.read_bytes(), np.random.default_rng(0)
    for place in [0, 9, *rng.integers(len(data), size=30)]:
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(8)
        agent_file.write_bytes(broken)
        with pytest.raises(ValueError, match="is damaged, "):
            Dreamer.load(agent_file)


@pytest.mark.parametrize(
    "new, words",
    [
        (lambda t, f: ({k: w * 2 for k, w in t.items()}, f), "checksum is wrong"),
        (lambda t, f: ({k: w.long() for k, w in t.items()}, no_sum(f)), "finite float"),
        (lambda t, f: ({k: w / 0 for k, w in t.items()}, no_sum(f)), "finite floats"),
        (lambda t, f: (t, {"dreamer_lite": '{"format": "x"}'}), "its format is not"),
        (lambda t, f: (t, {"other": "x"}), "'dreamer_lite'"),
    ],
)
def test_weights_that_are_no_agent_are_refused(agent_file, new, words):
    change(agent_file, new)
    with pytest.raises(ValueError, match=f"agent.safetensors is damaged, .*{words}"):
        Dreamer.load(agent_file)


def test_an_agent_file_from_before_checksums_is_read(agent_file):
    change(agent_file, lambda tensors, facts: (tensors, no_sum(facts)))
    Dreamer.load(agent_file)


def test_paths_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    go("~/a run with ä/")
    assert step_of(tmp_path / "a run with ä") == 40
    Dreamer.load("~/a run with ä").save("~/agent.safetensors")
    Dreamer.load("~/agent.safetensors")
    assert not os.path.exists("~")


# The checkpoint


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power cut no name may belong to bytes that were never written."""
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


def test_a_backup_of_links_survives_the_next_checkpoint(folder, tmp_path):
    backup = shutil.copytree(folder, tmp_path / "backup", copy_function=os.link)
    before = (backup / runs.CHECKPOINT).read_bytes()
    go(folder, steps=60)
    assert (step_of(folder), step_of(backup)) == (60, 40)
    assert (backup / runs.CHECKPOINT).read_bytes() == before


def test_an_agent_can_be_read_while_its_run_continues(tmp_path):
    often = dict(steps=150, checkpoint_minutes=0.0)
    steps = set()
    with futures.ThreadPoolExecutor() as pool:
        running = pool.submit(go, tmp_path, **often)
        while not running.done():
            with contextlib.suppress(FileNotFoundError):  # before the first checkpoint
                Dreamer.load(tmp_path)
                steps.add(step_of(tmp_path))
    running.result()  # which raises what went wrong there
    assert len(steps) > 2


def test_a_flipped_byte_in_any_part_is_noticed_and_kept(folder):
    """The run refuses it and changes nothing, not even rows after the checkpoint."""
    for name in ("metrics.csv", "episodes.csv"):
        rows = runs.read_table(folder / name)
        runs.add_row(folder / name, dict(rows[-1], step=45))
    path, parts = folder / runs.CHECKPOINT, members(folder)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    assert {name.partition("/")[0] for name in parts} == {
        "state.json", "agent.safetensors", "training.pt", "replay",
    }  # fmt: skip
    for data in parts.values():
        broken = bytearray(whole)
        place = whole.index(data) + rng.integers(len(data))
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        assert_refused(folder, "checkpoint.zip is damaged.*; restore a copy, or move")
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(folder, "is damaged")
    path.write_bytes(whole)
    go(folder, steps=50)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_checkpoint_runs_no_code_and_does_not_unpack(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    whole, data = (folder / runs.CHECKPOINT).read_bytes(), io.BytesIO()
    torch.save({"optimizer": Bomb()}, data)
    rewrite(folder, "training.pt", data.getvalue())
    assert_refused(folder, "damaged")
    assert not (folder.parent / "harm").exists()
    (folder / runs.CHECKPOINT).write_bytes(whole)
    rewrite(folder, "state.json", members(folder)["state.json"], zipfile.ZIP_DEFLATED)
    assert_refused(folder, "it is compressed")


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


def test_resuming_holds_the_replay_once(tmp_path):
    rows = 20_000
    space = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
    replay = Replay(rows, space, gym.spaces.Discrete(5))
    replay.data["obs"][:], replay.size[:] = 7, rows
    agent = Dreamer(space, gym.spaces.Discrete(5), CONFIG)
    state = {"replay": {"size": replay.size.tolist()}}
    with open(tmp_path / runs.CHECKPOINT, "wb") as file:
        runs.write_checkpoint(file, agent, replay, state)
    assert float(script(MEMORY, tmp_path, rows, check=True).stdout) < 1.2


# One writer


OTHER = """
import sys
from dreamer_lite.config import Config
from dreamer_lite.runs import Run
Run(sys.argv[1], Config())
"""


def test_the_lock_holds_whatever_else_the_process_does(tmp_path):
    run = runs.Run(tmp_path / "run", CONFIG)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")  # opens and closes the lock
    with pytest.raises(BlockingIOError, match="Another run is writing in .*; wait"):
        go(tmp_path / "run")
    assert "BlockingIOError: Another" in script(OTHER, tmp_path / "run").stderr
    run.opened.close()
    go(tmp_path / "run")


@needs_posix
def test_a_lock_that_is_deleted_is_taken_again(tmp_path):
    """Unless another run has it by now: then this one writes nothing more."""

    def forget(agent, run):
        if run.step == 20:
            (tmp_path / "run.lock").unlink()

    go(tmp_path, callback=forget)
    assert step_of(tmp_path) == 40 and (tmp_path / "run.lock").exists()
    others = []

    def lose(agent, run):
        if run.step == 50:
            (tmp_path / "run.lock").unlink()
            others.append(runs.Run(tmp_path, CONFIG))

    with pytest.raises(BlockingIOError, match="Another run is writing"):
        go(tmp_path, callback=lose, steps=60)
    assert step_of(tmp_path) == 40
    others[0].opened.close()


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
    for env in (3, lambda: None):
        with pytest.raises(TypeError):
            go(tmp_path / "run", env=env)
        assert not (tmp_path / "run").exists()


# Which run is it


def test_another_configuration_is_refused(folder):
    words = r"another configuration \(units 16 -> 32\); choose another folder"
    assert_refused(folder, words, units=32)
    path = folder / "config.yaml"  # what a hand writes there does not count
    path.write_text(path.read_text().replace("units: 16", "units: 32"))
    assert_refused(folder, words, units=32)
    go(folder, steps=48)
    assert Config.from_yaml(path) == dataclasses.replace(CONFIG, steps=48)


def test_exactly_the_named_settings_may_change(folder, capsys):
    accepted = set()
    shares = {"discount", "lam", "dream_share", *runs.RATES}
    words = {"device": "auto", "precision": "bf16", "speed": "compile"}
    words |= {"critic_reduce": "min"}
    for name, old in vars(CONFIG).items():
        new = old / 2 if name in shares else type(old)(2 * old or 1)
        new = words.get(name, not old if isinstance(old, bool) else new)
        config = dataclasses.replace(CONFIG, **{name: new})
        try:
            with runs.Run(folder, config) as run:
                run.updates = 1  # no warning that there were none
                run.make_envs("CartPole-v1")
            told = f"{name} {old} -> {new}." in capsys.readouterr().out
            assert told == (name in runs.TOLD)
            accepted.add(name)
        except ValueError as error:
            assert f"({name} " in str(error)
    assert accepted == runs.FREE | runs.TOLD


def test_rates_entropy_and_ratio_may_change(folder):
    """Those of a callback stay, unless the configuration asks for others."""
    rates = []

    def watch(agent, run):
        rates.append([group["lr"] for group in agent.optimizer.param_groups])

    def fall(agent, run):
        for group in agent.optimizer.param_groups:
            group["lr"] = 1e-9

    go(folder, callback=fall, steps=44)
    go(folder, callback=watch, steps=48)
    before = runs.read_checkpoint(folder)[0]["updates"]
    new = dict(lr=0.25, entropy=0.5, ratio=4.0)
    agent = go(folder, callback=watch, steps=52, **new)
    assert rates[:4] == [[1e-9] * 4] * 4
    assert rates[4:] == [[0.25, CONFIG.critic_lr, *[CONFIG.actor_lr] * 2]] * 4
    assert agent.actor_critic.config.entropy == 0.5
    expected = dataclasses.replace(CONFIG, steps=52, **new)
    assert Config.from_yaml(folder / "config.yaml") == expected
    assert Dreamer.load(folder).config.lr == 0.25
    # 4 steps, 4 rows replayed for each, 8 rows in an update.
    assert runs.read_checkpoint(folder)[0]["updates"] == before + 2


def make(gravity=9.8):
    env = gym.make("CartPole-v1", max_episode_steps=500)
    env.unwrapped.gravity = gravity
    return env


def test_another_environment_is_refused(folder, tmp_path):
    words = "another configuration .*environment CartPole-v1 -> .*; choose"
    assert_refused(folder, words, env=make)
    moon, mars = (functools.partial(make, gravity=g) for g in (1.6, 3))
    go(tmp_path / "moon", env=moon)
    words = r"make\(gravity=1.6\) -> .*make\(gravity=3\)"
    assert_refused(tmp_path / "moon", words, env=mars)
    go(tmp_path / "moon", env=functools.partial(make, gravity=1.6), steps=50)


def test_an_environment_that_has_changed_is_refused(tmp_path, monkeypatch):
    go(tmp_path, env=Frames)
    larger = gym.spaces.Box(0, 255, (32, 32, 1), np.uint8)
    monkeypatch.setattr(Frames, "observation_space", larger)
    assert_refused(tmp_path, "obs_space", env=Frames)


def test_tables_of_another_run_are_not_dropped(folder):
    (folder / runs.CHECKPOINT).unlink()
    assert_refused(folder, "holds tables, but no run .*; choose another")


def test_a_run_has_a_checkpoint_from_its_beginning(tmp_path):
    """Stopped early, it begins with the same weights again."""
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", callback=stop_at(12, KeyboardInterrupt()))
    assert step_of(tmp_path / "run") == 0
    one, two = (go(tmp_path / name).state_dict() for name in ("run", "whole"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert steps_of(tmp_path / "run") == steps_of(tmp_path / "whole")


# What stops a run


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no game")])
def test_what_stops_a_run_says_what_is_kept(folder, error):
    with pytest.raises(type(error)) as found:
        go(folder, callback=stop_at(50, error), steps=60)
    kept = "the newest checkpoint is of step 40; the same call continues from there."
    assert found.value.__notes__ == [f"Stopped at step 50; {kept}"]
    assert step_of(folder) == 40


def test_a_callback_has_its_own_schedule_and_can_stop_the_run(tmp_path):
    called = []

    def callback(agent, run):
        called.append(run.step)
        return np.greater_equal(run.step, 50)  # NumPy's own truth

    go(tmp_path, callback=callback, callback_every=10, steps=90, envs=3)
    assert called == [12, 21, 30, 42, 51]  # the first steps from 10, 20, ... on
    assert step_of(tmp_path) == 51
    called.clear()
    go(tmp_path, callback=callback, callback_every=None, steps=60, envs=3)
    assert step_of(tmp_path) == 60 and not called  # no video was due


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
    assert "Stopped at step 0; the newest checkpoint" in found.value.__notes__[0]


def test_environments_that_cannot_be_closed_do_not_hide_the_reason(tmp_path):
    class Stuck(Frames):
        def close(self):
            raise OSError("stuck")

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, Stuck, stop_at(9, KeyboardInterrupt()))


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
    train(make, config, sys.argv[2], callback=tell, callback_every=1, progress=False)
"""


@needs_posix
@pytest.mark.parametrize("number, envs", [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_signals_end_a_run_with_a_checkpoint(tmp_path, number, envs):
    config = dataclasses.replace(CONFIG, steps=120, envs=envs, parallel=envs > 1)
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
    said = process.communicate(timeout=120)[1]
    step = step_of(tmp_path / "run")
    assert 50 <= step < 120 and said.splitlines()[-2:] == [
        "KeyboardInterrupt",
        f"Stopped at step {step}; the newest checkpoint is of step {step}; the same "
        "call continues from there.",
    ]
    if envs == 1:  # it waited for the end of the episode
        assert runs.load_replay(tmp_path / "run").data["is_last"][0, step - 1]
    done = subprocess.run(command, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) == step + envs


@needs_posix
def test_a_second_signal_ends_a_run_at_once(tmp_path):
    def impatient(agent, run):
        if run.step == 20:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, callback=impatient)
    assert signal.getsignal(signal.SIGINT) is before and step_of(tmp_path) == 0


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
    go(folder, steps=70)
    steps = steps_of(folder)
    assert steps == sorted(set(steps)) and steps[-1] > 60 and step_of(folder) == 70


# Numbers that break


def test_losses_that_break_replace_no_checkpoint(folder, monkeypatch):
    before, step = members(folder), Dreamer.train_step

    def broken(agent, batch):
        return step(agent, batch) | {"loss/obs": torch.tensor(float("nan"))}

    monkeypatch.setattr(Dreamer, "train_step", broken)
    expected = "loss/obs is not finite after .*; the newest checkpoint is of step 40, "
    for changes in (dict(log_every=1), dict(log_every=1000)):  # at a line, at a save
        with pytest.raises(FloatingPointError, match=expected + ".* stays: begin"):
            go(folder, steps=60, **changes)
        assert members(folder) == before


def test_weights_that_break_are_not_saved(tmp_path, monkeypatch):
    def spoiled(agent, batch):
        agent.world_model.rssm.gates.bias.data.fill_(float("inf"))
        return {"loss/obs": torch.tensor(1.0)}

    monkeypatch.setattr(Dreamer, "train_step", spoiled)
    with pytest.raises(FloatingPointError, match="gates.bias is not .*is of step 0"):
        go(tmp_path, steps=60)


def test_the_largest_learning_rates_leave_an_agent_that_acts(tmp_path):
    """The last checkpoint of what diverges is one to start from."""
    rates = dict.fromkeys(runs.RATES, 1.0)
    go(tmp_path, steps=90, ratio=8.0, warmup=0, **rates)
    assert len(evaluate(Dreamer.load(tmp_path), "CartPole-v1", 1)) == 1


# Tables


def test_tables_hold_a_number_in_every_cell(finished):
    for name in ("metrics.csv", "episodes.csv"):
        rows = runs.read_table(finished / name)
        assert rows and all(math.isfinite(float(x)) for r in rows for x in r.values())
    assert list(rows[0]) == ["step", "minutes", "env", "return", "length"]


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

    go(tmp_path, callback=callback)
    assert 30 < steps_of(tmp_path)[0] <= 40
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


def test_lines_of_metrics_continue_across_a_checkpoint(tmp_path):
    """A line after it is the mean of all updates since the line before it."""
    often = dict(log_every=7, ratio=8.0, steps=60, checkpoint_minutes=0.0)
    go(tmp_path / "once", **often)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "twice", callback=stop_at(50, KeyboardInterrupt()), **often)
    assert runs.read_checkpoint(tmp_path / "twice")[0]["sums"]
    go(tmp_path / "twice", **often)
    tables = [runs.read_table(tmp_path / n / "metrics.csv") for n in ("once", "twice")]
    for row in itertools.chain(*tables):
        del row["minutes"], row["speed/replayed"]
    assert tables[0] == tables[1] and len(tables[0]) > 5


# Clock and counters


def test_minutes_are_a_budget_and_a_second_call_continues(tmp_path):
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
    assert written == [0, 12, 24, 30]  # after 1 + 1 minutes, again, the budget 4 + 1


def test_no_pause_while_a_last_row_waits_to_be_stored(tmp_path):
    run = runs.Run(tmp_path, CONFIG)
    run.bar = SimpleNamespace(update=lambda steps: None)
    cases = [((1, 0), (0, 0), True), ((1, 0), (0, 1), False), ((0, 0), (0, 0), False)]
    for first, last, between in cases:
        flags = dict(first=np.array(first, bool), last=np.array(last, bool))
        run.count([], SimpleNamespace(**flags))
        assert run.between == between
    run.opened.close()


def test_a_checkpoint_gives_back_the_rows_of_every_environment(tmp_path):
    picture = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    space = gym.spaces.Dict({"a/b": picture, "mode": gym.spaces.Discrete(3)})
    agent = Dreamer(space, gym.spaces.Discrete(2), CONFIG)
    replay = Replay(30, agent.obs_space, agent.action_space, num_envs=3)
    for env, count in enumerate((4, 6, 2)):  # no ring is full
        for t in range(count):
            replay.add(env, space.sample(), t % 2, t, t == 0, t == 1, t == 1)
    ring = {"head": replay.head.tolist(), "size": replay.size.tolist()}
    with open(tmp_path / runs.CHECKPOINT, "wb") as file:
        state = {"replay": replay.describe() | ring}
        runs.write_checkpoint(file, agent, replay, state)
    again = runs.load_replay(tmp_path)
    for key, column in replay.data.items():
        assert np.array_equal(again.data[key], column), key


def test_a_run_keeps_the_newest_rows_of_its_capacity(tmp_path):
    for steps in (60, 80):  # the second call continues with a full ring
        go(tmp_path, envs=2, capacity=24, steps=steps)
        replay = runs.load_replay(tmp_path)
        assert replay.rows == 12 and replay.size.tolist() == [12, 12]
        assert replay.head.tolist() == [steps // 2 % 12] * 2


@needs_posix
def test_a_signal_waits_six_seconds_for_an_endless_episode(tmp_path, monkeypatch):
    now = [0.0]

    class Endless(Frames):
        def step(self, action):
            now[0] += 2.5
            return super().step(action)

    def press(agent, run):
        if run.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, Endless, press)
    assert step_of(tmp_path) == 23  # three steps of 2.5 seconds


def test_the_scaler_of_fp16_survives(folder):
    def scale(agent, run):
        agent.scaler.load_state_dict(agent.scaler.state_dict() | {"scale": 128.0})

    go(folder, steps=44, precision="fp16", callback=scale)
    assert go(folder, steps=44, precision="fp16").scaler.get_scale() == 128.0
    go(folder, steps=48)  # with another precision it is left alone


def test_a_replay_too_large_for_the_machine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "free_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match="100000 rows will need .* but only 0.0 GB"):
        go(tmp_path, steps=10**6)
    go(tmp_path)  # its 40 rows fit


# What one sees


def test_looking_does_not_change_a_run(tmp_path):
    def callback(agent, run):
        torch.rand(3)

    one, two = (
        go(tmp_path / name, Frames, callback, None, steps=46, video_minutes=minutes)
        for name, minutes in (("looked", 0.0), ("alone", 99.0))
    )
    assert len(list((tmp_path / "looked" / "videos").glob("dream_*.gif"))) == 7
    a, b = (runs.load_replay(tmp_path / name).rng for name in ("looked", "alone"))
    assert a.bit_generator.state == b.bit_generator.state
    assert all(map(torch.equal, one.parameters(), two.parameters()))


def board_values(folder):
    """{tag: values} of a run's TensorBoard files."""
    loader = "tensorboard.backend.event_processing.event_file_loader"
    loader = pytest.importorskip(loader).LegacyEventFileLoader
    found = {}
    for path in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
        for event in loader(str(path)).Load():
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
    assert gif == found[-1].read_bytes()


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
    assert all(flags.shape == (4, 35) and not flags.any() for flags in looked)
    list(video.dream_videos(agent, replay, 0, length=100))  # none fits: any
    assert looked[-1].shape == (4, 95)


def test_curves_need_no_network(finished):
    text = (finished / "metrics.html").read_text(encoding="utf-8")
    assert "loss\\u002freward" in text and '"return"' in text
    assert "<script src=" not in text and len(text) > 10**6  # plotly is inside


@pytest.fixture
def no_memory_of_imports():
    video.optional.cache_clear()
    yield
    video.optional.cache_clear()


@pytest.mark.usefixtures("no_memory_of_imports")
@pytest.mark.parametrize("error", [TypeError, ModuleNotFoundError])
def test_without_the_extras_a_run_trains_and_keeps_its_tables(
    tmp_path, monkeypatch, recwarn, error
):
    """`pip install .` brings none of them. One that is broken costs a warning."""
    extras = {"torch.utils.tensorboard": "tensorboard", "PIL.Image": "PIL"}
    extras |= {"plotly.graph_objects": "plotly"}

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name in extras:
                named = {"name": extras[name]} if error is ModuleNotFoundError else {}
                raise error("Descriptors cannot be created directly", **named)

    for name in extras:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    go(tmp_path, env=Frames, steps=60, video_minutes=0.0)
    found = {path.name for path in tmp_path.iterdir()}
    tables = {"episodes.csv", "metrics.csv"}
    assert found == tables | {"run.lock", "config.yaml", runs.CHECKPOINT}
    said = [str(w.message) for w in recwarn if "cannot be used" in str(w.message)]
    said = sorted(text.split()[0] for text in said)
    assert said == (sorted(extras.values()) if error is TypeError else [])


def test_progress_in_a_file_is_a_few_lines(tmp_path, capsys):
    go(tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    train("CartPole-v1", CONFIG, tmp_path / "told", progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) <= 3
    assert "40/40" in lines[-1]
    assert "replayed/s=" in lines[-1] and "return=" in lines[-1]


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


@pytest.mark.parametrize("fps", [5, 7.5, 15, 60, 100])
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
