"""Run folders: environments in parallel, metrics, videos and checkpoints that survive.

Plumbing around training, nothing of DreamerV3 itself, hence written by hand and not
exported from a notebook. Notebook 09 shows what a run folder holds.
"""

import csv
import io
import json
import os
import shutil
import time
from pathlib import Path

import gymnasium as gym
import numpy as np


class SeededEpisodes(gym.Wrapper):
    """Seed every reset by (seed, environment, episode), whoever calls it.

    A vector environment resets by itself and without a seed; with this wrapper episode
    k of environment i is the same in every run, also in one that was continued.
    """

    def __init__(self, env, seed, index=0, episode=0):
        super().__init__(env)
        self.key, self.episode = (seed, index), episode

    def reset(self, *, seed=None, options=None):
        sequence = np.random.SeedSequence((*self.key, self.episode))
        self.episode += 1
        seed = int(sequence.generate_state(1)[0])
        self.env.action_space.seed(seed)
        return self.env.reset(seed=seed, options=options)


class DictObservation(gym.ObservationWrapper):
    """Name a single observation space: Box(...) becomes Dict(obs=Box(...))."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Dict(obs=env.observation_space)

    def observation(self, observation):
        return {"obs": observation}


class UnitActions(gym.ActionWrapper):
    """Let a bounded Box be acted in as [-1, 1]: clip, then rescale to its bounds."""

    def __init__(self, env):
        super().__init__(env)
        space = env.action_space
        self.action_space = gym.spaces.Box(-1.0, 1.0, space.shape, np.float32)
        self.low, self.high = space.low, space.high
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise ValueError(
                f"Continuous actions need finite bounds, but the space is {space}; "
                "bound it, for example with gymnasium.wrappers.RescaleAction."
            )

    def action(self, action):
        share = (np.clip(action, -1.0, 1.0) + 1) / 2
        return (self.low + share * (self.high - self.low)).astype(self.low.dtype)


def build_env(make_env, seed=0, index=0, episode=0, **kwargs):
    """One environment in the form that Dreamer Lite trains on.

    Args: make_env, a Gymnasium id or a callable; seed, index, episode of the seeding.
    """
    env = gym.make(make_env, **kwargs) if isinstance(make_env, str) else make_env()
    if isinstance(env.action_space, gym.spaces.Box):
        env = UnitActions(env)
    if not isinstance(env.observation_space, gym.spaces.Dict):
        env = DictObservation(env)
    return SeededEpisodes(env, seed, index, episode)


class EnvFactory:
    """A picklable `build_env` call, for worker processes started in any way."""

    def __init__(self, *args):
        self.args = args

    def __call__(self):
        return build_env(*self.args)


def make_vector(make_env, num_envs, seed=0, episodes=None, parallel=False):
    """`num_envs` copies side by side, resetting themselves on the step after the end.

    Args: episodes, the number of the first episode of each; parallel, one process each.
    """
    episodes = [0] * num_envs if episodes is None else episodes
    factories = [EnvFactory(make_env, seed, i, k) for i, k in enumerate(episodes)]
    mode = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
    if parallel and num_envs > 1:
        return gym.vector.AsyncVectorEnv(factories, **mode)
    return gym.vector.SyncVectorEnv(factories, **mode)


def write_atomically(path, write):
    """Call `write(partial_path)`, force it to disk, then give it its name."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_gif(path, frames, fps=15):
    """Frames [T, H, W, 3] uint8 as a looping GIF; `path` may be a file object."""
    from PIL import Image

    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    first, rest = images[0], images[1:]
    duration = round(1000 / fps)
    first.save(
        path, "GIF", save_all=True, append_images=rest, duration=duration, loop=0
    )


class Checkpoints:
    """Complete checkpoints in a run folder: a new one first, then the old one goes.

    Each is a folder `checkpoint-<step>`; it gets that name only when all of its files
    are on disk, so a process killed at any moment leaves one that is whole.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def _complete(self):
        found = [p for p in self.folder.glob("checkpoint-*") if p.suffix != ".partial"]
        return sorted(found, key=lambda p: int(p.name.split("-")[1]))

    def latest(self):
        """Path of the newest complete checkpoint, or None."""
        complete = self._complete()
        return complete[-1] if complete else None

    def write(self, step, writers):
        """Write {file name: function(path)}; on failure the previous one stays."""
        final = self.folder / f"checkpoint-{step:09d}"
        partial = final.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            for name, write in writers.items():
                write_atomically(partial / name, write)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"The checkpoint could not be written to {self.folder} ({error}); the "
                "previous one is kept. Free space or choose another folder, then run "
                "the same command again."
            ) from error
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        for old in self._complete()[:-1]:
            shutil.rmtree(old, ignore_errors=True)


class Table:
    """A CSV file that grows by rows; columns are fixed by the first row.

    Continuing drops the rows after `step`: they will be made again.
    """

    def __init__(self, path, step=None):
        self.path, self.fields, self.rows = Path(path), None, []
        if self.path.exists():
            with open(self.path, newline="") as file:
                rows = list(csv.DictReader(file))
            self.rows = [r for r in rows if step is None or int(r["step"]) <= step]
            self.fields = list(rows[0]) if rows else None
            if len(self.rows) < len(rows):
                write_atomically(self.path, self._write_all)

    def _write_all(self, path):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, self.fields)
            writer.writeheader()
            writer.writerows(self.rows)

    def add(self, row):
        """Append {column: number} and flush."""
        row = {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}
        is_new = self.fields is None
        self.fields = self.fields or list(row)
        self.rows.append(row)
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(
                file, self.fields, restval="", extrasaction="ignore"
            )
            if is_new:
                writer.writeheader()
            writer.writerow(row)


class Board:
    """TensorBoard event files, scalars and looping GIFs; silent if it is missing."""

    def __init__(self, folder):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder))

    def scalars(self, step, values):
        """Add {name: number} at an agent step."""
        if self.writer:
            for key, value in values.items():
                self.writer.add_scalar(key, value, step)

    def video(self, step, tag, frames, fps=10):
        """Add frames [T, H, W, 3] uint8 as a GIF that TensorBoard plays."""
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
        if self.writer:
            self.writer.close()


def compare_frames(real, dreamed):
    """Stack real / dreamed / error for a video: two [T, H, W, C] -> [T, 3H, W, 3]."""
    real, dreamed = np.asarray(real), np.asarray(dreamed)
    if real.shape[-1] == 1:
        real, dreamed = real.repeat(3, -1), dreamed.repeat(3, -1)
    error = np.abs(real.astype(np.int16) - dreamed.astype(np.int16)).astype(np.uint8)
    return np.concatenate([real, dreamed, error], 1)


# Fields of a Config that may change when a run is continued.
FREE = {
    "steps",
    "device",
    "precision",
    "speed",
    "parallel",
    "log_every",
    "checkpoint_minutes",
    "video_minutes",
}


class Run:
    """A run folder and the clock: what `dreamer.train` does besides DreamerV3.

    The folder holds config.yaml, metrics.csv, episodes.csv, metrics.html, tensorboard/,
    videos/ and one complete checkpoint. A context manager: it closes what it opened.
    Args: folder; config; minutes, a budget of this call; progress, show a bar.
    Raises: ValueError for a folder that holds a run of another configuration.
    """

    def __init__(self, folder, config, minutes=None, progress=True):
        from tqdm import tqdm

        self.folder, self.config = Path(folder), config
        self.checkpoints = Checkpoints(self.folder)
        self.last = self.checkpoints.latest()
        self._open_folder()
        state = self._read_state() if self.last else {}
        self.step = state.get("step", 0)
        self.updates = state.get("updates", 0)
        self.credit = state.get("credit", 0.0)
        self.minutes_before = state.get("minutes", 0.0)
        self.episodes = state.get("episodes", [0] * config.envs)
        self.rng = np.random.default_rng(config.seed)
        if state:
            self.rng.bit_generator.state = state["rng"]
        step = self.step if self.last else None
        self.metrics = Table(self.folder / "metrics.csv", step)
        self.history = Table(self.folder / "episodes.csv", step)
        self.board = Board(self.folder / "tensorboard")
        self.bar = tqdm(
            total=config.steps, initial=self.step, unit="step", disable=not progress
        )
        self.pending, self.ended, self.recent = [], False, []
        self.start = self.saved = self.shown = self.logged = time.monotonic()
        self.budget = float("inf") if minutes is None else minutes

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()
        self.board.close()
        if hasattr(self, "envs"):
            self.envs.close()

    def _open_folder(self):
        path = self.folder / "config.yaml"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.last:
                self._compare(type(self.config).from_yaml(path))
            self.config.to_yaml(path)
        except OSError as error:
            raise OSError(
                f"The run folder {self.folder} cannot be written ({error}); choose a "
                "folder that you may write to."
            ) from error

    def _compare(self, stored):
        names = set(vars(stored)) - FREE
        other = sorted(n for n in names if vars(stored)[n] != vars(self.config)[n])
        if other:
            changes = ", ".join(
                f"{n} {vars(stored)[n]} -> {vars(self.config)[n]}" for n in other
            )
            raise ValueError(
                f"{self.folder} holds a run of another configuration ({changes}); "
                "choose another folder, or continue with its config.yaml."
            )

    def _read_state(self):
        return json.loads((self.last / "state.json").read_text())

    @property
    def continued(self):
        """Whether the folder held a checkpoint to go on from."""
        return self.last is not None

    @property
    def minutes(self):
        """Minutes trained so far, earlier calls included."""
        return self.minutes_before + (time.monotonic() - self.start) / 60

    def make_envs(self, make_env):
        """The vector environment, each copy at its next episode."""
        c = self.config
        self.envs = make_vector(make_env, c.envs, c.seed, self.episodes, c.parallel)
        return self.envs

    def restore(self, agent, replay):
        """Give agent and replay their stored state; returns the replay to use."""
        import torch

        if not self.last:
            return replay
        stored = torch.load(self.last / "training.pt", weights_only=True)
        agent.load_state_dict(stored["agent"])
        agent.optimizer.load_state_dict(stored["optimizer"])
        agent.scaler.load_state_dict(stored["scaler"])
        torch.set_rng_state(stored["rng"])
        if stored["cuda_rng"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(stored["cuda_rng"])
        return type(replay).load(self.last / "replay.npz")

    def save(self, agent, replay):
        """Write a checkpoint: weights, optimizer, replay, counters, random states."""
        import torch

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
            "rng": self.rng.bit_generator.state,
        }
        writers = {
            "agent.safetensors": agent.save,
            "training.pt": lambda path: torch.save(training, path),
            "replay.npz": replay.save,
            "state.json": lambda path: path.write_text(json.dumps(state)),
        }
        self.checkpoints.write(self.step, writers)
        self.saved, self.ended = time.monotonic(), False

    def finished(self):
        """Whether the steps are done, or the minutes are and an episode has ended."""
        spent = (time.monotonic() - self.start) / 60
        late = self.ended or spent > self.budget + 1
        return self.step >= self.config.steps or (spent >= self.budget and late)

    def checkpoint_due(self):
        """Whether it is time, and an episode has just ended (or none ends)."""
        waited = (time.monotonic() - self.saved) / 60
        patience = self.config.checkpoint_minutes
        return waited >= patience and (self.ended or waited >= patience + 1)

    def video_due(self):
        """Whether it is time for a video."""
        if (time.monotonic() - self.shown) / 60 < self.config.video_minutes:
            return False
        self.shown = time.monotonic()
        return True

    def count(self, ended, steps):
        """Take in one tick: the episodes that ended with it, and its agent steps."""
        self.step += steps
        self.ended = bool(ended)
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
        if self.step < c.prefill or len(replay) < c.batch * c.length:
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
        now = time.monotonic()
        rows = len(self.pending) * self.config.batch * self.config.length
        means["speed/replayed"] = rows / (now - self.logged)
        self.pending, self.logged = [], now
        row = {"step": self.step, "minutes": self.minutes, "updates": self.updates}
        self.metrics.add(row | means)
        self.board.scalars(self.step, means)
        self._show_progress(means)

    def _show_progress(self, means):
        shown = {"replayed/s": f"{means['speed/replayed']:.0f}"}
        if self.recent:
            names = [k for k in self.recent[-1] if k not in ("env", "length")]
            for key in names:
                mean = np.mean([episode[key] for episode in self.recent])
                shown[key] = f"{mean:.2f}"
        self.bar.set_postfix(shown)

    def show_dream(self, agent, replay, context=5, length=40):
        """Write an open-loop video real / dreamed / error of stored rows."""
        import torch

        images = agent.world_model.encoder.images
        if not images or replay.size.max() < length:
            return
        # Random numbers of their own: watching does not change how the run goes on.
        rng = np.random.default_rng(self.step)
        batch = replay.sample(4, length, rng)
        with torch.random.fork_rng():
            dream = agent.dream(batch, context)
        for key in images:
            frames = (
                (dream[key].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            )
            rows = [compare_frames(r, d) for r, d in zip(batch[key], frames)]
            self.video(f"dream/{key}", np.concatenate(rows, 2))

    def video(self, tag, frames, fps=10):
        """Keep frames [T, H, W, 3] uint8 as a GIF in videos/ and in TensorBoard."""
        folder = self.folder / "videos"
        folder.mkdir(exist_ok=True)
        name = tag.replace("/", "_")
        path = folder / f"{name}_{self.step:09d}.gif"
        write_atomically(path, lambda partial: write_gif(partial, frames, fps))
        self.board.video(self.step, tag, frames, fps)
