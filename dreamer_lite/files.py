"""Files that are whole or absent: agents, settings, tables, checkpoints, a lock.

Plumbing, nothing of DreamerV3 itself, hence written by hand and not exported from a
notebook. It imports no torch until weights are read or written.
"""

import contextlib
import csv
import io
import json
import math
import os
import re
import shutil
import warnings
from dataclasses import asdict, fields
from pathlib import Path

import gymnasium as gym
import numpy as np

from dreamer_lite.replay import describe_space, restore_space


def sync_folder(path):
    """Force a folder's list of names to disk, where the system knows how."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some shared folders refuse; files told
                os.fsync(folder)
        finally:
            os.close(folder)


def write_atomically(path, write):
    """Call `write(partial_path)`, force it to disk, then give it its name."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def checked_fields(cls, values):
    """Values for the fields of the dataclass `cls`, numbers made floats where asked.

    NumPy's numbers count as Python's.
    Raises: ValueError for an unknown field, another type, or a number that is negative
    or not finite.
    """
    known = {field.name: field.type for field in fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no field {', '.join(unknown)}; it has "
            f"{', '.join(known)}; correct the name."
        )
    checked = {}
    for key, value in values.items():
        kind = known[key]
        value = value.item() if isinstance(value, np.generic) else value
        if kind is float and type(value) in (int, str):  # YAML reads 1e-4 as text
            try:
                value = float(value)
            except (ValueError, OverflowError):
                pass
        fits = type(value) is kind
        if fits and kind is not str:
            fits = value >= 0 and (kind is not float or math.isfinite(value))
        if not fits:
            limits = {float: ", finite and not negative", int: ", not negative"}
            raise ValueError(
                f"{cls.__name__} expects {key} as {kind.__name__}"
                f"{limits.get(kind, '')}, but got {value!r}; correct that field."
            )
        checked[key] = value
    return checked


def read_yaml(path):
    """The lines `field: value` of a file. Raises: ValueError if it holds others."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise ValueError(
            f"{path} should be YAML with lines `field: value`, but it cannot be read "
            f"({where}); correct it."
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} should hold lines `field: value`, but it holds "
            f"{type(values).__name__}; write one field a line."
        )
    return values


def read_json(path):
    """The object {key: value} in a file. Raises: ValueError if it holds none."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds {type(values).__name__}")
    except ValueError as error:
        raise ValueError(
            f"{path} should hold one JSON object, but it cannot be read ({error}); "
            "correct it or restore a copy."
        ) from error
    return values


def write_yaml(path, values):
    """Write {field: value}, one a line, atomically."""
    import yaml

    text = yaml.safe_dump(values, sort_keys=False)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


FORMAT = "dreamer-lite-agent-1"


def save_agent(path, agent):
    """Write weights, config and spaces to one safetensors file, atomically.

    Raises: OSError for a folder that does not exist or a file that cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not Path(path).parent.is_dir():
        raise FileNotFoundError(
            "Dreamer.save expects a file in a folder that exists, but there is no "
            f"folder {Path(path).parent}; make it first."
        )
    about = {
        "format": FORMAT,
        "config": asdict(agent.config),
        "obs_space": {key: describe_space(s) for key, s in agent.obs_space.items()},
        "plain": agent.plain,
        "action_space": describe_space(agent.action_space),
    }
    weights = {key: w.contiguous() for key, w in agent.state_dict().items()}
    about = {"dreamer_lite": json.dumps(about)}
    try:
        write_atomically(path, lambda partial: save_file(weights, partial, about))
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Dreamer.save expects a file that can be written, but {path} cannot "
            f"({error}); free space or choose another one."
        ) from error


def agent_file(path):
    """The agent's file that `path` means: itself, or the newest one of a run folder.

    Raises: FileNotFoundError if there is none; OSError if it cannot be read.
    """
    path, file = Path(path), Path(path)
    if path.is_dir():
        file = (Checkpoints(path).latest() or path) / "agent.safetensors"
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no agent in the folder {path}, for it holds no checkpoint; "
                "train longer or name a file."
            )
    if not file.is_file():
        raise FileNotFoundError(f"There is no agent at {path}; train one or copy it.")
    try:
        open(file, "rb").close()
    except OSError as error:
        raise OSError(
            f"Dreamer.load expects a file that can be read, but {file} cannot "
            f"({error}); change its permissions or copy it."
        ) from error
    return file


@contextlib.contextmanager
def _opened(path):
    """The open file of an agent, what its header says, and its config as a dict."""
    from safetensors import SafetensorError, safe_open

    from dreamer_lite.config import Config  # which reads and writes with this module

    path = agent_file(path)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["dreamer_lite"])
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")
            yield file, about, asdict(Config.from_dict(about["config"]))
    except (SafetensorError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Dreamer.load expects a file written by Dreamer.save, but {path} is "
            f"damaged or foreign ({error}); restore a copy or train again."
        ) from error


def agent_config(path):
    """All fields of an agent's Config as a dict, read without its weights.

    Args and raises: as `load_agent`.
    """
    with _opened(path) as (_, _, config):
        return config


def load_agent(path):
    """Read what `save_agent` wrote: obs_space, action_space, config and weights.

    The config is a dict of all fields. Args: path, a file or a run folder. Raises: as
    `agent_file`, and ValueError for a damaged or foreign file.
    """
    with _opened(path) as (file, about, config):
        # Copied at once: a run may remove this checkpoint while it is read, and to look
        # into a file that was emptied under one's hands ends the program (SIGBUS).
        weights = {key: file.get_tensor(key).clone() for key in file.keys()}
        spaces = {key: restore_space(s) for key, s in about["obs_space"].items()}
        obs_space = spaces["obs"] if about["plain"] else gym.spaces.Dict(spaces)
        return obs_space, restore_space(about["action_space"]), config, weights


def fill(agent, weights, path):
    """Give `agent` the weights of the file `path`.

    Raises: ValueError if they belong to an agent of other sizes or spaces.
    """
    try:
        agent.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds an agent of other sizes or for another environment; use its "
            "own configuration and environment."
        ) from error


class FolderLock:
    """One process at a time in a folder: held until `release` or the process ends.

    The system frees it when the process dies, however it dies, so nothing stale stays.
    Raises: BlockingIOError while another run, here or in another process, holds it.
    """

    held = set()  # the system's lock does not tell runs of one process apart

    def __init__(self, folder):
        self.path = Path(folder).resolve() / "run.lock"
        # In this order: to close the file would free the lock that this process has.
        if self.path in self.held or not self._lock():
            raise BlockingIOError(
                f"Another run is writing in {folder}; wait for it or stop it, or "
                "choose another folder."
            )
        self.held.add(self.path)

    def _lock(self):
        self.file = open(self.path, "a+")
        try:
            if os.name == "nt":
                import msvcrt

                self.file.seek(0)
                msvcrt.locking(self.file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                # Not inherited by worker processes, unlike flock.
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.file.close()
            return False
        except OSError:  # a network folder that knows no locks
            pass
        return True

    def release(self):
        """Let others in; a second call does nothing."""
        self.held.discard(self.path)
        self.file.close()


class Checkpoints:
    """Complete checkpoints in a run folder: a new one first, then the old one goes.

    Each is a folder `checkpoint-<step>`; it gets that name only when all of its files
    are on disk, so a process killed at any moment leaves one that is whole. Any other
    name, like that of a copy, is not ours and left alone.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def _complete(self):
        return sorted(self._named(r"checkpoint-\d+"), key=self.step_of)

    def _named(self, pattern):
        found = self.folder.glob("checkpoint-*")
        return [p for p in found if re.fullmatch(pattern, p.name) and p.is_dir()]

    @staticmethod
    def step_of(path):
        """The agent step of a checkpoint's folder."""
        return int(path.name.split("-")[1])

    def latest(self):
        """Path of the newest complete checkpoint, or None."""
        complete = self._complete()
        return complete[-1] if complete else None

    def latest_step(self):
        """The agent step of the newest complete checkpoint, 0 without one."""
        newest = self.latest()
        return self.step_of(newest) if newest else 0

    def write(self, step, writers):
        """Write {file name: function(path)}; on failure the previous one stays.

        A step that has a checkpoint already is left as it is.
        """
        final = self.folder / f"checkpoint-{step:09d}"
        partial = final.with_suffix(".partial")
        if final.exists():
            return
        for old in self._named(r"checkpoint-\d+\.partial"):  # of a process that died
            shutil.rmtree(old, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            for name, write in writers.items():
                write_atomically(partial / name, write)
            os.replace(partial, final)
            sync_folder(self.folder)
        except Exception as error:  # torch and safetensors have errors of their own
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"The checkpoint of step {step} could not be written to {self.folder} "
                f"({error}); the previous one is kept, so free space, then run the "
                "same command again."
            ) from error
        for old in self._complete()[:-1]:
            discard(old)


def discard(folder):
    """Remove a folder of files. Emptied first: Colab's Drive keeps what one removes."""
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            open(file, "wb").close()
    shutil.rmtree(folder, ignore_errors=True)


# On Windows a program such as Excel locks the files that it shows.
SHOWN = PermissionError if os.name == "nt" else ()


class Table:
    """A CSV file that grows by rows; a column that appears late is added to all rows.

    Who only reads changes nothing: the file is brought in line with the first `add`.
    Args: path; step: rows after it are dropped, they will be made again.
    Attribute: `found`, how many rows the file had. Raises: ValueError for a file that
    is no such table.
    """

    def __init__(self, path, step=0):
        self.path, self.fields, self.rows = Path(path), [], []
        self.found, self.in_line = 0, True
        if not self.path.exists():
            return
        try:
            self._read(step)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise ValueError(
                f"{self.path} should be a table of numbered steps, but it has other "
                f"rows ({error}); choose another folder, or move it away."
            ) from error

    def _read(self, step):
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a full disk may cut the last line
        reader = csv.DictReader(io.StringIO(whole), strict=True)
        self.fields, rows = list(reader.fieldnames or []), list(reader)
        if text and "step" not in self.fields:
            raise ValueError("there is no column step")
        if any(None in row for row in rows):
            raise ValueError("a row is longer than the header")
        self.rows = [row for row in rows if int(row["step"]) <= step]
        self.found, self.in_line = len(rows), text == whole and self.rows == rows

    def _write_all(self):
        def write(path):
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(
                    file, self.fields, restval="", lineterminator="\n"
                )
                writer.writeheader()
                writer.writerows(self.rows)

        write_atomically(self.path, write)
        self.in_line = True

    def add(self, row):
        """Append {column: number}."""
        row = {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}
        self.rows.append(row)
        new = [key for key in row if key not in self.fields]
        self.fields += new
        self.in_line = self.in_line and not new
        with self._unless_shown():
            if self.in_line:
                self._append(row)
            else:
                self._write_all()

    def _append(self, row):
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.fields, restval="", lineterminator="\n").writerow(
                row
            )

    @contextlib.contextmanager
    def _unless_shown(self):
        """Put off what another program does not let us write."""
        try:
            yield
        except SHOWN:
            self.in_line = False  # everything is written with the next row
            warnings.warn(
                f"{self.path} is open in another program; its rows are kept and "
                "written when that has closed it.",
                stacklevel=3,
            )

    def sync(self):
        """Force what was added, and what was dropped, to disk."""
        with self._unless_shown():
            if not self.in_line:
                self._write_all()
            if self.path.exists():
                with open(self.path, "rb+") as file:
                    os.fsync(file.fileno())
