"""What the agent remembers: rows of experience, sampled as sequences.

Built in notebook 03. One row holds what was seen, the reward that arrived with it and
the action that was chosen after seeing it. Source: DreamerV3, Methods, "Replay".
"""

import json
import os
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np

FLAGS = ("is_first", "is_last", "is_terminal")


def action_size(space):
    """Length of an action vector: the number of choices, or of dimensions.

    Raises: TypeError for anything but Discrete and a Box with one dimension.
    """
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return space.shape[0]
    raise TypeError(
        f"Dreamer Lite acts in Discrete(n) or a Box of shape (n,), but got {space}; "
        "wrap the environment so that its actions become one of these."
    )


def encode_action(space, action):
    """One action as a float32 vector [A]: one-hot for a choice, else the numbers."""
    action = np.asarray(action)
    if isinstance(space, gym.spaces.Discrete) and action.ndim == 0:
        return np.eye(int(space.n), dtype=np.float32)[int(action - space.start)]
    return action.astype(np.float32)


def row_columns(obs_space, action_space):
    """Shape and dtype of every column of a row: {name: (shape, dtype)}.

    Raises: TypeError or ValueError for spaces that cannot be stored.
    """
    if not isinstance(obs_space, gym.spaces.Dict):
        raise TypeError(
            f"Replay expects a gymnasium.spaces.Dict of observations, but got "
            f"{obs_space}; wrap a single space as Dict(name=space)."
        )
    taken = {"action", "reward", *FLAGS} & set(obs_space.keys())
    if taken:
        raise ValueError(
            f"Observations may not be named {sorted(taken)}: the replay has columns of "
            "that name; rename the key in the observation space."
        )
    columns = {}
    for key, space in obs_space.items():
        if not isinstance(space, (gym.spaces.Box, gym.spaces.Discrete)):
            raise TypeError(
                f"Observations may be Box or Discrete, but {key!r} is {space}; flatten "
                "or convert it with a Gymnasium wrapper."
            )
        columns[key] = (space.shape, space.dtype)
    columns["action"] = ((action_size(action_space),), np.dtype(np.float32))
    columns["reward"] = ((), np.dtype(np.float32))
    return columns | {flag: ((), np.dtype(bool)) for flag in FLAGS}


def replay_bytes(capacity, obs_space, action_space):
    """Bytes that a full replay of `capacity` rows occupies: known before it exists."""
    columns = row_columns(obs_space, action_space).values()
    return capacity * sum(
        int(np.prod(shape)) * dtype.itemsize for shape, dtype in columns
    )


class Replay:
    """A ring of rows for each environment, preallocated, uint8 images kept as uint8.

    Args:
        capacity: rows in all, shared equally by the environments.
        obs_space: gymnasium.spaces.Dict. action_space: Discrete or Box of shape (n,).
        num_envs: how many streams of experience are stored side by side.
        seed: of the sampling.
    """

    def __init__(self, capacity, obs_space, action_space, num_envs=1, seed=0):
        self.obs_space, self.action_space = obs_space, action_space
        self.columns = row_columns(obs_space, action_space)
        self.rows = capacity // num_envs
        if self.rows < 1:
            raise ValueError(
                f"Replay expects at least one row for each of the {num_envs} "
                f"environments, but got a capacity of {capacity}; raise the capacity."
            )
        # np.zeros reserves address space; memory is used when a row is written.
        self.data = {
            key: np.zeros((num_envs, self.rows, *shape), dtype)
            for key, (shape, dtype) in self.columns.items()
        }
        self.head = np.zeros(num_envs, np.int64)  # where the next row goes
        self.size = np.zeros(num_envs, np.int64)  # rows that hold experience
        self.rng = np.random.default_rng(seed)

    def __len__(self):
        return int(self.size.sum())

    def add(self, env, obs, action, reward, is_first, is_last, is_terminal):
        """Store one row of stream `env`.

        Args: `obs`, {key: array} as in the observation space; `action`, chosen AFTER
        seeing `obs` (a number of a Discrete space, or a vector [A]; stored as zeros on
        a last row); `reward`, which arrived WITH `obs`; three booleans.
        Raises: ValueError for a missing key, a wrong shape or dtype; nothing is stored.
        """
        action = encode_action(self.action_space, action)
        row = {**obs, "action": action * (not is_last), "reward": np.float32(reward)}
        row |= {"is_first": is_first, "is_last": is_last, "is_terminal": is_terminal}
        for key, (shape, dtype) in self.columns.items():
            self._check(key, row, shape, dtype)
        at = self.head[env]
        for key in self.columns:
            self.data[key][env, at] = row[key]
        self.head[env] = (at + 1) % self.rows
        self.size[env] = min(self.size[env] + 1, self.rows)

    @staticmethod
    def _check(key, row, shape, dtype):
        if key not in row:
            raise ValueError(
                f"Replay.add expects an observation with the key {key!r}, but got "
                f"{sorted(row)}; pass every key of the observation space."
            )
        value = np.asarray(row[key])
        if value.shape != shape or not np.can_cast(value.dtype, dtype, "same_kind"):
            raise ValueError(
                f"Replay.add expects {key!r} as {dtype} of shape {shape}, but got "
                f"{value.dtype} of shape {value.shape}; convert it to the space's form."
            )

    def sample(self, batch, length, rng=None):
        """Draw `batch` windows of `length` consecutive rows: {key: [B, T, ...]}.

        Every window start is equally likely. A window may span several episodes (its
        flags say where), but never the write head, where the newest row meets the
        oldest. `is_first[:, 0]` is True: a window starts from the zero state. A row
        before a first row is a last row, also where a run was cut off. `rng` replaces
        the replay's own random numbers, for a look that must not change a run.
        Raises: ValueError while no stream holds `length` rows.
        """
        starts = np.maximum(self.size - length + 1, 0)
        if starts.sum() == 0:
            raise ValueError(
                f"Replay.sample expects a stream of at least {length} rows, but the "
                f"longest holds {self.size.max()}; collect more before sampling."
            )
        draw = (rng or self.rng).integers(starts.sum(), size=batch)
        env = np.searchsorted(np.cumsum(starts), draw, side="right")
        offset = draw - (np.cumsum(starts) - starts)[env]
        oldest = (self.head - self.size)[env]
        index = (oldest + offset)[:, None] + np.arange(length)
        index %= self.rows
        window = {key: column[env[:, None], index] for key, column in self.data.items()}
        window["is_last"][:, :-1] |= window["is_first"][:, 1:]
        window["is_first"][:, 0] = True
        return window

    def save(self, path, compress=False):
        """Write the stored rows, the position and the random state to one .npz file.

        The file appears under its name only when it is complete. No pickle is used.
        """
        path = Path(path)
        used = {key: column[:, : self.size.max()] for key, column in self.data.items()}
        spaces = {key: describe_space(space) for key, space in self.obs_space.items()}
        meta = {
            "format": "dreamer-lite-replay-1",
            "obs_space": spaces,
            "action_space": describe_space(self.action_space),
            "rows": self.rows,
            "rng": self.rng.bit_generator.state,
        }
        partial = path.with_name(path.name + ".partial")
        write = np.savez_compressed if compress else np.savez
        with open(partial, "wb") as file:
            write(file, meta=json.dumps(meta), head=self.head, size=self.size, **used)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    @classmethod
    def load(cls, path):
        """Read a replay written by `save`.

        Raises: FileNotFoundError, or ValueError for a damaged or foreign file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {key: file[key] for key in file.files}
            meta = json.loads(str(stored.pop("meta")))
            return cls._restore(meta, stored)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Replay.load expects a file written by Replay.save, but {path} is "
                f"damaged or foreign ({error}); record it again or restore a copy."
            ) from error

    @classmethod
    def _restore(cls, meta, stored):
        obs_space = gym.spaces.Dict(
            {key: restore_space(space) for key, space in meta["obs_space"].items()}
        )
        head, size = stored.pop("head"), stored.pop("size")
        action_space = restore_space(meta["action_space"])
        capacity = meta["rows"] * len(head)
        replay = cls(capacity, obs_space, action_space, num_envs=len(head))
        for key, column in replay.data.items():
            column[:, : size.max()] = stored[key]
        replay.head, replay.size = head, size
        replay.rng.bit_generator.state = meta["rng"]
        return replay


def describe_space(space):
    """A Box or Discrete space as plain data for JSON."""
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    bounds = [bound.ravel().tolist() for bound in (space.low, space.high)]
    low, high = ([b[0]] if len(set(b)) == 1 else b for b in bounds)
    shape, dtype = list(space.shape), str(space.dtype)
    return {"type": "Box", "low": low, "high": high, "shape": shape, "dtype": dtype}


def restore_space(data):
    """Undo `describe_space`."""
    if data["type"] == "Discrete":
        return gym.spaces.Discrete(data["n"], start=data["start"])
    low, high = (
        np.broadcast_to(np.resize(data[end], data["shape"]), data["shape"])
        for end in ("low", "high")
    )
    return gym.spaces.Box(low, high, dtype=np.dtype(data["dtype"]))
