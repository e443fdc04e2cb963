"""The longer-trained world model in data/, and the command that makes it.

    python -m course.train_world_model     about 15 minutes of one core

It learns from the recorded episodes of data/mario_episodes.npz, but never from the
newest rows of each stream (`hold_out`), on which notebooks 05 and 06 judge it. Result:
data/world_model.safetensors, half-precision weights and the sizes that rebuild the
model.
"""

import argparse
import time
from pathlib import Path

import gymnasium as gym
import torch
from tqdm import trange

from course.paths import ROOT, data_path
from dreamer_lite.config import Config
from dreamer_lite.dreamer import Dreamer
from dreamer_lite.replay import Replay, describe_space, restore_space
from dreamer_lite.runs import pack, unpack
from dreamer_lite.speed import pick_precision, reuse_memory
from dreamer_lite.world_model import LaProp, WorldModel, as_tensors

FORMAT = "dreamer-lite-world-model-1"
SIZES = {"deter": 512, "units": 96, "classes": 8, "depth": 16}
HELD_OUT = 160  # newest rows of each stream
BATCH, LENGTH, RATE = 8, 32, 1e-3


def hold_out(replay, rows=HELD_OUT):
    """Take the newest `rows` of every stream out of `replay`, in place.

    Returns: the rows taken, {key: [streams, rows, ...]}, with `is_first` set at the
    front, as `Replay.sample` sets it.
    """
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
    weights = {key: weight.half() for key, weight in model.state_dict().items()}
    Path(path).write_bytes(pack(weights, facts))


def load_world_model(path=None):
    """Read a world model written by `save_world_model` (default: the one that ships).

    Returns: a WorldModel in float32, ready to dream.
    """
    path = Path(path or data_path("world_model.safetensors"))
    weights, about = unpack(path.read_bytes(), FORMAT)
    spaces = {key: restore_space(space) for key, space in about["spaces"].items()}
    action_space = restore_space(about["action_space"])
    config = Config(**about["sizes"])
    model = WorldModel(gym.spaces.Dict(spaces), action_space, config)
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def load_agent_model():
    """Read the world model of the shipped agent, ready to dream."""
    agent = Dreamer.load(data_path("mario_agent.safetensors"))
    return agent.world_model.requires_grad_(False)


def train(replay, updates, seed=0):
    """Train a world model on `replay`; the learning rate falls to a twentieth."""
    torch.manual_seed(seed)
    model = WorldModel(replay.obs_space, replay.action_space, Config(**SIZES))
    optimizer = LaProp(model.parameters(), RATE, warmup=50)
    dtype = pick_precision(torch.device("cpu"))
    for update in (bar := trange(updates, mininterval=5)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * max(1 - update / updates, 0.05)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss, metrics, _ = model.loss(as_tensors(replay.sample(BATCH, LENGTH)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(obs=f"{metrics['loss/obs']:.2f}", refresh=False)
    return model


def main(argv=None):
    """Train the model and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    path = ROOT / "data" / "world_model.safetensors"
    parser.add_argument("--out", type=Path, default=path)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    reuse_memory()
    replay = Replay.load(data_path("mario_episodes.npz"))
    hold_out(replay)
    start = time.process_time()
    model = train(replay, options.updates, options.seed)
    about = {
        "updates": options.updates,
        "batch": [BATCH, LENGTH],
        "seed": options.seed,
        "cpu_minutes": round((time.process_time() - start) / 60, 1),
    }
    spaces = replay.obs_space, replay.action_space
    save_world_model(model, SIZES, *spaces, options.out, about)
    print(f"wrote {options.out.name}: {about}")


if __name__ == "__main__":
    main()
