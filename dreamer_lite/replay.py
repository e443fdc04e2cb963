# Generated from notebooks/03_replay.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""What the agent remembers: rows of experience, sampled as sequences.

Built in notebook 03. One row holds what was seen, the reward that arrived with it and
the action that was chosen after seeing it. Source: DreamerV3, Methods, "Experience
replay".
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import gymnasium as gym
import numpy as np

LARGEST = np.finfo(np.float32).max


FLAGS = ("is_first", "is_last", "is_terminal")
# An observation may not have the name of another column, of an entry of the replay's
# file, or of another loss.
RESERVED = {"action", "reward", *FLAGS, "file", "head", "meta", "size"} | {
    "continue", "dyn", "rep", "actor", "critic", "replay_critic",
}  # fmt: skip
CHOICES = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
TEXT_LENGTH = 200  # characters of a text whose space does not say how many


@dataclass(eq=False)
class Field:
    """What one key of a row may hold, and how it is stored.

    Args:
        kind: "picture", "vector", "choices", "text" or "flag".
        shape: of one stored value.
        dtype: of the stored values.
        low, high: the smallest and the largest value allowed, numbers or arrays.
        sizes: of choices, how many there are in each dimension.

    Source: none, bookkeeping.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    low: float | np.ndarray = -LARGEST
    high: float | np.ndarray = LARGEST
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Computed once, because every row and every update read them: the width of the
        # vector that stands for a value, with one-hots laid end to end; the lowest
        # number of each choice; where choice 0 of each one-hot would be in the vector.
        self.width = sum(self.sizes) or math.prod(self.shape)
        lowest = np.broadcast_to(self.low, self.shape) if self.sizes else np.zeros(0)
        self.starts = lowest.ravel().astype(int).tolist()
        self.places = np.cumsum(self.sizes).astype(int) - self.sizes - self.starts

    @property
    def frame(self) -> tuple[int, int, int]:
        """Height, width and channels; the smaller of both ends holds the channels."""
        if len(self.shape) == 2:
            return (*self.shape, 1)
        first, *_, last = self.shape
        return self.shape if last <= first else (*self.shape[1:], first)


def read_box(space: gym.spaces.Box) -> Field:
    """The field of a Box: a picture, or a vector of all its numbers.

    Raises:
        TypeError: for more than three dimensions, or a picture without finite bounds.

    Source: none; these rules are ours.
    """
    shape, sides, given = space.shape, len(space.shape), space.dtype
    if sides > 3:
        raise TypeError("give it three dimensions, with stacked frames as channels")
    limits, dtype = (-LARGEST, LARGEST), np.dtype(np.float32)
    if given in (np.uint8, np.bool_):
        limits, dtype = (0, 255), given
    field = Field("vector", shape, dtype, *limits)
    if sides < 2 or min(field.frame[:2]) < 16:
        return field
    low, high = float(space.low.min()), float(space.high.max())
    if sides == 2 and given != np.uint8 and (given.kind, low, high) != ("f", 0, 1):
        return field
    if not 0 < high - low < LARGEST:
        raise TypeError("give the picture its lowest and highest value as bounds")
    return Field("picture", shape, dtype, low, high)


def read_space(space: gym.Space) -> Field:
    """The field of a single space.

    Raises:
        TypeError: for a space that cannot be read, with what to do about it.

    Source: none; these rules are ours.
    """
    if isinstance(space, CHOICES):
        low, count = getattr(space, "start", 0), getattr(space, "nvec", None)
        if count is None:
            count = space.n if isinstance(space, gym.spaces.Discrete) else 2
        sizes = np.broadcast_to(count, space.shape).ravel().tolist()
        high = low + count - 1
        small = np.min(low) >= 0 and np.max(high) < 256
        dtype = np.dtype(np.uint8 if small else np.int64)
        return Field("choices", space.shape, dtype, low, high, tuple(sizes))
    if isinstance(space, gym.spaces.Box):
        return read_box(space)
    if space.dtype is not None and space.dtype.kind == "U":
        length = getattr(space, "max_length", TEXT_LENGTH)
        return Field("text", (length,), np.dtype(np.uint8), 0, 255)
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        raise TypeError("flatten it, as dreamer_lite.envs.build_env does")
    raise TypeError(
        "convert it with gymnasium.wrappers.TransformObservation to a Box, Discrete, "
        "MultiDiscrete, MultiBinary or Text"
    )


def read_action(space: gym.Space) -> Field:
    """The field of an action: choices, or a vector.

    Raises:
        TypeError: for any other space.

    Source: none; these rules are ours.
    """
    if isinstance(space, CHOICES):
        return read_space(space)
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return Field("vector", space.shape, np.dtype(np.float32))
    raise TypeError(
        "Dreamer Lite acts in Discrete, MultiDiscrete, MultiBinary or a Box of shape "
        f"(n,), but got {space}; wrap the environment so that its actions are these."
    )


def read_spaces(
    obs_space: gym.Space, action_space: gym.Space | None = None
) -> dict[str, Field]:
    """The fields of an observation, or with `action_space` those of a whole row.

    Args:
        obs_space: a Dict of spaces.
        action_space: adds the columns of action, reward and flags.

    Returns:
        {name: Field}, in the order of the space.

    Raises:
        TypeError: for spaces that cannot be read, all of them with what to do.

    Source: DreamerV3, "World model learning": inputs, actions, rewards and flags.
    """
    if not isinstance(obs_space, gym.spaces.Dict):
        raise TypeError(
            f"Observations come as a gymnasium.spaces.Dict, but got {obs_space}; wrap "
            "a single space as Dict(obs=space)."
        )
    fields, wrong = {}, []
    for name, space in obs_space.items():
        try:
            fields[name] = read_space(space)
        except TypeError as error:
            wrong.append(f"{name!r} is {space}: {error}")
        if name in RESERVED:
            wrong.append(f"{name!r} is the name of another column or loss: rename it")
    if wrong:
        raise TypeError(f"These observations do not fit: {'; '.join(wrong)}.")
    if action_space is not None:
        action = read_action(action_space)
        numbers, flag = np.dtype(np.float32), np.dtype(bool)
        fields["action"] = Field("vector", (action.width,), numbers)
        fields["reward"] = Field("vector", (), numbers)
        fields |= {name: Field("flag", (), flag, False, True) for name in FLAGS}
    return fields


def select_spaces(
    obs_space: gym.Space, obs_keys: str = "*", text_keys: str = ""
) -> gym.spaces.Dict:
    """The observations that an agent reads.

    Args:
        obs_space: of the environment; a single space becomes Dict(obs=space).
        obs_keys: names or patterns of the keys to keep, separated by commas.
        text_keys: names or patterns of keys whose whole numbers are characters.

    Returns:
        a Dict of the chosen spaces, in which all text has a Text space.

    Raises:
        ValueError: if no key is chosen.

    Source: none, bookkeeping.
    """

    def chosen(key: str, patterns: str) -> bool:
        return any(fnmatchcase(key, part.strip()) for part in patterns.split(","))

    if not isinstance(obs_space, gym.spaces.Dict):
        obs_space = gym.spaces.Dict(obs=obs_space)
    spaces = {k: space for k, space in obs_space.items() if chosen(k, obs_keys)}
    if not spaces:
        raise ValueError(
            f"obs_keys chooses among {sorted(obs_space)}, but none of them fits "
            f"{obs_keys!r}; correct it."
        )
    for key, space in spaces.items():
        if chosen(key, text_keys) and space.shape is not None:
            spaces[key] = gym.spaces.Text(math.prod(space.shape))
    return gym.spaces.Dict(spaces)


KINDS = {"f": "fiub", "u": "iub", "i": "iub", "b": "b"}  # stored <- what may come in


def encode_text(text: object, length: int, lead: int) -> np.ndarray:
    """Texts, or arrays of character numbers, as [*lead, length] of bytes.

    Source: none; Latin-1 has a byte for each of its characters.
    """
    array = np.asarray(text)
    if array.dtype.kind == "U":
        lines = [str(line).encode("latin-1", "replace") for line in array.ravel()]
        rows = [list(line[:length].ljust(length, b"\0")) for line in lines]
        return np.array(rows, np.uint8).reshape(*array.shape, length)
    if array.dtype.kind not in KINDS["f"]:
        return array  # which `admit` refuses
    known = (array >= 0) & (array < 256)
    array = np.where(known, array, ord("?"))
    return array.reshape(*array.shape[:lead], -1)[..., :length]


def find_outside(field: Field, array: np.ndarray) -> np.ndarray | tuple[()]:
    """The values [n] that a field does not allow; nan is never allowed.

    Source: none, bookkeeping.
    """
    byte = array.dtype == np.uint8 and field.kind != "choices"
    if field.kind == "flag" or (byte and field.low <= 0 and field.high == 255):
        return ()  # no comparison: this is what most pictures are
    inside = (field.low <= array) & (array <= field.high)
    return () if inside.all() else array[~inside]


def admit(
    fields: dict[str, Field], values: dict, lead: int = 0
) -> dict[str, np.ndarray]:
    """Bring values into their stored form: the one door to replay and agent.

    Args:
        fields: {name: Field}.
        values: {name: array, number or text}; other names are ignored.
        lead: dimensions before those of a field: 0 for a row, 1 for a batch.

    Returns:
        {name: array [*lead, *shape]} of the field's dtype, in one piece of memory.

    Raises:
        ValueError: with every name that does not fit, what came and what to do.

    Source: none, bookkeeping.
    """
    fits, wrong = {}, []
    for name, field in fields.items():
        if name not in values:
            wrong.append(f"{name!r} is missing among {sorted(values)}: pass every key")
            continue
        array = values[name]
        if field.kind == "text":
            array = encode_text(array, field.shape[0], lead)
        array, sides = np.asarray(array), lead + len(field.shape)
        shaped = array.ndim == sides and array.shape[lead:] == field.shape
        if not shaped or array.dtype.kind not in KINDS[field.dtype.kind]:
            form = ["B"] * lead + [*map(str, field.shape)]
            wrong.append(
                f"{name!r} is {array.dtype} of shape {list(array.shape)}, where the "
                f"space has {field.dtype} of [{', '.join(form)}]: convert it"
            )
        elif len(outside := find_outside(field, array)):
            allowed = f"numbers from {field.low} to {field.high}"
            if field.kind == "vector" and field.dtype == np.float32:
                allowed = "finite numbers of float32"
            wrong.append(
                f"{name!r} holds {outside[0]}, where the space has {allowed}: correct "
                "one of them"
            )
        else:
            fits[name] = np.asarray(array, field.dtype, order="C")
    sizes = {name: len(array) for name, array in fits.items()} if lead else {}
    if len(set(sizes.values())) > 1:
        wrong.append(f"the batch sizes differ, {sizes}: pass rows that belong together")
    if wrong:
        raise ValueError(f"This does not fit its space: {'; '.join(wrong)}.")
    return fits


FORMAT = "dreamer-lite-replay-1"


def replay_bytes(capacity: int, obs_space: gym.Space, action_space: gym.Space) -> int:
    """Bytes that a full replay of `capacity` rows occupies: known before it exists.

    Source: none, bookkeeping.
    """
    fields = read_spaces(obs_space, action_space).values()
    return capacity * sum(math.prod(f.shape) * f.dtype.itemsize for f in fields)


def encode_action(field: Field, action: object) -> np.ndarray:
    """One action as a vector [A]: one-hots laid end to end, or the numbers.

    Args:
        field: of the action, as `read_action` gives it.
        action: in the form of its space; a vector [A] is returned as it is.

    Raises:
        ValueError: for a choice that the space does not have.

    Source: none; the model reads vectors, for any space.
    """
    action = np.asarray(action)
    one_hot = action.shape == (field.width,) != field.shape
    if field.kind != "choices" or one_hot:
        return action
    chosen = admit({"action": field}, {"action": action})["action"].ravel()
    vector = np.zeros(field.width, np.float32)
    vector[field.places + chosen] = 1
    return vector


def decode_action(field: Field, vector: np.ndarray) -> np.ndarray:
    """Undo `encode_action` for a batch: [B, A] -> actions in the form of the space.

    Source: none, bookkeeping.
    """
    if not field.sizes:
        return vector
    one_hots = np.split(vector, np.cumsum(field.sizes)[:-1], -1)
    chosen = np.stack([one_hot.argmax(-1) for one_hot in one_hots], -1)
    return chosen.reshape(len(vector), *field.shape) + field.low


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


class Replay:
    """A ring of rows for each environment, preallocated, uint8 images kept as uint8.

    Args:
        capacity: rows in total, shared equally by the environments.
        obs_space, action_space: what `read_spaces` can read.
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
        self.fields = read_spaces(obs_space, action_space)
        self.choice = read_action(action_space)
        self.rows = capacity // num_envs
        if self.rows < 1:
            raise ValueError(
                f"Replay expects at least one row for each of the {num_envs} "
                f"environments, but got a capacity of {capacity}; raise the capacity."
            )
        # np.zeros reserves address space; memory is used when a row is written.
        self.data = {
            key: np.zeros((num_envs, self.rows, *field.shape), field.dtype)
            for key, field in self.fields.items()
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

        Args:
            env: number of the stream.
            obs: {key: array} as in the observation space; other keys are ignored.
            action: chosen AFTER seeing `obs`, in the form of its space or as a vector
                [A]. A last row stores zeros.
            reward: arrived WITH `obs`.
            is_first, is_last, is_terminal: booleans.

        Raises:
            ValueError: as `admit`; then nothing is stored.
        """
        action = encode_action(self.choice, action) * (not is_last)
        row = {**obs, "action": action, "reward": reward}
        row |= {"is_first": is_first, "is_last": is_last, "is_terminal": is_terminal}
        row = admit(self.fields, row)
        at = self.head[env]
        for key, value in row.items():
            self.data[key][env, at] = value
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

        Raises: FileNotFoundError, or ValueError if the file is damaged or not a replay.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"Replay.load expects a file written by Replay.save, but there is none "
                f"at {path}; record one or correct the path."
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["meta"]))
                replay = cls.empty(about, file["head"], file["size"])
                for key, column in replay.data.items():
                    size = file.zip.getinfo(f"{key}.npy").file_size
                    if size > column.nbytes + 2**16:  # that of a header
                        raise ValueError(f"{key} has more rows than the replay")
                    column[:, : replay.size.max()] = file[key]
            return replay
        except (OSError, MemoryError):
            raise
        except Exception as error:  # zip, zlib, NumPy and JSON each raise their own
            raise ValueError(
                f"Replay.load expects a file written by Replay.save, but {path} is "
                f"damaged or not a replay ({error}); record it again or restore a copy."
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
    """A space that `read_space` can read, as plain data for JSON.

    Source: none, bookkeeping.
    """
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        counts, starts = space.nvec.tolist(), space.start.tolist()
        return {"type": "MultiDiscrete", "n": counts, "start": starts}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
    if not isinstance(space, gym.spaces.Box):
        return {"type": "Text", "n": read_space(space).shape[0]}
    bounds = [bound.ravel().tolist() for bound in (space.low, space.high)]
    low, high = ([b[0]] if len(set(b)) == 1 else b for b in bounds)
    shape, dtype = list(space.shape), str(space.dtype)
    return {"type": "Box", "low": low, "high": high, "shape": shape, "dtype": dtype}


def restore_space(data: dict) -> gym.Space:
    """Undo `describe_space`. Source: none, bookkeeping."""
    if data["type"] == "Box":
        dtype, shape = np.dtype(data["dtype"]), data["shape"]
        low, high = (np.resize(data[e], shape).astype(dtype) for e in ("low", "high"))
        return gym.spaces.Box(low, high, dtype=dtype)
    start = {"start": data["start"]} if "start" in data else {}
    return getattr(gym.spaces, data["type"])(data["n"], **start)
