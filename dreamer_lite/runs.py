"""A run folder: one writer, tables, curves, one checkpoint file, resume.

What `dreamer.train` does besides DreamerV3, written by hand. Notebook 09 shows what a
run folder holds.
"""

import contextlib
import csv
import functools
import importlib
import io
import json
import math
import os
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
import safetensors.torch
import torch
from tqdm import tqdm

from dreamer_lite.envs import break_off, env_name, make_vector
from dreamer_lite.replay import (
    Replay,
    describe_space,
    replay_bytes,
    restore_space,
    write_whole,
)
from dreamer_lite.video import compare_frames, optional, write_gif

# Files of tensors


def checksum(tensors, about):
    """CRC-32 of names, numbers and the text `about`, as eight hexadecimal digits."""
    crc = zlib.crc32(about.encode())
    for name in sorted(tensors):
        numbers = tensors[name].reshape(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(numbers, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def pack(tensors, about):
    """Tensors and plain data as the bytes of a safetensors file with a checksum."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    about = json.dumps(about)
    facts = {"dreamer_lite": about, "crc32": checksum(tensors, about)}
    return safetensors.torch.save(tensors, facts)


def unpack(data, kind):
    """Undo `pack`. Returns: tensors and data.

    Raises: ValueError for data of another kind (its field "format") or a wrong
    checksum; other errors for what is no such file at all.
    """
    length = int.from_bytes(data[:8], "little")
    facts = json.loads(data[8 : 8 + length])["__metadata__"]
    about, tensors = json.loads(facts["dreamer_lite"]), safetensors.torch.load(data)
    if about["format"] != kind:
        raise ValueError(f"its format is {about['format']!r}, not {kind!r}")
    if "crc32" in facts and facts["crc32"] != checksum(tensors, facts["dreamer_lite"]):
        raise ValueError("its checksum does not fit")  # older files have none
    return tensors, about


AGENT = "dreamer-lite-agent-1"


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


def unpack_agent(data):
    """Weights and the other data of `pack_agent`. Raises: as `unpack`."""
    weights, about = unpack(data, AGENT)
    for name, weight in weights.items():
        if not weight.is_floating_point() or not weight.isfinite().all():
            raise ValueError(f"{name} does not hold finite floats")
    return weights, about


def agent_bytes(path):
    """The bytes of an agent file, or of the newest agent of a run folder.

    Raises: FileNotFoundError if there is none.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return read_checkpoint(path)[1]
    if not path.is_file():
        raise FileNotFoundError(f"There is no agent at {path}; train one or copy it.")
    return path.read_bytes()


def load_agent(path):
    """Read an agent from its file or a run folder.

    Returns: obs_space, action_space, config as a dict, weights.
    Raises: as `agent_bytes`, and ValueError for a damaged file or one of another kind.
    """
    data = agent_bytes(path)
    try:
        weights, about = unpack_agent(data)
        spaces = {key: restore_space(s) for key, s in about["obs_space"].items()}
        obs_space = spaces["obs"] if about["plain"] else gym.spaces.Dict(spaces)
        return obs_space, restore_space(about["action_space"]), about["config"], weights
    except Exception as error:  # safetensors, JSON and Gymnasium raise their own
        raise ValueError(
            f"Dreamer.load expects a file written by Dreamer.save, but {path} is "
            f"damaged or something else ({error}); restore a copy or train again."
        ) from error


# The checkpoint: a plain zip. Python checks the CRC-32 of all that it reads from one.

OPTIMIZER = "dreamer-lite-optimizer-1"
CHUNK = 2**24  # bytes of the replay that are read at a time


def checkpoint_path(folder):
    """Where the checkpoint of a run folder is, or will be.

    Raises: ValueError for a folder of an older version of Dreamer Lite.
    """
    path = Path(folder).expanduser() / "checkpoint.zip"
    old = next(path.parent.glob("checkpoint-*/agent.safetensors"), None)
    if old and not path.exists():
        raise ValueError(
            f"{folder} holds a run of an older version, which cannot be continued; "
            f"begin another folder, with start_from={str(old)!r} to use its agent."
        )
    return path


@contextlib.contextmanager
def open_checkpoint(folder):
    """Open a run folder's checkpoint for reading, also while the run continues.

    Raises: FileNotFoundError without one; ValueError for a damaged one.
    """
    path = checkpoint_path(folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no checkpoint; train longer, or name another folder."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type for member in archive.infolist()):
                raise ValueError("it is compressed")  # to whatever size
            yield archive
    except Exception as error:  # zip, safetensors, JSON and torch raise their own
        raise ValueError(
            f"The checkpoint {path} is damaged ({error}); restore a copy, or move it "
            "away to begin anew."
        ) from error


def read_checkpoint(folder):
    """The state of a run (step, updates, minutes, ...) and the bytes of its agent.

    Raises: as `open_checkpoint`.
    """
    with open_checkpoint(folder) as archive:
        return json.loads(archive.read("state.json")), archive.read("agent.safetensors")


def write_checkpoint(file, agent, replay, state):
    """Write all that a run needs to continue: weights, optimizer, replay and state."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("state.json", json.dumps(state))
        archive.writestr("agent.safetensors", pack_agent(agent))
        moments = pack(optimizer_tensors(agent), {"format": OPTIMIZER})
        archive.writestr("optimizer.safetensors", moments)
        for key, column in replay.data.items():  # without a copy in memory
            with archive.open(f"replay/{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, column[:, : replay.size.max()])


def fill(archive, agent, replay):
    """Undo `write_checkpoint` for an agent and a replay whose size is set.

    Raises: ValueError or others for what does not fit.
    """
    agent.load_state_dict(unpack_agent(archive.read("agent.safetensors"))[0])
    stored, _ = unpack(archive.read("optimizer.safetensors"), OPTIMIZER)
    for name, tensor in optimizer_tensors(agent).items():
        if (stored[name].shape, stored[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} of the optimizer has another shape or dtype")
        tensor.copy_(stored[name])  # to whatever device
    fill_replay(archive, replay)


def optimizer_tensors(agent):
    """The optimizer's own tensors: {name: tensor}."""
    states = agent.optimizer.state_dict()["state"].items()
    return {f"{i}.{name}": t for i, state in states for name, t in state.items()}


def fill_replay(archive, replay):
    """Fill the rows of a replay in pieces: there is no second copy in memory.

    Raises: ValueError for a column of another shape or dtype.
    """
    for key, column in replay.data.items():
        name, column, header = (
            f"replay/{key}.npy",
            column[:, : replay.size.max()],
            io.BytesIO(),
        )
        facts = np.lib.format.header_data_from_array_1_0(column)
        np.lib.format.write_array_header_1_0(header, facts)
        header = header.getvalue()
        with archive.open(name) as member:
            size = archive.getinfo(name).file_size - len(header)
            if member.read(len(header)) != header or size != column.nbytes:
                raise ValueError(f"{name} has another shape or dtype")
            for ring in column:
                room = ring.reshape(-1).view(np.uint8)
                for start in range(0, len(room), CHUNK):
                    member.readinto(room[start : start + CHUNK])


def load_replay(folder):
    """The replay in a run folder's checkpoint. Raises: as `open_checkpoint`."""
    with open_checkpoint(folder) as archive:
        about = json.loads(archive.read("state.json"))["replay"]
        replay = Replay.empty(about, about["head"], about["size"])
        fill_replay(archive, replay)
    return replay


# Tables and curves


def read_table(path):
    """The whole rows of a CSV file with a column step: [{column: text}].

    Without a file there are none. Raises: ValueError for another kind of file.
    """
    text = Path(path).read_text("utf-8") if Path(path).exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a full disk may cut the last row
    try:
        rows = list(csv.DictReader(io.StringIO(whole), strict=True))
        if not all(int(row["step"]) >= 0 and None not in row for row in rows):
            raise ValueError("a row does not fit the header")
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} should be a table with a column step, but has other rows "
            f"({error}); choose another folder, or move it away."
        ) from error
    return rows


class Table:
    """A CSV file that grows by rows."""

    def __init__(self, path):
        self.path, self.fields = Path(path), []

    def begin(self, step, fields):
        """Drop the rows after `step`, and write the header: old columns, then new."""
        rows = [row for row in read_table(self.path) if int(row["step"]) <= step]
        self.fields = list(dict.fromkeys([*(rows[0] if rows else ()), *fields]))
        text = io.StringIO()
        self._writer(text).writeheader()
        self._writer(text).writerows(rows)
        write_whole(self.path, lambda file: file.write(text.getvalue().encode()))

    def add(self, row):
        """Append {column: number}. A file that was deleted or emptied begins anew."""
        if not set(row) <= set(self.fields):
            self.begin(math.inf, row)
        row = {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            if not file.tell():
                self._writer(file).writeheader()
            self._writer(file).writerow(row)

    def sync(self):
        """Force what was added to disk."""
        if self.path.exists():
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def _writer(self, file):
        return csv.DictWriter(file, self.fields, restval="", lineterminator="\n")


def write_page(folder, most=2000):
    """Write a run's tables as metrics.html: interactive curves, also without a network.

    Args: most, points of a curve; of more, every k-th is shown.
    """
    plotly = optional("plotly.offline", "plotly")
    if not plotly:
        return
    curves, layout = [], {"title": {"text": folder.name}, "showlegend": False}
    for name, mode in (("episodes.csv", "markers"), ("metrics.csv", "lines")):
        rows = read_table(folder / name)
        rows = rows[:: -(-len(rows) // most) or 1]
        for column in [key for key in (rows or [{}])[0] if key not in ("step", "env")]:
            axis = str(len(curves) + 1) if curves else ""
            points = [(row["step"], row[column]) for row in rows if row[column]]
            x, y = zip(*points) if points else ((), ())
            curve = {"x": x, "y": y, "mode": mode, "name": column}
            curves.append(curve | {"xaxis": f"x{axis}", "yaxis": f"y{axis}"})
            layout[f"yaxis{axis}"] = {"title": {"text": column}}
    height = -(-len(curves) // 3)
    layout["grid"] = {"rows": height, "columns": 3, "pattern": "independent"}
    figure = {"data": curves, "layout": layout | {"height": 260 * height}}
    script = folder / "plotly.min.js"
    if not script.exists():
        write_whole(script, lambda file: file.write(plotly.get_plotlyjs().encode()))
    text = optional("plotly.io", "plotly").to_html(
        figure, include_plotlyjs=script.name, validate=False
    )
    write_whole(folder / "metrics.html", lambda file: file.write(text.encode()))


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
    """Refuse a replay of `need` bytes that would not fit once it is full.

    Raises: MemoryError, before anything is allocated.
    """
    free = free_memory()
    if need > free:
        raise MemoryError(
            f"A replay of {rows} rows will need {need / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free; free memory, or begin a run with capacity "
            f"{int(rows * free / need * 0.9)}."
        )


# The run

# Fields of a Config that may change when a run is continued.
FREE = {"steps", "minutes", "device", "precision", "speed", "parallel", "log_every"}
FREE |= {"checkpoint_minutes", "video_minutes"}
EPISODE = ["step", "minutes", "env", "return", "length"]  # columns of episodes.csv


def results(*episodes):
    """What episodes have beside their environment and length, joined."""
    return {k: x for e in episodes for k, x in e.items() if k not in ("env", "length")}


def add_gif(board, tag, gif, frames, step):
    """Give TensorBoard a GIF, as a picture that moves."""
    summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
    height, width = frames.shape[1:3]
    image = summary.Image(
        height=height,
        width=width,
        colorspace=3,
        encoded_image_string=gif.getvalue(),
    )
    value = summary.Value(tag=tag, image=image)
    board._get_file_writer().add_summary(summary(value=[value]), step)


def check_counters(state, envs):
    """Refuse counters that no run of so many environments can have: ValueError."""
    ring = state["replay"]
    whole = [state["step"], state["updates"], *state["episodes"]]
    whole += [*ring["head"], *ring["size"]]
    real = [state["credit"], state["minutes"]]
    fits = all(type(x) is int and x >= 0 for x in whole) and state["credit"] < 1
    fits = fits and all(type(x) is float and 0 <= x < math.inf for x in real)
    lengths = {len(x) for x in (state["episodes"], ring["head"], ring["size"])}
    if not fits or lengths != {envs} or max(ring["size"]) > ring["rows"]:
        raise ValueError("its counters are not those of a run")


def random_state():
    """Torch's random states as text: {"cpu": ...}, with a GPU "cuda", too."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}


def set_random_state(states):
    """Undo `random_state`; where there is no GPU now, its state is left out."""
    for name, text in states.items():
        state = torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
        if name == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(state)


def warn_untracked(track, episodes):
    """Name what was to be tracked, but what no episode {name: value} has a value of.

    Without any episode nothing is known.
    """
    missing = [n for n in track if not any(e.get(n, "") != "" for e in episodes)]
    if missing and episodes:
        warnings.warn(
            f"track expects names in the info of an episode's last step, but none had "
            f"{', '.join(missing)}; correct that name, or leave it out.",
            stacklevel=3,
        )


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

    def __init__(self, folder, config, minutes=None, track=(), progress=True):
        self.folder, self.config = Path(folder).expanduser(), config
        self.track = [track] if isinstance(track, str) else list(track)
        if taken := sorted(set(self.track) & set(EPISODE)):
            raise ValueError(
                f"track names values of info, but episodes.csv has {taken} already; "
                "leave them out, or rename them in info."
            )
        self.budget = (config.minutes or math.inf) if minutes is None else minutes
        self.state = self.kept = self.stopped = self.bar = self.board = None
        self.step, self.updates, self.credit, self.minutes_before = 0, 0, 0.0, 0.0
        self.episodes, self.pending, self.recent = [0] * config.envs, [], []
        self.rng, self.between = np.random.default_rng(config.seed), True
        self.metrics = Table(self.folder / "metrics.csv")
        self.history = Table(self.folder / "episodes.csv")
        self.progress, self.opened = progress, contextlib.ExitStack()
        self._lock()
        try:
            self._read_state()
        except BaseException:
            self.opened.close()
            raise
        self.start = self.saved = self.shown = self.logged = time.monotonic()

    def _lock(self):
        """Let nobody else write: the system frees the lock when this process ends."""
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "run.lock").touch()
        lock = filelock.FileLock(self.folder / "run.lock")
        try:
            lock.acquire(timeout=2)  # so long the workers of a killed run may hold it
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

    def _read_state(self):
        """Take over the counters that the folder holds; writes nothing."""
        rows = read_table(self.metrics.path) + read_table(self.history.path)
        path = self.folder / "config.yaml"
        if checkpoint_path(self.folder).exists():
            with open_checkpoint(self.folder) as archive:
                self.state = state = json.loads(archive.read("state.json"))
                stored = vars(type(self.config).from_dict(state["config"]))
                check_counters(state, stored["envs"])
                self.rng.bit_generator.state = state["rng"]
            self._compare(stored, vars(self.config))
            self.step, self.updates = state["step"], state["updates"]
            self.credit, self.minutes_before = state["credit"], state["minutes"]
            self.episodes, self.pending = state["episodes"], state["pending"]
            self.kept = self.step
        elif path.exists():  # killed before its first checkpoint: it begins again
            self._compare(vars(type(self.config).from_yaml(path)), vars(self.config))
        elif rows:
            raise ValueError(
                f"{self.folder} holds a metrics.csv or episodes.csv, but no run that "
                "they belong to; choose another folder, or move them away."
            )

    def _compare(self, stored, asked, what="configuration"):
        other = sorted(n for n in asked if n not in FREE and stored[n] != asked[n])
        if other:
            changes = ", ".join(f"{n} {stored[n]} -> {asked[n]}" for n in other)
            raise ValueError(
                f"{self.folder} holds a run of another {what} ({changes}); choose "
                "another folder, or what the run began with."
            )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        stopped = KeyboardInterrupt() if self.stopped and not error else None
        if self.bar and (stopped or error):
            kept = "there is no checkpoint yet; the same call begins anew"
            if self.kept is not None:
                kept = f"the newest checkpoint is of step {self.kept}; the same call "
                kept += "continues from there"
            (stopped or error).add_note(f"Stopped at step {self.step}; {kept}.")
        self.opened.__exit__(kind, error, trace)
        if stopped:
            raise stopped
        if not error:
            self._warn()

    def _warn(self):
        """Say at the end what was surely not meant."""
        warn_untracked(self.track, read_table(self.history.path))
        c = self.config
        if self.step >= c.steps and not self.updates and c.ratio:
            warnings.warn(
                f"The run ended after {self.step} steps without an update, because "
                f"learning begins after {max(c.prefill, c.batch * c.length)} steps; "
                "raise steps, or lower prefill, batch or length.",
                stacklevel=4,
            )

    @property
    def continued(self):
        """Whether the folder held a checkpoint to continue from."""
        return self.state is not None

    @property
    def minutes(self):
        """Minutes trained so far, earlier calls included."""
        return self.minutes_before + (time.monotonic() - self.start) / 60

    def make_envs(self, make_env):
        """The vector environment, each copy at its next episode.

        Raises: ValueError for another environment than the run began with, or if a
        sequence would not fit into the replay; MemoryError if the replay would not fit
        into memory.
        """
        c, self.environment = self.config, env_name(make_env)
        if self.state:
            self._compare(self.state, {"environment": self.environment}, "environment")
        if c.capacity // c.envs < c.length:
            raise ValueError(
                f"A sequence of length {c.length} does not fit into a replay of "
                f"capacity {c.capacity} for {c.envs} environments; raise the capacity."
            )
        envs = make_vector(make_env, c.envs, c.seed, self.episodes, c.parallel)
        self.opened.push(
            lambda _, error, __: break_off(envs) if error else envs.close()
        )
        spaces = envs.single_observation_space, envs.single_action_space
        rows = min(c.capacity, c.steps)
        check_memory(replay_bytes(rows, *spaces), rows)
        return envs

    def restore(self, agent, replay):
        """Fill agent and replay from the checkpoint, if there is one.

        With that the run begins: from here on it writes to its folder.
        """
        if self.state:
            self._restore(agent, replay)
        self.pending = [
            {name: torch.tensor(x, device=agent.device) for name, x in row.items()}
            for row in self.pending
        ]
        self.skips = agent.scaler.is_enabled()  # fp16: no update if one overflows
        with self._writing():
            self.config.to_yaml(self.folder / "config.yaml")
            self.history.begin(self.step, [*EPISODE, *self.track])
            self.metrics.begin(self.step, ["step", "minutes", "updates"])
            module = optional("torch.utils.tensorboard", "tensorboard")
            folder, step = str(self.folder / "tensorboard"), self.step or None
            self.board = module and module.SummaryWriter(folder, purge_step=step)
        self.bar = tqdm(total=self.config.steps, disable=not self.progress, unit="step")
        self.bar.update(self.step)
        self.opened.callback(self.bar.close)
        self.opened.callback(self._add_to_board, lambda board: board.close())
        self._catch_signals()

    def _restore(self, agent, replay):
        state, ring = self.state, self.state["replay"]
        stored, mine = ({**about, "rng": 0} for about in (ring, replay.describe()))
        self._compare(stored, mine, "environment")
        with open_checkpoint(self.folder) as archive:
            replay.head[:], replay.size[:] = ring["head"], ring["size"]
            replay.rng.bit_generator.state = ring["rng"]
            fill(archive, agent, replay)
            for group, rate in zip(agent.optimizer.param_groups, state["rates"]):
                group["lr"] = rate  # which a callback may have changed
            if state["scaler"] and agent.scaler.is_enabled():
                agent.scaler.load_state_dict(state["scaler"])
            set_random_state(state["torch"])

    def _catch_signals(self):
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            old = signal.getsignal(number)
            if old not in (signal.SIG_IGN, None):
                signal.signal(number, functools.partial(self._stop, old))
                self.opened.callback(signal.signal, number, old)

    def _stop(self, old, number, frame):
        self.stopped = time.monotonic()
        self.bar.set_description("stopping")
        signal.signal(number, old)  # a second one ends the run at once

    def finished(self):
        """Whether the steps are done, or an episode has ended and the time is up."""
        stop = self.stopped and self._due(self.stopped, 0.0, grace=0.1)
        return (
            self.step >= self.config.steps or stop or self._due(self.start, self.budget)
        )

    def _due(self, since, minutes, grace=1.0):
        """Whether `minutes` have passed and an episode has ended, or its grace has."""
        waited = (time.monotonic() - since) / 60
        return waited >= minutes and (self.between or waited >= minutes + grace)

    def count(self, ended, collector):
        """Take in one tick: the episodes that ended with it, and its agent steps."""
        steps = len(collector.first)
        self.step += steps
        # Between two episodes: the last row is stored, the next one is a first row.
        self.between = bool(collector.first.any() and not collector.last.any())
        for episode in ended:
            self.episodes[episode["env"]] += 1
            self.recent = (self.recent + [episode])[-50:]
            with self._writing():
                self.history.add(
                    {"step": self.step, "minutes": self.minutes, **episode}
                )
            self._add_scalars({f"episode/{k}": x for k, x in results(episode).items()})
        self.bar.update(steps)

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
        self.updates += 1
        self.pending.append(metrics)
        if self.updates % self.config.log_every:
            return
        rows = [torch.stack([m[n].float() for n in metrics]) for m in self.pending]
        means = dict(zip(metrics, torch.stack(rows).mean(0).tolist()))
        self._check_finite(means)
        now, count = time.monotonic(), self.config.batch * self.config.length
        means["speed/replayed"] = len(rows) * count / max(now - self.logged, 1e-9)
        self.pending, self.logged = [], now
        row = {"step": self.step, "minutes": self.minutes, "updates": self.updates}
        with self._writing():
            self.metrics.add(row | means)
        self._add_scalars(means)
        shown = {"replayed/s": f"{means['speed/replayed']:.0f}"}
        for name in results(*self.recent):  # some report a value only at times
            values = [e[name] for e in self.recent if name in e]
            shown[name] = f"{np.mean(values):.2f}"
        self.bar.set_postfix(shown)

    def _check_finite(self, values, metrics=True):
        """Refuse {name: number} that are broken, before they replace what is good."""
        broken = [name for name, x in values.items() if not math.isfinite(x)]
        if broken and not (metrics and self.skips):
            kept = "there is no checkpoint yet"
            if self.kept is not None:
                kept = f"the checkpoint of step {self.kept}, from before, is kept"
            raise FloatingPointError(
                f"{broken[0]} became {values[broken[0]]} by update {self.updates}; "
                f"{kept}: begin another folder with a "
                "smaller lr, and with start_from this one if its agent plays well."
            )

    def save_if_due(self, agent, replay):
        """Write a checkpoint if it is time and an episode has just ended."""
        if self._due(self.saved, self.config.checkpoint_minutes):
            self.save(agent, replay)

    def save(self, agent, replay):
        """Write a checkpoint: weights, optimizer, replay, counters, random states.

        Raises: FloatingPointError if weights or metrics are no numbers any more; the
        last checkpoint is kept then.
        """
        if self.kept == self.step:
            return
        state = self._state(agent, replay)
        for row in state["pending"]:
            self._check_finite(row)
        self._check_agent(agent, replay)
        with self._writing():
            self.metrics.sync()
            self.history.sync()
            write_whole(
                checkpoint_path(self.folder),
                lambda file: write_checkpoint(file, agent, replay, state),
            )
            self.kept, self.saved = self.step, time.monotonic()
            write_page(self.folder)

    def _state(self, agent, replay):
        """All that a checkpoint holds beside tensors and rows, as plain data."""
        ring = {"head": replay.head.tolist(), "size": replay.size.tolist()}
        return {
            "config": vars(self.config),
            "environment": self.environment,
            "step": self.step,
            "updates": self.updates,
            "credit": self.credit,
            "minutes": self.minutes,
            "episodes": self.episodes,
            "pending": [{n: float(x) for n, x in m.items()} for m in self.pending],
            "rates": [group["lr"] for group in agent.optimizer.param_groups],
            "scaler": agent.scaler.state_dict(),
            "rng": self.rng.bit_generator.state,
            "torch": random_state(),
            "replay": replay.describe() | ring,
        }

    def _check_agent(self, agent, replay):
        """Refuse weights that overflow when squared, as norms do, or cannot act."""
        sums = {
            k: float(w.float().square().sum()) for k, w in agent.state_dict().items()
        }
        self._check_finite(sums, metrics=False)
        now = range(len(replay.head)), replay.head - 1
        with torch.random.fork_rng():
            _, acted = agent.act({k: replay.data[k][now] for k in replay.obs_space})
        self._check_finite({"the state h": float(acted.model.h.sum())}, metrics=False)

    def look(self, agent, replay, callback=None):
        """If it is time for a video: show the dream, and call `callback(agent, run)`.

        Random numbers of their own: watching does not change how the run continues.
        """
        if (time.monotonic() - self.shown) / 60 < self.config.video_minutes:
            return
        with torch.random.fork_rng():
            self.show_dream(agent, replay)
            if callback:
                callback(agent, self)
        self.shown = time.monotonic()

    def show_dream(self, agent, replay, context=5, length=40):
        """Write an open-loop video real / dreamed / error of stored rows."""
        images = agent.world_model.encoder.images
        if not images or replay.size.max() < length:
            return
        batch = replay.sample(32, length, np.random.default_rng(self.step))
        # A dream knows of no reset: better windows that dream of one episode only.
        broken = batch["is_first"][:, context:].any(1)
        chosen = np.argsort(broken, kind="stable")[:4]
        batch = {key: rows[chosen] for key, rows in batch.items()}
        dream = agent.dream(batch, context)
        for key in images:
            frames = (dream[key].clamp(0, 1) * 255).round().to(torch.uint8)
            pairs = zip(batch[key], frames.cpu().numpy())
            rows = [compare_frames(real, dreamed) for real, dreamed in pairs]
            self.video(f"dream/{key}", np.concatenate(rows, 2))

    def video(self, tag, frames, fps=10):
        """Keep frames [T, H, W, C] uint8 as a GIF in videos/ and in TensorBoard.

        Without pillow there are no videos; the run does not need them.
        """
        if not optional("PIL.Image", "PIL"):
            return
        gif = io.BytesIO()
        write_gif(gif, frames, fps)
        path = self.folder / "videos" / f"{tag.replace('/', '_')}_{self.step:09d}.gif"
        with self._writing():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, lambda file: file.write(gif.getvalue()))
        self._add_to_board(lambda board: add_gif(board, tag, gif, frames, self.step))

    def _add_scalars(self, values):
        def add(board):
            for name, value in values.items():
                board.add_scalar(name, value, self.step)

        self._add_to_board(add)

    def _add_to_board(self, add):
        """Let `add(board)` write to TensorBoard, for as long as that works."""
        try:
            if self.board:
                add(self.board)
        except OSError as error:  # a full disk, or tensorboard/ was deleted
            self.board = None
            warnings.warn(f"TensorBoard gets no more values ({error}).", stacklevel=2)
