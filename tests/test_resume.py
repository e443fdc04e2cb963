"""A run that is killed again and again equals one that was left alone, bit by bit.

DREAMER_LITE_KILLS=20 (`make drill`) kills it more often than the usual 5 times.
"""

import io
import os
import random
import subprocess
import sys
import time
import zipfile

import torch
from small import TINY

from dreamer_lite.dreamer import Config
from dreamer_lite.runs import load_agent, read_checkpoint, read_table

KILLS = int(os.environ.get("DREAMER_LITE_KILLS", 5))
QUICK = dict(batch=4, length=8, horizon=3, prefill=60, ratio=8.0, log_every=1, warmup=5)
QUICK |= dict(anneal=0.5, entropy_end=1e-4, critics=2, critic_reduce="min")
STEPS = 100 * KILLS
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from dreamer_lite.dreamer import Config, train
import plotly.graph_objects, torch.utils.tensorboard  # which takes seconds
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
    path, seen = folder / "checkpoint.zip", set()
    while len(seen) < checkpoints and process.poll() is None:
        time.sleep(0.001)
        if path.exists():
            seen.add(path.stat().st_mtime_ns)


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
        there = (folder / "checkpoint.zip").exists()
        reached.append(read_checkpoint(folder)[0]["step"] if there else 0)
    finish(start(env, config, folder))
    return reached


def rows(path):
    """A table without what a clock wrote into it."""
    clock = ("minutes", "speed/replayed")
    table = read_table(path)
    return [{k: v for k, v in row.items() if k not in clock} for row in table]


def assert_same(left, right):
    """Compare two run folders: everything but what a clock wrote."""
    one, two = (zipfile.ZipFile(folder / "checkpoint.zip") for folder in (left, right))
    with one, two:
        assert one.namelist() == two.namelist()
        data = [io.BytesIO(archive.read("training.pt")) for archive in (one, two)]
        for name in one.namelist():
            assert name[:7] != "replay/" or one.read(name) == two.read(name), name
    exactly = dict(rtol=0, atol=0)
    torch.testing.assert_close(*map(torch.load, data), **exactly)
    agents = (load_agent(folder)[-1] for folder in (left, right))
    torch.testing.assert_close(*agents, **exactly)
    a, b = (read_checkpoint(folder)[0] for folder in (left, right))
    for name in ("minutes", "config"):  # of the clock
        del a[name], b[name]
    assert a == b
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
