"""A run that is killed again and again equals one that was left alone, bit by bit.

DREAMER_LITE_KILLS=20 (`make drill`) kills it more often than the usual 5 times.
"""

import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import torch
from safetensors.torch import load_file

from dreamer_lite.dreamer import Config
from dreamer_lite.replay import Replay
from dreamer_lite.runs import Checkpoints, Table

KILLS = int(os.environ.get("DREAMER_LITE_KILLS", 5))
TINY = dict(units=16, deter=32, latents=4, classes=4, depth=4, blocks=4, device="cpu")
QUICK = dict(batch=4, length=8, horizon=3, prefill=60, ratio=8.0, log_every=1, warmup=5)
STEPS = 100 * KILLS
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from dreamer_lite.dreamer import Config, train
from dreamer_lite.runs import Board
Board(sys.argv[3] + "-unused").close()  # imports TensorBoard, which takes seconds
print("ready", flush=True)
train(sys.argv[1], Config.from_yaml(sys.argv[2]), sys.argv[3], progress=False)
"""


def start(env, config, folder):
    command = [sys.executable, "-c", SCRIPT, env, str(config), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process):
    assert process.wait(timeout=300) == 0
    process.stdout.close()


def wait_for_progress(process, folder, checkpoints):
    """Until that many new checkpoints were seen, or the process has ended."""
    last = Checkpoints(folder).latest()
    while checkpoints and process.poll() is None:
        time.sleep(0.001)
        latest = Checkpoints(folder).latest()
        if latest != last:
            last, checkpoints = latest, checkpoints - 1


def kill_and_start_again(env, config, folder, seed):
    """Start, kill after a moment by chance, `KILLS` times; then let it finish."""
    rng = random.Random(seed)
    reached = []
    for _ in range(KILLS):
        process = start(env, config, folder)
        wait_for_progress(process, folder, rng.randrange(4))
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        latest = Checkpoints(folder).latest()
        reached.append(latest and json.loads((latest / "state.json").read_text()))
    finish(start(env, config, folder))
    return [state["step"] if state else 0 for state in reached]


def rows(path):
    """A table without what a clock wrote into it."""
    clock = ("minutes", "speed/replayed")
    table = Table(path, step=10**9).rows
    return [{k: v for k, v in row.items() if k not in clock} for row in table]


def assert_same(left, right):
    """Compare two run folders: everything but what a clock wrote."""
    one, two = Checkpoints(left).latest(), Checkpoints(right).latest()
    assert one.name == two.name
    a, b = (load_file(p / "agent.safetensors") for p in (one, two))
    assert all(torch.equal(value, b[key]) for key, value in a.items())
    a, b = (torch.load(p / "training.pt", weights_only=True) for p in (one, two))
    assert torch.equal(a["rng"], b["rng"])
    for i, state in a["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, b["optimizer"]["state"][i][key])
    a, b = (Replay.load(p / "replay.npz") for p in (one, two))
    for key, column in a.data.items():
        assert np.array_equal(column, b.data[key]), key
    assert (a.head == b.head).all() and (a.size == b.size).all()
    assert a.rng.bit_generator.state == b.rng.bit_generator.state
    a, b = (json.loads((p / "state.json").read_text()) for p in (one, two))
    assert a | {"minutes": 0} == b | {"minutes": 0}
    for name in ("episodes.csv", "metrics.csv"):
        assert rows(left / name) == rows(right / name)
    assert a["updates"] == len(rows(left / "metrics.csv")) > 0


def test_killed_at_any_moment_it_continues_to_the_same_bits(tmp_path):
    config = Config(**TINY, **QUICK, steps=STEPS, seed=KILLS, precision="fp32")
    rest = dict(vars(config), checkpoint_minutes=60.0)
    Config(**rest).to_yaml(tmp_path / "calm.yaml")
    # A checkpoint after every episode: many of the kills fall into its writing.
    Config(**dict(rest, checkpoint_minutes=0.0)).to_yaml(tmp_path / "often.yaml")
    calm = start("CartPole-v1", tmp_path / "calm.yaml", tmp_path / "calm")
    finish(calm)
    began = time.monotonic()
    reached = kill_and_start_again(
        "CartPole-v1", tmp_path / "often.yaml", tmp_path / "killed", seed=1
    )
    print(f"steps after each kill: {reached} in {time.monotonic() - began:.0f} s")
    assert reached == sorted(reached)
    assert 0 < reached[-1] < STEPS
    assert_same(tmp_path / "calm", tmp_path / "killed")
