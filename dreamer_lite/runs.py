"""A run's folder: one writer, tables, curves, one checkpoint file, resume.

What `dreamer.train` needs beside DreamerV3 itself. Notebook 09 shows what a run folder
holds.
"""

import contextlib
import csv
import importlib
import io
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import filelock
import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import load, save
from tqdm import tqdm

from dreamer_lite import speed
from dreamer_lite.envs import break_off, env_name, make_vector
from dreamer_lite.replay import Replay, describe_space, restore_space, write_whole
from dreamer_lite.video import dream_videos, optional, write_gif

# Agents: safetensors files with a checksum.

AGENT, BLANK = "dreamer-lite-agent-1", b'"crc32":"00000000"'


def pack(tensors, about):
    """The bytes of a safetensors file.

    Its CRC-32, computed with zeros in its own place, is part of the header.

    Args:
        tensors: {name: tensor}.
        about: plain data for JSON.
    """
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data = save(tensors, {"dreamer_lite": json.dumps(about), "crc32": "0" * 8})
    return data.replace(BLANK, b'"crc32":"%08x"' % zlib.crc32(data), 1)


def unpack(data, kind):
    """Undo `pack`.

    Args:
        data: the bytes of the file.
        kind: the field "format" that its plain data must have.

    Returns:
        Tensors and plain data.

    Raises:
        ValueError: for another format, a wrong checksum, or weights that are not finite
            floats. Another kind of file raises other errors.
    """
    tensors, length = load(data), int.from_bytes(data[:8], "little")
    facts = json.loads(data[8 : 8 + length])["__metadata__"]
    if crc := facts.get("crc32"):  # older files have none
        blank = data.replace(b'"crc32":"%s"' % crc.encode(), BLANK, 1)
        if crc != f"{zlib.crc32(blank):08x}":
            raise ValueError("its checksum is wrong")
    about = json.loads(facts["dreamer_lite"])
    if about["format"] != kind:
        raise ValueError(f"its format is not {kind!r}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{name} does not hold finite floats")
    return tensors, about


def pack_agent(agent):
    """The bytes of an agent file: weights, config and spaces."""
    about = {
        "format": AGENT,
        "config": vars(agent.config),
        "obs_space": {key: describe_space(s) for key, s in agent.obs_space.items()},
        "plain": agent.plain,
        "action_space": describe_space(agent.action_space),
    }
    return pack(agent.state_dict(), about)


def load_agent(path):
    """Read an agent from its file or a run folder, even while the run continues.

    Args:
        path: the file or folder.

    Returns:
        obs_space, action_space, config as a dict, weights.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a damaged file, or one of another kind.
    """
    path = Path(path).expanduser()
    if not (path / CHECKPOINT).exists() and not path.is_file():
        raise FileNotFoundError(f"There is no agent at {path}; train one or copy it.")
    data = read_checkpoint(path)[1] if path.is_dir() else path.read_bytes()
    with reading(path):
        weights, about = unpack(data, AGENT)
        spaces = {key: restore_space(s) for key, s in about["obs_space"].items()}
        obs_space = spaces["obs"] if about["plain"] else gym.spaces.Dict(spaces)
        return obs_space, restore_space(about["action_space"]), about["config"], weights


def load_what_fits(agent, path):
    """Fill an agent with the weights of another, where names and shapes agree.

    One warning lists what does not fit, as after a change of observations or actions.

    Args:
        agent: a `Dreamer`, which keeps its other weights as they are.
        path: file or run folder of the other one.

    Raises:
        FileNotFoundError, ValueError: as `load_agent`.
    """
    own, weights = agent.state_dict(), load_agent(path)[-1]
    fits = {n: w for n, w in weights.items() if n in own and w.shape == own[n].shape}
    agent.load_state_dict(fits, strict=False)
    if left := sorted({name.rpartition(".")[0] for name in set(own) - set(fits)}):
        warnings.warn(
            f"{len(fits)} of {len(own)} weights begin as in {path}; these are new, as "
            f"they differ in shape or are missing there: {', '.join(left)}.",
            stacklevel=3,
        )


@contextlib.contextmanager
def reading(path):
    """Say in one sentence that the file at `path` is damaged."""
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # zip, safetensors, JSON and torch each raise their own
        raise ValueError(
            f"{path} is damaged, or not a file of this version of Dreamer Lite "
            f"({error}); restore a copy, or move it away."
        ) from error


# The checkpoint: a plain zip. Python compares the CRC-32 of whatever it reads from it.

CHECKPOINT = "checkpoint.zip"


@contextlib.contextmanager
def open_checkpoint(folder):
    """Open a run folder's checkpoint and read its state, even while the run continues.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    path = Path(folder).expanduser() / CHECKPOINT
    with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
        if any(member.compress_type for member in archive.infolist()):
            raise ValueError("it is compressed")  # and could unpack to any size
        yield archive, json.loads(archive.read("state.json"))


def read_checkpoint(folder):
    """The state of a run (step, updates, minutes, ...) and the bytes of its agent."""
    with open_checkpoint(folder) as (archive, state):
        return state, archive.read("agent.safetensors")


def load_replay(folder):
    """The replay of a run."""
    with open_checkpoint(folder) as (archive, state):
        ring = state["replay"]
        replay = Replay.empty(ring, ring["head"], ring["size"])
        fill_replay(archive, replay)
    return replay


def write_checkpoint(file, agent, replay, state):
    """Write everything that a run needs to continue.

    Args:
        file: open for writing bytes.
        agent: its weights, optimizer and gradient scaler are stored.
        replay: its rows are stored.
        state: the rest, as plain data for JSON.
    """
    training = {
        "optimizer": agent.optimizer.state_dict(),
        "scaler": agent.scaler.state_dict(),
        "random": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("state.json", json.dumps(state))
        archive.writestr("agent.safetensors", pack_agent(agent))
        with archive.open("training.pt", "w", force_zip64=True) as member:
            torch.save(training, member)
        for key, column in replay.data.items():  # without a copy in memory
            with archive.open(f"replay/{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, column[:, : replay.size.max()])


def fill_agent(archive, agent, rates=None):
    """Fill an agent and torch's random state from a checkpoint.

    Args:
        archive: the open checkpoint.
        agent: to be filled.
        rates: learning rate of each group of the optimizer; None: those of the
            checkpoint, which a callback may have changed.
    """
    agent.load_state_dict(unpack(archive.read("agent.safetensors"), AGENT)[0])
    data = io.BytesIO(archive.read("training.pt"))
    training = torch.load(data, map_location=agent.device, weights_only=True)
    agent.optimizer.load_state_dict(training["optimizer"])
    for group, rate in zip(agent.optimizer.param_groups, rates or ()):
        group["lr"] = rate
    if training["scaler"] and agent.scaler.is_enabled():
        agent.scaler.load_state_dict(training["scaler"])
    torch.set_rng_state(training["random"].cpu())
    if training["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(training["cuda"].cpu())


def fill_replay(archive, replay):
    """Fill the rows of a replay, in pieces: there is no second copy in memory."""
    for key, column in replay.data.items():
        with archive.open(f"replay/{key}.npy") as member:
            np.lib.format.read_magic(member)
            np.lib.format.read_array_header_1_0(member)
            for ring in column[:, : replay.size.max()]:
                room = ring.reshape(-1).view(np.uint8)
                for start in range(0, len(room), 2**24):
                    member.readinto(room[start : start + 2**24])


# Tables and curves


def read_table(path):
    """The whole rows of a CSV file: [{column: text}]; none if there is no file."""
    text = Path(path).read_text("utf-8") if Path(path).exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a full disk may cut the last row
    return list(csv.DictReader(io.StringIO(whole)))


def begin_table(path, step, fields=()):
    """Drop the rows after `step`, which will be made again; add columns `fields`."""
    rows = [row for row in read_table(path) if int(row["step"]) <= step]
    fields = dict.fromkeys([*(rows[0] if rows else ()), *fields])
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    if fields:  # else the first row will bring its own
        writer.writeheader()
    writer.writerows(rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def add_row(path, row):
    """Append {column: number}. In an empty file its columns become the header."""
    row = {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}
    with open(path, "a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        fields = next(csv.reader(file), None)
        writer = csv.DictWriter(file, fields or row, "", "ignore", lineterminator="\n")
        if not fields:
            writer.writeheader()
        writer.writerow(row)


def write_page(folder):
    """Write a run's tables as metrics.html: interactive curves, without a network."""
    tables = [read_table(folder / f"{name}.csv") for name in ("episodes", "metrics")]
    curves = [(name, rows) for rows in tables if rows for name in list(rows[0])[2:]]
    plotly = optional("plotly.graph_objects", "plotly")
    if not curves or not plotly:
        return
    names, height = [name for name, _ in curves], math.ceil(len(curves) / 3)
    figure = plotly.Figure().set_subplots(height, 3, subplot_titles=names)
    for i, (name, rows) in enumerate(curves):
        shown = [row for row in rows[:: len(rows) // 3000 + 1] if row[name]]
        x, y = ([row[key] for row in shown] for key in ("step", name))
        figure.add_scatter(x=x, y=y, row=i // 3 + 1, col=i % 3 + 1)
    figure.update_layout(title=folder.name, showlegend=False, height=260 * height)
    figure.write_html(folder / "metrics.html")


def warn_untracked(track, episodes):
    """Warn of names in `track` that no episode {name: value} has a value of."""
    missing = [n for n in track if not any(e.get(n, "") != "" for e in episodes)]
    if missing and episodes:
        warnings.warn(
            f"track expects names in the info of an episode's last step, but none had "
            f"{', '.join(missing)}; correct that name, or leave it out.",
            stacklevel=3,
        )


# Fields of a Config that may change when a run is continued: silently, since they are
# about its length, its reports and the machine; or in one line that says so.
FREE = {"steps", "minutes", "device", "precision", "speed", "parallel", "log_every"}
FREE |= {"checkpoint_minutes", "video_minutes"}
RATES = {"lr", "critic_lr", "actor_lr"}
TOLD = RATES | {"entropy", "ratio"}

# A progress bar in a file or a pipe.
LINE = "{n_fmt}/{total_fmt} steps, {elapsed}{postfix}\n"

EPISODE = ("step", "minutes", "env", "return", "length")  # columns of episodes.csv
COUNTERS = ("step", "updates", "credit", "episodes", "sums", "summed")


class Run:
    """A run's folder, and its clock.

    The folder holds config.yaml, metrics.csv, episodes.csv, metrics.html, tensorboard/,
    videos/ and checkpoint.zip. As a context manager it closes what it opened. Ctrl-C
    and SIGTERM end the run with a checkpoint, after the episode or six seconds, and
    then raise KeyboardInterrupt; a second one ends it at once. An error that ends the
    run gets a note on what is kept.

    Args:
        folder: made if it does not exist.
        config: the Config.
        minutes: time limit of this call; that of the config if None.
        track: names in `info` that become columns of episodes.csv.
        progress: show a bar.

    Raises:
        ValueError: for a folder that holds another run, or a damaged checkpoint, which
            then stays as it is.
        BlockingIOError: while another run writes there.
        OSError: for a folder that cannot be written.
    """

    processes = 1  # that train together: see scale.py

    def __init__(self, folder, config, minutes=None, track=(), progress=True):
        self.folder, self.config = Path(folder).expanduser(), config
        self.metrics = self.folder / "metrics.csv"
        self.history = self.folder / "episodes.csv"
        self.track = [track] if isinstance(track, str) else list(track)
        if taken := sorted(set(self.track) & set(EPISODE)):
            raise ValueError(
                f"track names values of info, but episodes.csv has {taken} already; "
                "leave them out, or rename them in info."
            )
        self.budget = (config.minutes or math.inf) if minutes is None else minutes
        self.step, self.updates, self.credit, self.before = 0, 0, 0.0, 0.0
        self.sums, self.summed, self.episodes = {}, 0, [0] * config.envs
        self.rng, self.recent = np.random.default_rng(config.seed), []
        self.between, self.done = True, False  # no episode has begun
        self.state = self.kept = self.stopped = self.board = self.locked = None
        self.start = self.saved = self.shown = self.logged = time.monotonic()
        self.progress, self.bar, self.opened = progress, None, contextlib.ExitStack()
        self.lock = filelock.FileLock(self.folder / "run.lock")
        self.opened.callback(self.lock.release)
        self._lock()

    def _lock(self):
        """Let nobody else write: the system frees the lock when this process ends.

        Called before every checkpoint, too: somebody may have deleted the file.
        """
        path = self.lock.lock_file
        if os.path.exists(path) and os.stat(path).st_ino == self.locked:
            return
        with self._writing():
            self.lock.release()
            self.lock.acquire(timeout=2)  # workers of a killed run hold it that long
            self.locked = os.stat(path).st_ino

    @contextlib.contextmanager
    def _writing(self):
        """Say in one sentence that the run's own files cannot be written."""
        try:
            yield
        except filelock.Timeout as error:
            raise BlockingIOError(
                f"Another run is writing in {self.folder}; wait for it or stop it, or "
                "choose another folder."
            ) from error
        except OSError as error:
            raise OSError(
                f"The run folder {self.folder} cannot be written ({error}); free space "
                "or choose another folder, then run the same command again."
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        stop = error or (KeyboardInterrupt() if self.stopped else None)
        if stop and self.bar:  # it had begun
            stop.add_note(
                f"Stopped at step {self.step}; the newest checkpoint is of step "
                f"{self.kept}; the same call continues from there."
            )
        refused = stop and not self.bar and os.listdir(self.folder) == ["run.lock"]
        self.opened.__exit__(kind, error, trace)
        if refused:  # and unlocked: Windows removes no file that is in use
            shutil.rmtree(self.folder, ignore_errors=True)
        if stop and not error:
            raise stop
        if not stop:
            warn_untracked(self.track, read_table(self.history))
            if not self.updates and self.config.ratio:
                warnings.warn(
                    f"The run ended after {self.step} steps without an update; raise "
                    "steps or minutes, or lower prefill, batch or length.",
                    stacklevel=3,
                )

    @property
    def minutes(self):
        """Minutes trained so far, earlier calls included."""
        return self.before + (time.monotonic() - self.start) / 60

    def make_envs(self, make_env):
        """The vector environment, each copy at its next episode.

        Args:
            make_env: a Gymnasium id or a callable.

        Raises:
            ValueError: if the folder holds another run.
        """
        c, self.environment = self.config, env_name(make_env)
        self._read_state()
        envs = make_vector(make_env, c.envs, c.seed, self.episodes, c.parallel)
        self.opened.push(lambda *error: break_off(envs) if error[1] else envs.close())
        return envs

    def _read_state(self):
        """Take over state and counters of the checkpoint, if there is one."""
        if not (self.folder / CHECKPOINT).exists():
            if read_table(self.metrics) or read_table(self.history):
                raise ValueError(
                    f"{self.folder} holds tables, but no run that this version could "
                    "continue; choose another folder, or move them away."
                )
            return
        self.state, _ = read_checkpoint(self.folder)
        asked = {"environment": self.environment, "processes": self.processes}
        stored = self.state["config"] | self.state
        self.changed = self._compare(stored, vars(self.config) | asked)
        vars(self).update({name: self.state[name] for name in COUNTERS})
        self.kept, self.before = self.step, self.state["minutes"]
        self.rng.bit_generator.state = self.state["rng"]

    def _compare(self, stored, asked):
        """Refuse other facts than those stored; name what may change, and return it."""
        shared = set(stored) & set(asked) - FREE
        other = sorted(n for n in shared if stored[n] != asked[n])
        changes = ", ".join(f"{n} {stored[n]} -> {asked[n]}" for n in other)
        if not set(other) <= TOLD:
            raise ValueError(
                f"{self.folder} holds a run of another configuration ({changes}); "
                "choose another folder, or what the run began with."
            )
        if other:
            print(f"{self.folder} continues with {changes}.")
        return set(other)

    def restore(self, agent, replay):
        """Fill agent and replay from the checkpoint, or write the first one.

        With that the run begins: from here on it writes to its folder.

        Raises:
            MemoryError: if the replay will not fit into memory.
        """
        speed.check_memory(replay, self.config.steps)
        if self.state:
            self._fill(agent, replay)
        self.skips = agent.scaler.is_enabled()  # fp16: no update if one overflows
        self._begin_reports()
        self.save(agent, replay)
        self.start = time.monotonic()  # a time limit is for training alone
        self.bar = self.opened.enter_context(self._make_bar())
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                old = signal.signal(number, self._stop)
                self.opened.callback(signal.signal, number, old)

    def _begin_reports(self):
        """Write the configuration; open tables and TensorBoard at this step."""
        board = optional("torch.utils.tensorboard", "tensorboard")
        with self._writing():
            path = self.folder / "config.yaml"
            write_whole(path, lambda file: self.config.to_yaml(file.name))
            begin_table(self.history, self.step, [*EPISODE, *self.track])
            begin_table(self.metrics, self.step)
            if board:
                tensorboard, step = self.folder / "tensorboard", self.step or None
                self.board = board.SummaryWriter(tensorboard, purge_step=step)
                self.opened.callback(self._on_board, "close")

    def _fill(self, agent, replay):
        ring, mine = self.state["replay"], replay.describe()
        self._compare({**ring, "rng": mine["rng"]}, mine)
        rates = [group["lr"] for group in agent.optimizer.param_groups]
        with open_checkpoint(self.folder) as (archive, _):
            fill_agent(archive, agent, rates if self.changed & RATES else None)
            replay.head[:], replay.size[:] = ring["head"], ring["size"]
            replay.rng.bit_generator.state = ring["rng"]
            fill_replay(archive, replay)

    def _make_bar(self):
        """A progress bar; in a file or a pipe a line every minute."""
        form = {"total": self.config.steps, "initial": self.step, "unit": "step"}
        # What a notebook writes to is neither a terminal nor such a stream.
        if isinstance(sys.stderr, io.TextIOWrapper) and not sys.stderr.isatty():
            form |= {"mininterval": 60, "miniters": 1, "bar_format": LINE}
        return tqdm(disable=not self.progress, **form)

    def _stop(self, number, frame):
        """The answer to a signal: end soon; to a second one: at once."""
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = time.monotonic()
        self.bar.set_description("stopping")

    def finished(self):
        """Whether the steps are done, or an episode has ended and the time is up."""
        stop = self.stopped and self._due(self.stopped, 0.0, grace=0.1)
        done = self.done or self.step >= self.config.steps
        return done or stop or self._due(self.start, self.budget)

    def _due(self, since, minutes, grace=1.0):
        """Whether `minutes` have passed and an episode has ended, or its grace has."""
        waited = (time.monotonic() - since) / 60
        return waited >= minutes and (self.between or waited >= minutes + grace)

    def count(self, ended, collector):
        """Take in one tick: the episodes that ended with it, and its agent steps."""
        taken = len(collector.first) * self.processes
        self.step += taken
        # Between two episodes: the last row is stored, the next one is a first row.
        self.between = bool(collector.first.any() and not collector.last.any())
        for episode in ended:
            self.episodes[episode["env"]] += 1
            self.recent = (self.recent + [episode])[-50:]
            row = {"step": self.step, "minutes": self.minutes, **episode}
            self._write_row(self.history, row, "episode/")
        self.bar.update(taken)

    def _write_row(self, table, row, prefix=""):
        with self._writing():
            add_row(table, row)
        for name in set(row) - {"step", "minutes", "env"}:
            self._on_board("add_scalar", prefix + name, row[name], self.step)

    def _on_board(self, method, *args):
        """Call TensorBoard's writer, for as long as its files can be written."""
        try:
            return self.board and getattr(self.board, method)(*args)
        except OSError as error:
            self.board = None
            warnings.warn(f"TensorBoard gets no more values ({error}).", stacklevel=2)

    def updates_due(self, replay):
        """How many updates this tick pays for, carrying the remainder."""
        c = self.config
        enough = max(c.prefill, c.batch * c.length)
        if self.step < enough or replay.size.max() < c.length:
            return 0
        self.credit += c.ratio * c.envs / (c.batch * c.length)
        whole = int(self.credit)
        self.credit -= whole
        return whole

    def log(self, metrics):
        """Take in the metrics of one update; every so often write their mean."""
        self.updates, self.summed = self.updates + 1, self.summed + 1
        self.sums = {n: self.sums.get(n, 0.0) + x.float() for n, x in metrics.items()}
        if self.updates % self.config.log_every:
            return
        means = torch.stack(list(self.sums.values())) / self.summed
        means = dict(zip(self.sums, means.tolist()))
        if not self.skips:
            self._check_finite(means)
        rows = self.config.batch * self.config.length * self.processes
        now = time.monotonic()
        means["speed/replayed"] = self.summed * rows / max(now - self.logged, 1e-9)
        self.sums, self.summed, self.logged = {}, 0, now
        counted = {"step": self.step, "minutes": self.minutes, "updates": self.updates}
        self._write_row(self.metrics, counted | means)
        shown = {"replayed/s": f"{means['speed/replayed']:.0f}"}
        for name in ["return", *self.track]:
            if found := [e[name] for e in self.recent if name in e]:
                shown[name] = f"{np.mean(found):.2f}"
        self.bar.set_postfix(shown, refresh=False)

    def _check_finite(self, values):
        """Refuse {name: number or tensor} that are broken, before they are kept.

        Raises:
            FloatingPointError: naming the checkpoint that stays.
        """
        for name, value in values.items():
            if not torch.as_tensor(value).isfinite().all():
                raise FloatingPointError(
                    f"{name} is not finite after update {self.updates}; the newest "
                    f"checkpoint is of step {self.kept}, from before that, and stays: "
                    "begin another folder with a smaller lr, perhaps with start_from "
                    "that agent."
                )

    def save_if_due(self, agent, replay):
        """Write a checkpoint if it is time and an episode has just ended."""
        if self._due(self.saved, self.config.checkpoint_minutes):
            self.save(agent, replay)

    def save(self, agent, replay):
        """Write a checkpoint: weights, optimizer, replay, counters, random states.

        Raises:
            FloatingPointError: if losses or weights are broken: the last checkpoint
                stays.
        """
        if self.kept == self.step:
            return
        self._lock()
        self.sums = {name: float(x) for name, x in self.sums.items()}
        self._check_finite(agent.state_dict() | ({} if self.skips else self.sums))
        ring = {"head": replay.head.tolist(), "size": replay.size.tolist()}
        state = {name: getattr(self, name) for name in COUNTERS} | {
            "config": vars(self.config),
            "environment": self.environment,
            "processes": self.processes,
            "minutes": self.minutes,
            "rng": self.rng.bit_generator.state,
            "replay": replay.describe() | ring,
        }
        with self._writing():
            write_whole(
                self.folder / CHECKPOINT,
                lambda file: write_checkpoint(file, agent, replay, state),
            )
            self.kept, self.saved = self.step, time.monotonic()
            write_page(self.folder)

    def look(self, agent, replay, callback=None, every=None):
        """Show the dream if a video is due, and call `callback(agent, run)` if that is.

        Both have random numbers of their own: watching does not change how the run
        continues.

        Args:
            agent, replay: those of the run.
            callback: ends the run, with a checkpoint, by returning True.
            every: agent steps between two calls; None: with every video.
        """
        waited = (time.monotonic() - self.shown) / 60
        due = waited >= self.config.video_minutes
        tick = self.config.envs * self.processes
        asked = due if every is None else self.step % every < tick
        if not due and not (callback and asked):
            return
        with torch.random.fork_rng():
            for key, frames in dream_videos(agent, replay, self.step) if due else ():
                self.video(f"dream/{key}", frames)
            if callback and asked:
                answer = callback(agent, self)  # of NumPy, if it compares a mean
                self.done = isinstance(answer, bool | np.bool_) and bool(answer)
        self.shown = time.monotonic() if due else self.shown

    def video(self, tag, frames, fps=10):
        """Keep a video as a GIF in videos/ and in TensorBoard.

        Without pillow there are no videos; the run does not need them.

        Args:
            tag: its name.
            frames: [T, H, W, C] uint8.
            fps: frames per second.
        """
        if not optional("PIL.Image", "PIL"):
            return
        gif = io.BytesIO()
        write_gif(gif, frames, fps)
        name = f"{tag.replace('/', '_')}_{self.step:09d}.gif"
        with self._writing():
            (self.folder / "videos").mkdir(exist_ok=True)
            (self.folder / "videos" / name).write_bytes(gif.getvalue())
        if writer := self._on_board("_get_file_writer"):
            proto = importlib.import_module("tensorboard.compat.proto.summary_pb2")
            height, width = frames.shape[1:3]
            image = dict(height=height, width=width, colorspace=3)
            image["encoded_image_string"] = gif.getvalue()
            value = proto.Summary.Value(tag=tag, image=proto.Summary.Image(**image))
            writer.add_summary(proto.Summary(value=[value]), self.step)
