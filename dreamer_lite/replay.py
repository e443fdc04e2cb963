# Generated from notebooks/03_replay.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""What the agent remembers: rows of experience, sampled as sequences.

Built in notebook 03. One row holds what was seen, the reward that arrived with it and
the action that was chosen after seeing it. Source: DreamerV3, Methods, "Experience
replay".
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np


def action_size(space: gym.Space) -> int:
    """Length of an action vector: the number of choices, or of dimensions.

    Raises: TypeError for anything but Discrete and a Box with one dimension.
    Source: none, bookkeeping.
    """
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return space.shape[0]
    raise TypeError(
        f"Dreamer Lite acts in Discrete(n) or a Box of shape (n,), but got {space}; "
        "wrap the environment so that its actions become one of these."
    )


def encode_action(
    space: gym.Space, action: np.ndarray | np.integer | list | int
) -> np.ndarray:
    """One action as a float32 vector [A]: one-hot for a choice, else the numbers.

    Raises: ValueError for a choice that the space does not have.
    Source: none; the model reads vectors, whatever the space.
    """
    action = np.asarray(action)
    if not isinstance(space, gym.spaces.Discrete) or action.ndim:
        return action.astype(np.float32)
    if not space.contains(action):
        raise ValueError(
            f"Replay.add expects an action in {space}, but got {action!r}; pass the "
            "number of the choice, or its one-hot vector."
        )
    return np.eye(int(space.n), dtype=np.float32)[int(action - space.start)]


FORMAT = "dreamer-lite-replay-1"
FLAGS = ("is_first", "is_last", "is_terminal")
# Names that an observation may not have: columns of the replay, entries of its file,
# and losses that stand beside those of the observations.
RESERVED = {"action", "reward", *FLAGS, "file", "head", "meta", "size"} | {
    "continue", "dyn", "rep", "actor", "critic", "replay_critic",
}  # fmt: skip


def row_columns(obs_space: gym.Space, action_space: gym.Space) -> dict[str, tuple]:
    """Shape and dtype of every column of a row: {name: (shape, dtype)}.

    Raises: TypeError or ValueError for spaces that cannot be stored.
    Source: DreamerV3, "World model learning": inputs, actions, rewards and flags.
    """
    if not isinstance(obs_space, gym.spaces.Dict):
        raise TypeError(
            f"Replay expects a gymnasium.spaces.Dict of observations, but got "
            f"{obs_space}; wrap a single space as Dict(name=space)."
        )
    if taken := sorted(RESERVED & set(obs_space.keys())):
        raise ValueError(
            f"Observations may not be named {taken}: columns of the replay or losses "
            "have that name; rename the key in the observation space."
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


def replay_bytes(capacity: int, obs_space: gym.Space, action_space: gym.Space) -> int:
    """Bytes that a full replay of `capacity` rows occupies: known before it exists.

    Source: none, bookkeeping.
    """
    columns = row_columns(obs_space, action_space).values()
    return capacity * sum(
        int(np.prod(shape)) * kind.itemsize for shape, kind in columns
    )


def draw_windows(
    head: np.ndarray,
    size: np.ndarray,
    rows: int,
    batch: int,
    length: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Where random windows of consecutive rows lie in rings of `rows` places.

    Args: head [E], the place of each ring where the next row goes; size [E], how many
    rows it holds; batch, how many windows; length, rows in each; rng, a generator.
    Returns: ring [B, 1] and place [B, T]. Every window start is equally likely, and no
    window runs across the head, where the newest row meets the oldest.
    Raises: ValueError while no ring holds `length` rows.
    Source: DreamerV3, Methods, "Experience replay" (uniform sampling).
    """
    starts = np.maximum(size - length + 1, 0)  # how many windows begin in each ring
    if starts.sum() == 0:
        raise ValueError(
            f"Replay.sample expects a stream of at least {length} rows, but the "
            f"longest holds {size.max()}; collect more before sampling."
        )
    ends = np.cumsum(starts)
    draw = rng.integers(ends[-1], size=batch)
    ring = np.searchsorted(ends, draw, side="right")
    offset = draw - (ends - starts)[ring]  # rows after the oldest one
    first = (head - size)[ring] + offset
    return ring[:, None], (first[:, None] + np.arange(length)) % rows


def check_row(row: dict, columns: dict[str, tuple], env: int) -> None:
    """Refuse a row of stream `env` that lacks a key or holds what does not fit.

    A value needs the column's shape and dtype, and a float has to be finite: a single
    nan would spread to all weights.
    Raises: ValueError with the key. Source: none, bookkeeping.
    """
    for key, (shape, dtype) in columns.items():
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
        if dtype.kind == "f" and not np.isfinite(value.astype(np.float32)).all():
            raise ValueError(
                f"Replay.add expects finite float32 numbers in {key!r}, but got nan, "
                f"inf or a larger one of environment {env}; correct it there."
            )


class Replay:
    """A ring of rows for each environment, preallocated, uint8 images kept as uint8.

    Args:
        capacity: rows in all, shared equally by the environments.
        obs_space: gymnasium.spaces.Dict. action_space: Discrete or Box of shape (n,).
        num_envs: how many streams of experience are stored side by side.
        seed: of the sampling.
    Source: DreamerV3, Methods, "Experience replay", without queue and stored states.
    """

    def __init__(
        self,
        capacity: int,
        obs_space: gym.Space,
        action_space: gym.Space,
        num_envs: int = 1,
        seed: int = 0,
    ):
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

    def __len__(self) -> int:
        return int(self.size.sum())

    def add(
        self,
        env: int,
        obs: dict,
        action: np.ndarray | np.integer | list | int,
        reward: float | np.floating,
        is_first: bool | np.bool_,
        is_last: bool | np.bool_,
        is_terminal: bool | np.bool_,
    ) -> None:
        """Store one row of stream `env`.

        Args: `obs`, {key: array} as in the observation space; `action`, chosen AFTER
        seeing `obs` (a number of a Discrete space, or a vector [A]; stored as zeros on
        a last row); `reward`, which arrived WITH `obs`; three booleans.
        Raises: ValueError for a missing key, a wrong shape or dtype, a number that is
        not finite; nothing is stored.
        """
        action = encode_action(self.action_space, action)
        row = {**obs, "action": action * (not is_last), "reward": np.float32(reward)}
        row |= {"is_first": is_first, "is_last": is_last, "is_terminal": is_terminal}
        check_row(row, self.columns, env)
        at = self.head[env]
        for key in self.columns:
            self.data[key][env, at] = row[key]
        self.head[env] = (at + 1) % self.rows
        self.size[env] = min(self.size[env] + 1, self.rows)

    def sample(
        self, batch: int, length: int, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """Draw `batch` windows of `length` consecutive rows: {key: [B, T, ...]}.

        Every window start is equally likely. A window may span several episodes (its
        flags say where), but never the seam of a ring. `is_first[:, 0]` is True: a
        window starts from the zero state. A row before a first row is a last row, also
        where a run was cut off. `rng` replaces the replay's own random numbers, for a
        look that must not change a run.
        Raises: ValueError while no stream holds `length` rows.
        """
        rng = rng or self.rng
        at = draw_windows(self.head, self.size, self.rows, batch, length, rng)
        window = {key: column[at] for key, column in self.data.items()}
        window["is_last"][:, :-1] |= window["is_first"][:, 1:]
        window["is_first"][:, 0] = True
        return window

    def save(self, path: str | os.PathLike, compress: bool = False) -> None:
        """Write rows, position and random state to one .npz file, without pickle.

        The file appears under its name only when it is complete.
        """
        n = self.size.max()
        stored = {key: column[:, :n] for key, column in self.data.items()}
        stored |= {"head": self.head, "size": self.size}
        stored["meta"] = json.dumps(self.describe())
        save = np.savez_compressed if compress else np.savez
        write_whole(path, lambda file: save(file, **stored))

    def describe(self) -> dict:
        """What the rows are, and the random state, as plain data for JSON."""
        spaces = {key: describe_space(space) for key, space in self.obs_space.items()}
        return {
            "format": FORMAT,
            "obs_space": spaces,
            "action_space": describe_space(self.action_space),
            "rows": self.rows,
            "rng": self.rng.bit_generator.state,
        }

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Replay":
        """Read a replay written by `save`.

        Raises: FileNotFoundError, or ValueError for a damaged or foreign file.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"Replay.load expects a file written by Replay.save, but there is none "
                f"at {path}; record one or correct the path."
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {key: file[key] for key in file.files}
            about = json.loads(str(stored["meta"]))
            replay = cls.empty(about, stored["head"], stored["size"])
            for key, column in replay.data.items():
                column[:, : replay.size.max()] = stored[key]
            return replay
        except (OSError, MemoryError):
            raise
        except Exception as error:  # zip, zlib, NumPy and JSON each raise their own
            raise ValueError(
                f"Replay.load expects a file written by Replay.save, but {path} is "
                f"damaged or foreign ({error}); record it again or restore a copy."
            ) from error

    @classmethod
    def empty(cls, about: dict, head: np.ndarray, size: np.ndarray) -> "Replay":
        """A replay as `describe` says, whose rows are still to be filled in."""
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")
        spaces = {key: restore_space(s) for key, s in about["obs_space"].items()}
        action_space = restore_space(about["action_space"])
        capacity = about["rows"] * len(head)
        replay = cls(capacity, gym.spaces.Dict(spaces), action_space, len(head))
        replay.head[:], replay.size[:] = head, size
        replay.rng.bit_generator.state = about["rng"]
        return replay


def write_whole(path: str | os.PathLike, write: Callable) -> None:
    """Write a file completely, or not at all.

    Args: write, called with a file open for writing bytes. The old file stays as it is
    until the new one is on disk and takes its name.
    Source: none, bookkeeping.
    """
    path = Path(path).expanduser()
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # left by a process that was killed
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def describe_space(space: gym.Space) -> dict:
    """A Box or Discrete space as plain data for JSON. Source: none, bookkeeping."""
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    bounds = [bound.ravel().tolist() for bound in (space.low, space.high)]
    low, high = ([b[0]] if len(set(b)) == 1 else b for b in bounds)
    shape, dtype = list(space.shape), str(space.dtype)
    return {"type": "Box", "low": low, "high": high, "shape": shape, "dtype": dtype}


def restore_space(data: dict) -> gym.Space:
    """Undo `describe_space`. Source: none, bookkeeping."""
    if data["type"] == "Discrete":
        return gym.spaces.Discrete(data["n"], start=data["start"])
    dtype = np.dtype(data["dtype"])
    low, high = (
        np.resize(data[end], data["shape"]).astype(dtype) for end in ("low", "high")
    )
    return gym.spaces.Box(low, high, dtype=dtype)
