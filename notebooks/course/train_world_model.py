"""The longer-trained world model that ships, and the command that makes it.

    python -m course.train_world_model  (20 minutes of one core)

It learns from the recorded episodes of data/mario_episodes.npz, but never from the
newest rows of each stream (`hold_out`), on which notebooks 05 and 06 judge it. Stopped
and started again, it continues from the last checkpoint. Result:
data/world_model.safetensors, half-precision weights and the sizes that rebuild the
model.
"""

import argparse
import json
import time
from pathlib import Path

import gymnasium as gym
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm import tqdm

from course.paths import ROOT, data_path
from dreamer_lite.config import Config
from dreamer_lite.replay import Replay, describe_space, restore_space, write_whole
from dreamer_lite.speed import pick_precision, reuse_memory
from dreamer_lite.world_model import LaProp, WorldModel

FORMAT = "dreamer-lite-world-model-1"
SIZES = {"deter": 512, "units": 96, "classes": 8, "depth": 16}
HELD_OUT = 160  # newest rows of each stream


def hold_out(replay, rows=HELD_OUT):
    """Take the newest `rows` of every stream out of `replay`, in place.

    Returns: the rows taken, {key: [streams, rows, ...]}, with `is_first` set at the
    front, as `Replay.sample` sets it.
    """
    if (replay.size < 2 * rows).any():
        raise ValueError(
            f"hold_out expects streams of at least {2 * rows} rows, but the shortest "
            f"holds {replay.size.min()}; hold out fewer."
        )
    replay.head = (replay.head - rows) % replay.rows
    replay.size = replay.size - rows
    streams = range(len(replay.head))
    index = [(head + torch.arange(rows).numpy()) % replay.rows for head in replay.head]
    taken = {
        key: torch.stack([torch.as_tensor(column[i, index[i]]) for i in streams])
        for key, column in replay.data.items()
    }
    taken["is_last"][:, :-1] |= taken["is_first"][:, 1:]
    taken["is_first"][:, 0] = True
    return taken


def save_world_model(model, sizes, spaces, action_space, path, about=None):
    """Write weights (half precision), sizes and spaces to one safetensors file."""
    facts = {
        "format": FORMAT,
        "sizes": sizes,
        "spaces": {key: describe_space(space) for key, space in spaces.items()},
        "action_space": describe_space(action_space),
        "about": about or {},
    }
    weights = {k: w.detach().half().contiguous() for k, w in model.state_dict().items()}
    facts = {"dreamer_lite": json.dumps(facts)}
    write_whole(path, lambda file: file.write(save(weights, facts)))


def load_world_model(path=None):
    """Read a world model written by `save_world_model` (default: the one that ships).

    Returns: a WorldModel in float32, ready to dream.
    Raises: FileNotFoundError, or ValueError for a damaged or foreign file.
    """
    path = Path(path or data_path("world_model.safetensors"))
    if not path.exists():
        raise FileNotFoundError(
            f"There is no world model at {path}; make one with python -m "
            "course.train_world_model."
        )
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["dreamer_lite"])
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']}")
            weights = {key: file.get_tensor(key).float() for key in file.keys()}
        spaces = {key: restore_space(space) for key, space in facts["spaces"].items()}
        action_space = restore_space(facts["action_space"])
        model = WorldModel(
            gym.spaces.Dict(spaces), action_space, Config(**facts["sizes"])
        )
        model.load_state_dict(weights)
    except (SafetensorError, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"load_world_model expects a file written by save_world_model, but {path} "
            f"is damaged or foreign ({error}); restore a copy or train it again."
        ) from error
    return model.requires_grad_(False)


class Training:
    """Model, optimizer and counters of one training, which a checkpoint restores."""

    def __init__(self, replay, options):
        torch.manual_seed(options.seed)
        self.replay, self.options = replay, options
        spaces = replay.obs_space, replay.action_space
        self.model = WorldModel(*spaces, Config(**SIZES))
        self.optimizer = LaProp(self.model.parameters(), options.lr, warmup=50)
        self.dtype = pick_precision(torch.device("cpu"))
        self.update, self.seconds = 0, 0.0
        self.path = options.folder / "checkpoint.pt"
        if self.path.exists():
            self.restore(torch.load(self.path, weights_only=True))

    def step(self):
        """One update; the learning rate falls from `lr` to a twentieth of it."""
        o = self.options
        left = 1 - self.update / o.updates
        for group in self.optimizer.param_groups:
            group["lr"] = o.lr * max(left, 0.05)
        batch = self.replay.sample(o.batch, o.length)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            loss, metrics, _ = self.model.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update += 1
        return metrics

    def save(self):
        """Write the checkpoint; the old one stays until the new one is complete."""
        data = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "update": self.update,
            "seconds": self.seconds,
            "torch": torch.get_rng_state(),
            "replay": json.dumps(self.replay.rng.bit_generator.state),
        }
        write_whole(self.path, lambda file: torch.save(data, file))

    def restore(self, data):
        """Continue where `save` was called."""
        self.model.load_state_dict(data["model"])
        self.optimizer.load_state_dict(data["optimizer"])
        self.update, self.seconds = data["update"], data["seconds"]
        torch.set_rng_state(data["torch"])
        self.replay.rng.bit_generator.state = json.loads(data["replay"])


def run(training, every=60.0):
    """Train to the end, with a checkpoint every minute."""
    o, saved = training.options, time.monotonic()
    bar = tqdm(total=o.updates, initial=training.update, mininterval=5)
    before = time.process_time()
    while training.update < o.updates:
        metrics = training.step()
        bar.update()
        if training.update % 20 == 0:
            shown = {k.removeprefix("loss/"): f"{v:.2f}" for k, v in metrics.items()}
            bar.set_postfix(shown, refresh=False)
        if time.monotonic() - saved > every:
            training.seconds += time.process_time() - before
            training.save()
            before, saved = time.process_time(), time.monotonic()
    training.seconds += time.process_time() - before
    bar.close()


def main(argv=None):
    """Train the model and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "data/world_model.safetensors"
    )
    parser.add_argument("--data", type=Path, help="default: data/mario_episodes.npz")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/world_model")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: torch decides")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    reuse_memory()
    options.folder.mkdir(parents=True, exist_ok=True)
    replay = Replay.load(options.data or data_path("mario_episodes.npz"))
    hold_out(replay)
    training = Training(replay, options)
    run(training)
    about = {
        "updates": training.update,
        "batch": [options.batch, options.length],
        "seed": options.seed,
        "cpu_minutes": round(training.seconds / 60, 1),
    }
    spaces = replay.obs_space, replay.action_space
    save_world_model(training.model, SIZES, *spaces, options.out, about)
    training.path.unlink(missing_ok=True)
    print(f"wrote {options.out.name}: {about}")


if __name__ == "__main__":
    main()
