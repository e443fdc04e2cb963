"""A run folder: one writer, tables, curves, one checkpoint file, resume.

What `dreamer.train` does besides DreamerV3, written by hand. Notebook 09 shows what a
run folder holds.
"""

import contextlib
import csv
import importlib
import io
import json
import math
import signal
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import filelock
import gymnasium as gym
import numpy as np
import psutil
import torch
from safetensors.torch import load, save
from tqdm import tqdm

from dreamer_lite.envs import break_off, env_name, make_vector
from dreamer_lite.replay import (
    Replay,
    describe_space,
    replay_bytes,
    restore_space,
    select_spaces,
    write_whole,
)
from dreamer_lite.video import dream_videos, optional, write_gif

# Agents: safetensors files with a checksum.

AGENT, BLANK = "dreamer-lite-agent-1", b'"crc32":"00000000"'


def pack(tensors, about):
    """Tensors and plain data as the bytes of a safetensors file.

    The CRC-32 of the file, with zeros in its own place, is one of its facts.
    """
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data = save(tensors, {"dreamer_lite": json.dumps(about), "crc32": "0" * 8})
    return data.replace(BLANK, b'"crc32":"%08x"' % zlib.crc32(data), 1)


def unpack(data, kind):
    """Undo `pack`. Returns: tensors and plain data.

    Raises: ValueError for another kind (the field "format"), a wrong checksum, or
    numbers that are not finite floats; other errors for what is no such file at all.
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
    """An agent's weights, config and spaces as the bytes of its file."""
    about = {
        "format": AGENT,
        "config": vars(agent.config),
        "obs_space": {key: describe_space(s) for key, s in agent.obs_space.items()},
        "plain": agent.plain,
        "action_space": describe_space(agent.action_space),
    }
    return pack(agent.state_dict(), about)


def agent_bytes(path):
    """The bytes of an agent file, or of the newest agent of a run folder.

    Raises: FileNotFoundError if there is none.
    """
    path = Path(path).expanduser()
    if not (path / CHECKPOINT).exists() and not path.is_file():
        raise FileNotFoundError(f"There is no agent at {path}; train one or copy it.")
    return read_checkpoint(path)[1] if path.is_dir() else path.read_bytes()


def load_agent(path):
    """Read an agent from its file or a run folder, also while the run continues.

    Returns: obs_space, action_space, config as a dict, weights.
    Raises: FileNotFoundError; ValueError for a damaged file or one of another kind.
    """
    data = agent_bytes(path)
    with reading(path):
        weights, about = unpack(data, AGENT)
        spaces = {key: restore_space(s) for key, s in about["obs_space"].items()}
        obs_space = spaces["obs"] if about["plain"] else gym.spaces.Dict(spaces)
        return obs_space, restore_space(about["action_space"]), about["config"], weights


@contextlib.contextmanager
def reading(path):
    """Say in one sentence that the file at `path` is damaged."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # zip, safetensors, JSON and torch each raise their own
        raise ValueError(
            f"{path} is damaged, or not a file of this version of Dreamer Lite "
            f"({error}); restore a copy, or move it away."
        ) from error


# The checkpoint: a plain zip. Python compares the CRC-32 of what it reads from one.

CHECKPOINT = "checkpoint.zip"


@contextlib.contextmanager
def open_checkpoint(folder):
    """Open a run folder's checkpoint and read its state, also while the run continues.

    Raises: FileNotFoundError without one; ValueError for a damaged one.
    """
    path = Path(folder).expanduser() / CHECKPOINT
    with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
        if any(member.compress_type for member in archive.infolist()):
            raise ValueError("it is compressed")  # and could become of any size
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
    """Write all that a run needs to continue: weights, optimizer, replay and state."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("state.json", json.dumps(state))
        archive.writestr("agent.safetensors", pack_agent(agent))
        archive.writestr("optimizer.safetensors", save(optimizer_tensors(agent)))
        for key, column in replay.data.items():  # without a copy in memory
            with archive.open(f"replay/{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, column[:, : replay.size.max()])


def optimizer_tensors(agent):
    """The optimizer's own tensors: {name: tensor}."""
    states = agent.optimizer.state_dict()["state"].items()
    return {f"{i}.{name}": t for i, state in states for name, t in state.items()}


def fill_agent(archive, agent):
    """Fill weights and optimizer. Raises: ValueError and others if they do not fit."""
    agent.load_state_dict(unpack(archive.read("agent.safetensors"), AGENT)[0])
    stored = load(archive.read("optimizer.safetensors"))
    for name, tensor in optimizer_tensors(agent).items():
        if (stored[name].shape, stored[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} of the optimizer has another shape or dtype")
        tensor.copy_(stored[name])  # to whatever device


def fill_replay(archive, replay):
    """Fill the rows of a replay in pieces: there is no second copy in memory.

    Raises: ValueError for a column of another shape or dtype.
    """
    for key, column in replay.data.items():
        rows, expected = column[:, : replay.size.max()], io.BytesIO()
        facts = np.lib.format.header_data_from_array_1_0(rows)
        np.lib.format.write_array_header_1_0(expected, facts)
        with archive.open(f"replay/{key}.npy") as member:
            size = archive.getinfo(member.name).file_size - expected.tell()
            header = member.read(expected.tell())
            if header != expected.getvalue() or size != rows.nbytes:
                raise ValueError(f"{member.name} has another shape or dtype")
            for ring in rows:
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
    text, fields = io.StringIO(), dict.fromkeys([*(rows[0] if rows else ()), *fields])
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writerows([dict(zip(fields, fields)), *rows])
    if fields:
        write_whole(path, lambda file: file.write(text.getvalue().encode()))
    else:  # the first row will be the header
        path.unlink(missing_ok=True)


def add_row(path, row):
    """Append {column: number}. In an empty file its columns become the header."""
    row = {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}
    with open(path, "a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        fields = next(csv.reader(file), None)
        writer = csv.DictWriter(
            file, fields or row, restval="", extrasaction="ignore", lineterminator="\n"
        )
        writer.writerows([row] if fields else [dict(zip(row, row)), row])


def write_page(folder):
    """Write a run's tables as metrics.html: interactive curves, without a network."""
    plotly = optional("plotly.io", "plotly")
    curves, layout = [], {"title": {"text": folder.name}, "showlegend": False}
    for rows in [read_table(folder / f"{n}.csv") for n in ("episodes", "metrics")]:
        for name in list(rows[0] if rows else ())[2:]:
            shown = [row for row in rows[:: len(rows) // 3000 + 1] if row[name]]
            x, y = ([row[key] for row in shown] for key in ("step", name))
            n = len(curves) + 1
            curves.append({"x": x, "y": y, "xaxis": f"x{n}", "yaxis": f"y{n}"})
            layout[f"yaxis{n}"] = {"title": {"text": name}}
    height = len(curves) // 3 + 1
    layout["grid"] = {"rows": height, "columns": 3, "pattern": "independent"}
    figure = {"data": curves, "layout": layout | {"height": 260 * height}}
    if plotly:
        plotly.write_html(figure, folder / "metrics.html", validate=False)


def gif_summary(tag, gif, frames):
    """The bytes of a GIF of frames [T, H, W, C] in the form of TensorBoard."""
    proto = importlib.import_module("tensorboard.compat.proto.summary_pb2")
    size = {"height": frames.shape[1], "width": frames.shape[2], "colorspace": 3}
    image = proto.Summary.Image(encoded_image_string=gif, **size)
    return proto.Summary(value=[proto.Summary.Value(tag=tag, image=image)])


# Memory


def free_memory():
    """Bytes that are free: in the machine, or in its container if that has fewer."""
    free = [psutil.virtual_memory().available]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of cgroups 2 and 1
        with contextlib.suppress(OSError, ValueError):  # no container, or no limit
            limit = int(Path("/sys/fs/cgroup", name).read_text())
            free.append(limit - psutil.Process().memory_info().rss)
    return min(free)


def check_memory(need, rows):
    """Refuse a replay whose `need` bytes will not be free: MemoryError."""
    if need > (free := free_memory()):
        raise MemoryError(
            f"A replay of {rows} rows will need {need / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free; free memory, or begin a run with capacity "
            f"{int(rows * free / need * 0.9)}."
        )


def warn_untracked(track, episodes):
    """Name what was to be tracked, but what no episode {name: value} has a value of."""
    missing = [n for n in track if not any(e.get(n, "") != "" for e in episodes)]
    if missing and episodes:
        warnings.warn(
            f"track expects names in the info of an episode's last step, but none had "
            f"{', '.join(missing)}; correct that name, or leave it out.",
            stacklevel=3,
        )


# Fields of a Config that may change when a run is continued.
FREE = {"steps", "minutes", "device", "precision", "speed", "parallel", "log_every"}
FREE |= {"checkpoint_minutes", "video_minutes"}
EPISODE = ("step", "minutes", "env", "return", "length")  # columns of episodes.csv
COUNTERS = ("step", "updates", "credit", "episodes", "sums", "summed")


class Run:
    """A run folder and the clock.

    The folder holds config.yaml, metrics.csv, episodes.csv, metrics.html, tensorboard/,
    videos/ and checkpoint.zip. A context manager: it closes what it opened. Ctrl-C and
    SIGTERM end the run with a checkpoint, after the episode or six seconds, and come
    out as KeyboardInterrupt; a second one ends it at once.
    Args: folder; config; minutes, a time limit of this call; track, names in `info`
    that become columns of episodes.csv; progress, show a bar.
    Raises: ValueError for a folder that holds another run, or a damaged checkpoint,
    which then stays as it is; BlockingIOError while another run writes there; OSError
    for a folder that cannot be written. An error that ends the run comes out as it is,
    with a note on what is kept.
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
        self.step, self.updates, self.credit, self.minutes_before = 0, 0, 0.0, 0.0
        self.sums, self.summed, self.episodes = {}, 0, [0] * config.envs
        self.rng, self.recent = np.random.default_rng(config.seed), []
        self.between = True  # no episode has begun
        self.state = self.kept = self.stopped = self.board = None
        self.start = self.saved = self.shown = self.logged = time.monotonic()
        self.progress, self.bar, self.opened = progress, None, contextlib.ExitStack()
        self._lock()

    def _lock(self):
        """Let nobody else write: the system frees the lock when this process ends."""
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "run.lock").touch()
        lock = filelock.FileLock(self.folder / "run.lock")
        try:
            lock.acquire(timeout=2)  # the workers of a killed run may hold it so long
        except filelock.Timeout as error:
            raise BlockingIOError(
                f"Another run is writing in {self.folder}; wait for it or stop it, or "
                "choose another folder."
            ) from error
        self.opened.callback(lock.release)

    @contextlib.contextmanager
    def _writing(self):
        """Say in one sentence that the run's own files cannot be written."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"The run folder {self.folder} cannot be written ({error}); free space "
                "or choose another folder, then run the same command again."
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        stop = KeyboardInterrupt() if self.stopped and not error else error
        if stop and self.bar:  # it had begun
            stop.add_note(
                f"Stopped at step {self.step}; {self._newest()}; the same call "
                + ("begins anew." if self.kept is None else "continues from there.")
            )
        self.opened.__exit__(kind, error, trace)
        if stop is not error:
            raise stop
        if not error:
            warn_untracked(self.track, read_table(self.history))
        if not error and not self.updates and self.config.ratio:
            warnings.warn(
                f"The run ended after {self.step} steps without an update; raise steps "
                "or minutes, or lower prefill, batch or length.",
                stacklevel=3,
            )

    def _newest(self):
        if self.kept is None:
            return "there is no checkpoint yet"
        return f"the newest checkpoint is of step {self.kept}"

    @property
    def minutes(self):
        """Minutes trained so far, earlier calls included."""
        return self.minutes_before + (time.monotonic() - self.start) / 60

    def make_envs(self, make_env):
        """The vector environment, each copy at its next episode.

        Raises: ValueError if the folder holds another run; MemoryError if the replay
        would not fit into memory.
        """
        c, self.environment = self.config, env_name(make_env)
        self._read_state()
        envs = make_vector(make_env, c.envs, c.seed, self.episodes, c.parallel)
        self.opened.push(lambda *error: break_off(envs) if error[1] else envs.close())
        seen = select_spaces(envs.single_observation_space, c.obs_keys, c.text_keys)
        spaces = seen, envs.single_action_space
        rows = min(c.capacity, c.steps)
        check_memory(replay_bytes(rows, *spaces), rows)
        return envs

    def _read_state(self):
        """Take over the counters in the folder, if they fit; writes nothing."""
        asked = vars(self.config) | {"environment": self.environment}
        asked["processes"] = self.processes
        if (self.folder / CHECKPOINT).exists():
            with open_checkpoint(self.folder) as (_, state):
                stored = state["config"] | {"environment": state["environment"]}
                stored["processes"] = state.get("processes", 1)
            self._compare(stored, asked)
            with reading(self.folder / CHECKPOINT):
                self._count_on(state)
        elif (path := self.folder / "config.yaml").exists() and not any(
            self.folder.glob("checkpoint-*")  # of an older version
        ):  # killed before its first checkpoint: it begins again
            self._compare(vars(type(self.config).from_yaml(path)), asked)
        elif read_table(self.metrics) or read_table(self.history):
            raise ValueError(
                f"{self.folder} holds tables, but no run that this version could "
                "continue; choose another folder, or move them away."
            )

    def _compare(self, stored, asked):
        names = sorted((set(stored) & set(asked)) - FREE)
        if other := [n for n in names if stored[n] != asked[n]]:
            changes = ", ".join(f"{n} {stored[n]} -> {asked[n]}" for n in other)
            raise ValueError(
                f"{self.folder} holds a run of another configuration ({changes}); "
                "choose another folder, or what the run began with."
            )

    def _count_on(self, state):
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.state, self.kept, ring = state, self.step, state["replay"]
        self.minutes_before = state["minutes"]
        self.rng.bit_generator.state = state["rng"]
        numbers = self.step, self.updates, self.minutes_before, *self.episodes
        self.sums = {name: float(x) for name, x in self.sums.items()}
        fits = all(0 <= x < math.inf for x in (*numbers, *ring["head"], *ring["size"]))
        fits = fits and 0 <= self.credit < 1 and max(ring["size"]) <= ring["rows"]
        if not fits or len(self.episodes) != self.config.envs:
            raise ValueError("its counters are not those of a run")

    def restore(self, agent, replay):
        """Fill agent and replay from the checkpoint, if there is one.

        With that the run begins: from here on it writes to its folder.
        """
        if self.state:
            self._restore(agent, replay)
        self.skips = agent.scaler.is_enabled()  # fp16: no update if one overflows
        self._begin_reports()
        bar = {"total": self.config.steps, "initial": self.step, "unit": "step"}
        self.bar = self.opened.enter_context(tqdm(disable=not self.progress, **bar))
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

    def _restore(self, agent, replay):
        state, ring, mine = self.state, self.state["replay"], replay.describe()
        self._compare({**ring, "rng": mine["rng"]}, mine)
        with open_checkpoint(self.folder) as (archive, _):
            fill_agent(archive, agent)
            replay.head[:], replay.size[:] = ring["head"], ring["size"]
            replay.rng.bit_generator.state = ring["rng"]
            fill_replay(archive, replay)
            for group, rate in zip(agent.optimizer.param_groups, state["rates"]):
                group["lr"] = rate  # which a callback may have changed
            if state["scaler"] and agent.scaler.is_enabled():
                agent.scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(torch.tensor(state["random"], dtype=torch.uint8))
            if state["cuda"] and torch.cuda.is_available():
                cuda = torch.tensor(state["cuda"], dtype=torch.uint8)
                torch.cuda.set_rng_state(cuda)

    def _stop(self, number, frame):
        """The answer to a signal: end soon; to a second one: at once."""
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = time.monotonic()
        self.bar.set_description("stopping")

    def finished(self):
        """Whether the steps are done, or an episode has ended and the time is up."""
        stop = self.stopped and self._due(self.stopped, 0.0, grace=0.1)
        done = self.step >= self.config.steps
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
        self.bar.set_postfix(shown)

    def _check_finite(self, values, metrics=True):
        """Refuse {name: number} that are broken, before they replace what is good."""
        broken = [name for name, x in values.items() if not math.isfinite(x)]
        if broken and not (metrics and self.skips):
            raise FloatingPointError(
                f"{broken[0]} became {values[broken[0]]} by update {self.updates}; "
                f"{self._newest()}, from before that, and stays: begin another folder "
                "with a smaller lr, perhaps with start_from that agent."
            )

    def save_if_due(self, agent, replay):
        """Write a checkpoint if it is time and an episode has just ended."""
        if self._due(self.saved, self.config.checkpoint_minutes):
            self.save(agent, replay)

    def save(self, agent, replay):
        """Write a checkpoint: weights, optimizer, replay, counters, random states.

        Raises: FloatingPointError if losses or weights are broken: then the last
        checkpoint stays.
        """
        if self.kept == self.step:
            return
        self.sums = {name: float(x) for name, x in self.sums.items()}
        self._check_finite(self.sums)
        self._check_agent(agent, replay)
        state, cuda = self._state(agent, replay), torch.cuda.is_available()
        state["random"] = torch.get_rng_state().tolist()
        state["cuda"] = torch.cuda.get_rng_state().tolist() if cuda else None
        with self._writing():
            write_whole(
                self.folder / CHECKPOINT,
                lambda file: write_checkpoint(file, agent, replay, state),
            )
            self.kept, self.saved = self.step, time.monotonic()
            write_page(self.folder)

    def _state(self, agent, replay):
        """What a checkpoint holds beside tensors and rows, as plain data."""
        ring = {"head": replay.head.tolist(), "size": replay.size.tolist()}
        return {name: getattr(self, name) for name in COUNTERS} | {
            "config": vars(self.config),
            "environment": self.environment,
            "processes": self.processes,
            "minutes": self.minutes,
            "rng": self.rng.bit_generator.state,
            "rates": [group["lr"] for group in agent.optimizer.param_groups],
            "scaler": agent.scaler.state_dict(),
            "replay": replay.describe() | ring,
        }

    def _check_agent(self, agent, replay):
        """Refuse weights whose squares overflow, as in a norm, or that cannot act."""
        weights = agent.state_dict().items()
        sums = {name: float(w.float().square().sum()) for name, w in weights}
        now = range(len(replay.head)), replay.head - 1
        with torch.random.fork_rng():
            _, acted = agent.act({k: replay.data[k][now] for k in replay.obs_space})
        sums["the state h"] = float(acted.model.h.sum())
        self._check_finite(sums, metrics=False)

    def look(self, agent, replay, callback=None):
        """If it is time for a video: show the dream, and call `callback(agent, run)`.

        Random numbers of their own: watching does not change how the run continues.
        """
        if (time.monotonic() - self.shown) / 60 < self.config.video_minutes:
            return
        with torch.random.fork_rng():
            for key, frames in dream_videos(agent, replay, self.step):
                self.video(f"dream/{key}", frames)
            if callback:
                callback(agent, self)
        self.shown = time.monotonic()

    def video(self, tag, frames, fps=10):
        """Keep frames [T, H, W, C] uint8 as a GIF in videos/ and in TensorBoard.

        Without pillow there are no videos; the run does not need them.
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
            writer.add_summary(gif_summary(tag, gif.getvalue(), frames), self.step)
