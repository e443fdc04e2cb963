"""Run folders: what `dreamer.train` does besides DreamerV3.

Plumbing around training, hence written by hand and not exported from a notebook.
Notebook 09 shows what a run folder holds.
"""

import contextlib
import errno
import importlib.util
import io
import json
import math
import os
import threading
import time
import warnings
from pathlib import Path

import numpy as np

from dreamer_lite.envs import break_off, make_vector
from dreamer_lite.files import (
    Checkpoints,
    FolderLock,
    Table,
    agent_config,
    read_yaml,
    write_atomically,
    write_yaml,
)
from dreamer_lite.page import render
from dreamer_lite.replay import describe_space, replay_bytes


def has_pillow():
    """Whether GIFs can be written: pillow comes with the extras `mario` and `lab`."""
    return importlib.util.find_spec("PIL") is not None


def write_gif(path, frames, fps=15):
    """Frames [T, H, W, C] uint8 as a looping GIF; `path` may be a file object.

    Any C but 3 is shown as `in_colour` does. One palette for all frames, chosen from
    some of them: finding one for each took longer than the training between two videos
    of a short run.
    Raises: ValueError for other frames or none; ModuleNotFoundError without pillow.
    """
    if not has_pillow():
        raise ModuleNotFoundError(
            "write_gif needs pillow, but it is not installed; run `pip install pillow`."
        )
    from PIL import Image

    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or not frames.size:
        raise ValueError(
            "write_gif expects frames uint8 [T, H, W, C], at least one, but got "
            f"{frames.dtype} {list(frames.shape)}; pass bytes of 0 to 255."
        )
    frames = np.ascontiguousarray(in_colour(frames))
    some = frames[:: max(1, len(frames) // 8), ::2, ::2]
    palette = Image.fromarray(np.concatenate(some)).quantize(256)
    images = [Image.fromarray(f).quantize(palette=palette, dither=0) for f in frames]
    first, rest = images[0], images[1:]
    duration = round(1000 / fps)
    first.save(
        path, "GIF", save_all=True, append_images=rest, duration=duration, loop=0
    )


class Board:
    """TensorBoard event files, scalars and looping GIFs; silent if it is missing."""

    def __init__(self, folder, step=0):
        before = set(threading.enumerate())
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder), purge_step=step or None)
        self.threads = set(threading.enumerate()) - before

    def scalars(self, step, values):
        """Add {name: number} at an agent step."""
        if self.writer:
            for key, value in values.items():
                self.writer.add_scalar(key, value, step)

    def video(self, step, tag, frames, fps=10):
        """Add frames [T, H, W, C] uint8 as a GIF that TensorBoard plays."""
        if not self.writer:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        buffer = io.BytesIO()
        write_gif(buffer, frames, fps)
        height, width = frames.shape[1:3]
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=buffer.getvalue(),
        )
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self.writer._get_file_writer().add_summary(summary, step)

    def close(self):
        if not self.writer:
            return
        try:
            self.writer.close()
        finally:  # a writer that failed still prints why: not into our own sentence
            for thread in self.threads:
                thread.join(timeout=2)


WRONG = (136, 34, 85)  # the colour of an error in pictures, red, green, blue


def in_colour(frames):
    """Pictures [..., C] as [..., 3]: without three channels the first one in grey."""
    return frames if frames.shape[-1] == 3 else frames[..., :1].repeat(3, -1)


def error_frames(real, dreamed):
    """How far two clips uint8 [..., C] differ, [..., 3]: white is right, wine wrong.

    By the root of the mean difference, so that small errors show.
    """
    gap = np.abs(real.astype(np.float32) - dreamed).mean(-1, keepdims=True) / 255
    white = np.float32(255)
    return np.round(white + np.sqrt(gap) * (np.float32(WRONG) - white)).astype(np.uint8)


def compare_frames(real, dreamed, axis=1):
    """Real, dreamed and error for a video: two [T, H, W, C] -> [T, 3H, W, 3].

    Args: axis, 1 for one above the other, 2 for side by side.
    """
    real, dreamed = np.asarray(real), np.asarray(dreamed)
    error = error_frames(real, dreamed)
    return np.concatenate([in_colour(real), in_colour(dreamed), error], axis)


def free_memory():
    """Bytes of memory that are free now, or None where the system does not say."""
    try:
        for row in Path("/proc/meminfo").read_text().splitlines():
            if row.startswith("MemAvailable:"):
                return int(row.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def check_memory(need, capacity, continued=False):
    """Refuse a replay of `need` bytes that the machine could not hold once it is full.

    Raises: MemoryError, before anything is allocated.
    """
    free = free_memory()
    if free is not None and need > free:
        smaller = f"set capacity to at most {int(capacity * free / need * 0.9)}"
        if continued:  # with its own capacity or not at all
            smaller = f"free memory, or begin another run with its agent and {smaller}"
        raise MemoryError(
            f"A replay of {capacity} rows will need {need / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free; {smaller}."
        )


# Fields of a Config that may change when a run is continued.
FREE = {
    "steps",
    "minutes",
    "device",
    "precision",
    "speed",
    "parallel",
    "log_every",
    "checkpoint_minutes",
    "video_minutes",
}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


def restore_optimizer(optimizer, stored):
    """Fill the optimizer's own tensors with stored ones, wherever either lives.

    Its rates too: a callback may have changed them. `load_state_dict` would leave step
    counts on the device that wrote them.
    """
    for group, old in zip(optimizer.param_groups, stored["param_groups"], strict=True):
        group["lr"] = old["lr"]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, p in enumerate(params):
        for name, tensor in optimizer.state[p].items():
            tensor.copy_(stored["state"][i][name])


def described(replay):
    """A replay's spaces as plain data, which knows no dtype of a choice."""
    spaces = {**replay.obs_space.spaces, "the action": replay.action_space}
    return {key: describe_space(space) for key, space in spaces.items()}


def first_update(config):
    """The agent step of the first update, or None if no step pays for one."""
    c = config
    rows = c.batch * c.length
    ticks = -(-max(c.prefill, rows, c.length * c.envs, 1) // c.envs)
    if not c.ratio:
        return None
    return (ticks - 1 + math.ceil(rows / (c.ratio * c.envs))) * c.envs


class Run:
    """A run folder and the clock.

    The folder holds config.yaml, metrics.csv, episodes.csv, metrics.html, tensorboard/,
    videos/ and one complete checkpoint. A context manager: it closes what it opened.
    Args: folder; config; minutes, a budget of this call; progress, show a bar.
    Raises: ValueError for a folder that holds a run of another configuration, foreign
    tables or a damaged checkpoint, which then stays as it is; BlockingIOError while
    another run writes there; OSError for a folder that cannot be written. An error
    that ends it gets a note on what is kept; the same error comes out.
    """

    def __init__(self, folder, config, minutes=None, progress=True):
        self.folder, self.config, self.progress = Path(folder), config, progress
        for path in (self.folder, *self.folder.parents):
            if path.is_file():
                raise NotADirectoryError(
                    f"The run folder {self.folder} should be a folder, but {path} is a "
                    "file; choose another folder, or move the file away."
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(self.folder)
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._open()
        except BaseException as error:
            self.lock.release()
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise
        self.start = self.saved = self.shown = self.logged = time.monotonic()
        self.budget = (config.minutes or math.inf) if minutes is None else minutes

    def _unwritable(self, error):
        return OSError(
            f"The run folder {self.folder} cannot be written ({error}); free space or "
            "choose a folder that you may write to, then run the same command again."
        )

    def _open(self):
        """Read what the folder holds; nothing is written before `restore` has ended."""
        self.checkpoints = Checkpoints(self.folder)
        self.last = self.checkpoints.latest()
        path = self.folder / "config.yaml"
        if self.last:  # its agent knows it for sure: the file may have been edited
            self._compare(self._read("agent.safetensors", agent_config))
        self.pending, self.recent, self.between = [], [], False
        self.step, self.updates, self.credit, self.minutes_before = 0, 0, 0.0, 0.0
        self.episodes = [0] * self.config.envs
        self.rng = np.random.default_rng(self.config.seed)
        if self.last:
            self._read("state.json", self._go_on_from)
        self.metrics = Table(self.folder / "metrics.csv", self.step)
        self.history = Table(self.folder / "episodes.csv", self.step)
        if not self.last and (self.metrics.found or self.history.found):
            # Rows of a run that was killed before its first checkpoint are made again.
            if not path.exists():
                raise ValueError(
                    f"{self.folder} holds a metrics.csv or episodes.csv with rows, but "
                    "no run that they belong to; choose another folder, or move them "
                    "away."
                )
            self._compare(read_yaml(path))

    def _go_on_from(self, path):
        state = json.loads(path.read_text())
        self.step, self.updates = state["step"], state["updates"]
        self.credit, self.minutes_before = state["credit"], state["minutes"]
        self.episodes, self.pending = state["episodes"], state.get("pending", [])
        self.rng.bit_generator.state = state["rng"]

    def _begin(self):
        """Write to the folder for the first time: all that it holds is known to fit."""
        from tqdm import tqdm

        try:
            write_yaml(self.folder / "config.yaml", vars(self.config))
            self.board = Board(self.folder / "tensorboard", self.step)
        except OSError as error:
            raise self._unwritable(error) from error
        self.bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            unit="step",
            disable=not self.progress,
        )

    def _compare(self, stored):
        mine = vars(self.config)
        names = (set(mine) | set(stored)) - FREE
        other = sorted(n for n in names if stored.get(n) != mine.get(n))
        if other:
            changes = ", ".join(f"{n} {stored.get(n)} -> {mine.get(n)}" for n in other)
            raise ValueError(
                f"{self.folder} holds a run of another configuration ({changes}); "
                "choose another folder, or the fields that the run began with."
            )

    def _read(self, name, read):
        """A file of the last checkpoint."""
        try:
            return read(self.last / name)
        except Exception as error:  # every reader has errors of its own
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"The checkpoint {self.last} is damaged: {name} cannot be read "
                f"({reason}); restore a copy of it, or move it away to begin anew."
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if hasattr(self, "board"):
            with contextlib.suppress(Exception):  # a full disk must not hide the reason
                self.board.close()
        if hasattr(self, "bar"):  # which a run that did not begin lacks
            self.bar.close()
        try:
            self._close_envs(error)
        finally:
            self.lock.release()
        if not error:
            self._warn_if_idle()
            return
        full = isinstance(error, OSError) and error.errno in FULL
        reason = error
        if full:
            reason = OSError(
                f"The run folder {self.folder} can no longer be written ({error}); the "
                "last checkpoint is kept, so free space, then run the same command "
                "again."
            )
        if hasattr(self, "bar") and not isinstance(error, FloatingPointError):
            last = self.checkpoints.latest()
            again = "goes on from there" if last else "begins anew"
            kept = f"{self._newest()}, the same call {again}"
            reason.add_note(f"Stopped at step {self.step}; {kept}.")
        if full:
            raise reason from error

    def _close_envs(self, error):
        """Let them go; after an error without waiting, and silently."""
        if not hasattr(self, "envs"):
            return
        if not error:
            self.envs.close()
            return
        break_off(self.envs)

    def _newest(self):
        last = self.checkpoints.latest()
        if last is None:
            return "there is no checkpoint yet"
        return f"the newest checkpoint is of step {self.checkpoints.step_of(last)}"

    def _warn_if_idle(self):
        first = first_update(self.config)
        if self.step >= self.config.steps and not self.updates and first:
            warnings.warn(
                f"The run ended after {self.step} steps without an update, for the "
                f"first one comes at step {first}; raise steps, or lower prefill, "
                "batch or length.",
                stacklevel=4,
            )

    @property
    def continued(self):
        """Whether the folder held a checkpoint to go on from."""
        return self.last is not None

    @property
    def minutes(self):
        """Minutes trained so far, earlier calls included."""
        return self.minutes_before + (time.monotonic() - self.start) / 60

    def make_envs(self, make_env):
        """The vector environment, each copy at its next episode.

        Raises: MemoryError if the replay of its rows would not fit into memory;
        ValueError if a sequence would not fit into the replay.
        """
        c = self.config
        self.envs = make_vector(make_env, c.envs, c.seed, self.episodes, c.parallel)
        spaces = self.envs.single_observation_space, self.envs.single_action_space
        if c.capacity // c.envs < c.length:
            raise ValueError(
                f"A sequence of length {c.length} does not fit into a replay of "
                f"capacity {c.capacity} for {c.envs} environments; raise the capacity."
            )
        rows = min(c.capacity, c.steps)
        check_memory(replay_bytes(rows, *spaces), rows, self.continued)
        return self.envs

    def restore(self, agent, replay):
        """Give the agent its stored state; returns the replay to use.

        With that the run begins: from here on it writes to its folder.
        """
        import torch

        if self.last:
            replay = self._load(agent, replay)
        self.pending = [
            {name: torch.tensor(x, device=agent.device) for name, x in row.items()}
            for row in self.pending
        ]
        self.skips = agent.scaler.is_enabled()  # fp16: no update if one overflows
        self._begin()
        return replay

    def _load(self, agent, replay):
        import torch

        stored = self._read("replay.npz", type(replay).load)
        if described(replay) != described(stored):
            raise ValueError(
                f"{self.folder} holds a run of another environment (observations "
                f"{stored.obs_space}, actions {stored.action_space}); choose another "
                "folder."
            )

        def fill(path):
            training = torch.load(path, map_location="cpu", weights_only=True)
            agent.load_state_dict(training["agent"])
            restore_optimizer(agent.optimizer, training["optimizer"])
            if training["scaler"] and agent.scaler.is_enabled():
                agent.scaler.load_state_dict(training["scaler"])
            torch.set_rng_state(training["rng"])
            if training["cuda_rng"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(training["cuda_rng"])

        self._read("training.pt", fill)
        return stored

    def save(self, agent, replay):
        """Write a checkpoint: weights, optimizer, replay, counters, random states.

        Raises: FloatingPointError if weights or metrics are no numbers any more.
        """
        import torch

        pending = [{name: float(x) for name, x in row.items()} for row in self.pending]
        for row in pending:
            self._check_finite(row)
        weights = agent.state_dict().items()
        self._check_finite({k: float(w.float().sum()) for k, w in weights}, False)
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        training = {
            "agent": agent.state_dict(),
            "optimizer": agent.optimizer.state_dict(),
            "scaler": agent.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
        }
        state = {
            "step": self.step,
            "updates": self.updates,
            "credit": self.credit,
            "minutes": self.minutes,
            "episodes": self.episodes,
            "pending": pending,
            "rng": self.rng.bit_generator.state,
        }
        writers = {
            "agent.safetensors": agent.save,
            "training.pt": lambda path: torch.save(training, path),
            "replay.npz": replay.save,
            "state.json": lambda path: path.write_text(json.dumps(state)),
        }
        self.metrics.sync(), self.history.sync()
        self.checkpoints.write(self.step, writers)
        self._write_page()
        self.saved = time.monotonic()

    def _write_page(self):
        tables = {"episodes.csv": self.history, "metrics.csv": self.metrics}
        tables = {name: (table.rows, table.fields) for name, table in tables.items()}
        page = render(self.folder.name, tables)
        path = self.folder / "metrics.html"
        write_atomically(path, lambda p: p.write_text(page, encoding="utf-8"))

    def finished(self):
        """Whether the steps are done, or the minutes are and an episode has ended."""
        return self.step >= self.config.steps or self._due(self.start, self.budget)

    def save_if_due(self, agent, replay):
        """Write a checkpoint if it is time and an episode has just ended."""
        if self._due(self.saved, self.config.checkpoint_minutes):
            self.save(agent, replay)

    def _due(self, since, minutes):
        """Whether `minutes` have passed and an episode has ended (1 minute's grace)."""
        waited = (time.monotonic() - since) / 60
        return waited >= minutes and (self.between or waited >= minutes + 1)

    def look(self, agent, replay, callback=None):
        """If it is time for a video: show the dream, and call `callback(agent, run)`.

        Random numbers of their own: watching does not change how the run goes on.
        """
        import torch

        if (time.monotonic() - self.shown) / 60 < self.config.video_minutes:
            return
        with torch.random.fork_rng():
            self.show_dream(agent, replay)
            if callback:
                callback(agent, self)
        self.shown = time.monotonic()

    def count(self, ended, collector):
        """Take in one tick: the episodes that ended with it, and its agent steps."""
        steps = len(collector.first)
        self.step += steps
        # Between two episodes: the last row is stored, the next one is a first row.
        self.between = bool(collector.first.any() and not collector.last.any())
        for episode in ended:
            self.episodes[episode["env"]] += 1
            row = {"step": self.step, "minutes": self.minutes} | episode
            self.history.add(row)
            self.recent = (self.recent + [episode])[-50:]
            names = [key for key in episode if key not in ("env", "length")]
            values = {f"episode/{key}": episode[key] for key in names}
            self.board.scalars(self.step, values)
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
        import torch

        names = list(metrics)
        table = torch.stack(
            [torch.stack([m[n].float() for n in names]) for m in self.pending]
        )
        means = dict(zip(names, table.mean(0).tolist()))
        self._check_finite(means)
        now = time.monotonic()
        rows = len(self.pending) * self.config.batch * self.config.length
        means["speed/replayed"] = rows / (now - self.logged)
        self.pending, self.logged = [], now
        row = {"step": self.step, "minutes": self.minutes, "updates": self.updates}
        self.metrics.add(row | means)
        self.board.scalars(self.step, means)
        self._show_progress(means)

    def _check_finite(self, values, metrics=True):
        """Refuse {name: number} that are broken, before they replace what is good."""
        broken = [name for name, x in values.items() if not math.isfinite(x)]
        if not broken or metrics and self.skips:
            return
        raise FloatingPointError(
            f"{broken[0]} became {values[broken[0]]} by update {self.updates}, where a "
            f"finite number was expected; {self._newest()} and stays, so begin another "
            "folder with a smaller lr, with start_from from that agent."
        )

    def _show_progress(self, means):
        shown = {"replayed/s": f"{means['speed/replayed']:.0f}"}
        columns = {}  # some environments report a value only at times, as at a win
        for episode in self.recent:
            for key, value in episode.items():
                if key not in ("env", "length"):
                    columns.setdefault(key, []).append(value)
        shown |= {key: f"{np.mean(values):.2f}" for key, values in columns.items()}
        self.bar.set_postfix(shown)

    def show_dream(self, agent, replay, context=5, length=40):
        """Write an open-loop video real / dreamed / error of stored rows."""
        import torch

        images = agent.world_model.encoder.images
        if not images or replay.size.max() < length or not has_pillow():
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
        if not has_pillow():
            return
        folder = self.folder / "videos"
        folder.mkdir(exist_ok=True)
        name = tag.replace("/", "_")
        path = folder / f"{name}_{self.step:09d}.gif"
        write_atomically(path, lambda partial: write_gif(partial, frames, fps))
        self.board.video(self.step, tag, frames, fps)
