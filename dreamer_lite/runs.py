"""Run folders: environments in parallel, metrics, videos and checkpoints that survive.

Plumbing around training, nothing of DreamerV3 itself, hence written by hand and not
exported from a notebook. Notebook 09 shows what a run folder holds.
"""

import base64
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
