"""Several processes train one agent: started by torchrun, on CPUs with gloo."""

import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch

from dreamer_lite.dreamer import Config, Dreamer, train
from dreamer_lite.replay import Replay
from dreamer_lite.runs import load_agent, read_checkpoint, read_table

TINY = dict(units=16, deter=32, latents=4, classes=4, depth=4, blocks=4, device="cpu")
QUICK = dict(batch=4, length=8, horizon=3, prefill=60, ratio=8.0, log_every=1, warmup=5)
CONFIG = Config(**TINY, **QUICK, precision="fp32", checkpoint_minutes=0.0, steps=10_000)
TRAIN = """
import os, sys
open(f"{sys.argv[-1]}.{os.environ['RANK']}", "w").write(str(os.getpid()))
from dreamer_lite.dreamer import Config, train
config = sys.argv[1 + int(os.environ["RANK"])] if len(sys.argv) > 3 else sys.argv[1]
try:
    train("CartPole-v1", Config.from_yaml(config), sys.argv[-1], progress=False)
except (OSError, ValueError) as error:
    sys.exit(f"ended: {error}")
"""
GRADIENTS = """
import sys, torch
from torch import distributed
from dreamer_lite import scale
from test_scale import agent_and_batch
scale.join("cpu")
agent, batch = agent_and_batch(distributed.get_rank(), 2)
agent.backward(batch)
agent.step = scale.averaged(lambda agent: None)
agent.step(agent)
found = {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}
found["range"] = agent.actor_critic.normalizer.range
if not distributed.get_rank():
    torch.save(found, sys.argv[1])
"""


def launch(script, *args):
    """Two processes of a script, as torchrun starts them; the output is one text."""
    paths = os.pathsep.join([os.getcwd(), os.path.dirname(__file__)])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*torchrun, "--no-python", sys.executable, "-c", script]
    both = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen([*command, *map(str, args)], env=env, **both)


def output_of(process, seconds=240):
    return process.communicate(timeout=seconds)[0]


# Gradients


def agent_and_batch(part=0, parts=1):
    """An agent and its share of one batch; nothing in its losses is left to chance."""
    torch.Tensor.exponential_ = lambda self: self.fill_(1.0)
    torch.manual_seed(0)
    space = gym.spaces.Dict(obs=gym.spaces.Box(-1, 1, (3,)))
    replay = Replay(60, space, gym.spaces.Discrete(2))
    agent = Dreamer(space, gym.spaces.Discrete(2), CONFIG)
    rng = np.random.default_rng(0)
    for k in range(60):
        last = k % 7 == 6
        row = dict(obs=rng.uniform(-1, 1, 3)), rng.integers(2), rng.normal()
        replay.add(0, *row, k % 7 == 0, last, last)
    with torch.no_grad():  # returns that differ, but are small: their scale stays 1
        agent.actor_critic.critic[-1].bias.fill_(-40)[120:136].normal_()
    rows = agent._on_device(replay.sample(8, 6))
    return agent, {key: value.chunk(parts)[part] for key, value in rows.items()}


def test_two_processes_have_the_gradients_of_twice_the_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exponential_", None, raising=False)
    process = launch(GRADIENTS, tmp_path / "found.pt")
    agent, batch = agent_and_batch()
    agent.backward(batch)
    text = output_of(process)
    assert process.returncode == 0, text
    found = torch.load(tmp_path / "found.pt")
    ranges = found.pop("range")
    named = {name: p.grad for name, p in agent.named_parameters()}
    assert set(found) == {name for name, grad in named.items() if grad is not None}
    for name, grad in found.items():
        size = named[name].abs().max()
        assert (grad - named[name]).abs().max() <= 2e-5 * size + 1e-8, name
    halves = []
    for part in range(2):
        agent, batch = agent_and_batch(part, 2)
        agent.backward(batch)
        halves.append(agent.actor_critic.normalizer.range)
    assert halves[0][0] != halves[1][0]
    torch.testing.assert_close(ranges, (halves[0] + halves[1]) / 2)


# A run


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run of two processes, one of which was killed."""
    folder = tmp_path_factory.mktemp("scale")
    CONFIG.to_yaml(folder / "config.yaml")
    process = launch(TRAIN, folder / "config.yaml", folder / "run")
    metrics = folder / "run" / "metrics.csv"
    while process.poll() is None and len(read_table(metrics)) < 5:
        time.sleep(0.05)
    os.kill(int((folder / "run.1").read_text()), signal.SIGKILL)
    began = time.monotonic()
    text = output_of(process, seconds=60)
    return folder, text, time.monotonic() - began


def test_a_process_that_dies_ends_all_and_the_checkpoint_stays(killed):
    folder, text, seconds = killed
    assert "ended: Another process of this run has ended" in text
    assert seconds < 60
    state, _ = read_checkpoint(folder / "run")
    assert state["step"] >= 60 and state["processes"] == 2


def test_a_run_of_two_continues_with_two_only(killed):
    folder, _, _ = killed
    kept = read_checkpoint(folder / "run")[0]
    end = kept["step"] + 40
    Config(**vars(CONFIG) | {"steps": end}).to_yaml(folder / "longer.yaml")
    other = folder / "run" / "process-1"  # as if killed while it wrote a new one
    if not (other / "spare.zip").exists():  # else it was
        (other / "checkpoint.zip").rename(other / "spare.zip")
    with pytest.raises(ValueError, match=r"\(processes 2 -> 1\)"):
        train("CartPole-v1", CONFIG, folder / "run", progress=False)
    process = launch(TRAIN, folder / "longer.yaml", folder / "run")
    text = output_of(process)
    assert process.returncode == 0, text
    first, other = (
        read_checkpoint(folder / "run" / name)[0] for name in ("", "process-1")
    )
    assert first["step"] == other["step"] == end
    assert first["updates"] == other["updates"] > kept["updates"]
    for state in (first, other):
        assert state["replay"]["size"] == [end // 2]
    assert first["config"]["seed"] != other["config"]["seed"]
    rows = [int(row["step"]) for row in read_table(folder / "run" / "metrics.csv")]
    assert rows == sorted(set(rows)) and len(rows) == first["updates"]
    assert not (folder / "run" / "process-1" / "metrics.csv").exists()
    assert not list((folder / "run").rglob("spare.zip"))
    one, two = (load_agent(folder / "run" / name)[-1] for name in ("", "process-1"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_two_configurations_are_refused_before_anything_is_written(tmp_path):
    CONFIG.to_yaml(tmp_path / "a.yaml")
    Config(**vars(CONFIG) | {"lam": 0.9}).to_yaml(tmp_path / "b.yaml")
    process = launch(TRAIN, tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "run")
    text = output_of(process)
    assert process.returncode != 0
    assert "All processes of a run have the same lam, but got 0.9 and 0.95" in text
    assert not (tmp_path / "run").exists()
