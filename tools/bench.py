"""Measure speed and memory; the results go to data/bench/<device>.json.

    python tools/bench.py                   train steps, parts, replay, environment
    python tools/bench.py --quick           the small sizes three times, only printed
    python tools/bench.py --device cuda     also compiled and as one CUDA graph

Medians of several repetitions. "classic" are the small sizes of PyTorch ports: dense
recurrent 512, 32 x 32 latents, width 512, convolution depth 32, batch 16 x 64.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dreamer_lite.dreamer import Config, Dreamer  # noqa: E402
from dreamer_lite.replay import Replay, replay_bytes  # noqa: E402
from dreamer_lite.speed import reuse_memory  # noqa: E402
from machine import machine  # noqa: E402

PIXELS = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
VECTOR = gym.spaces.Dict(obs=gym.spaces.Box(-4.0, 4.0, (4,), np.float32))
CLASSIC = dict(deter=512, units=512, classes=32, depth=32, blocks=1, length=64)
CASES = {
    "1m CartPole": (VECTOR, gym.spaces.Discrete(2), Config.preset("1m")),
    "3m Mario": (PIXELS, gym.spaces.Discrete(5), Config.preset("3m")),
    "12m Mario": (PIXELS, gym.spaces.Discrete(5), Config.preset("12m")),
    "classic": (PIXELS, gym.spaces.Discrete(6), Config.preset("3m", **CLASSIC)),
}


def random_rows(spaces, actions, rows=2000):
    """A replay of noise: speed does not depend on what is seen."""
    rng = np.random.default_rng(0)
    replay = Replay(rows, spaces, actions)
    for i in range(rows):
        obs = {}
        for key, space in spaces.items():
            low, high = (0, 256) if space.dtype == np.uint8 else (-1, 1)
            obs[key] = rng.uniform(low, high, space.shape).astype(space.dtype)
        flags = i % 100 == 0, i % 100 == 99, i % 100 == 99
        replay.add(0, obs, int(rng.integers(actions.n)), 0.0, *flags)
    return replay


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work, device, repeat, warmup=2):
    """Median and extremes of the wall-clock seconds of `work()`."""
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeat):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return {
        "median": statistics.median(times),
        "min": min(times),
        "max": max(times),
    }


def parts_of_a_step(agent, batch):
    """The parts of one training step as {name: function without arguments}."""
    model, behaviour = agent.world_model, agent.actor_critic
    with torch.no_grad(), agent._autocast():
        states, _, _ = model.observe(batch)
        embed = model.encoder(batch)
    feature = states.feature.float()

    def backward(forward):
        def work():
            with agent._autocast():
                loss = forward()
            loss.backward()

        return work

    def scan():
        action = batch["action"]
        _, posterior, prior = model.rssm.observe(embed, action, batch["is_first"])
        return sum(model.rssm.kl_loss(posterior, prior)).mean()

    def decode():
        losses = model.decoder.loss(model.decoder(feature), batch)
        return sum(loss.mean() for loss in losses.values())

    def imagine():
        with agent._autocast():
            behaviour._imagine(states, model)

    return {
        "encoder": backward(lambda: model.encoder(batch).float().mean()),
        "scan": backward(scan),
        "decoder": backward(decode),
        "imagination": imagine,
        "optimizer": agent.step,
    }


def share_of_parts(agent, batch, repeat):
    """Seconds of forward and backward of each part, measured apart."""
    device = agent.device
    batch = {key: torch.as_tensor(value).to(device) for key, value in batch.items()}
    parts = parts_of_a_step(agent, batch)
    return {
        name: seconds(work, device, repeat)["median"] for name, work in parts.items()
    }


def saved_bytes(agent, batch):
    """Bytes that the losses of a batch keep for the backward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in agent.parameters()}
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = agent.loss(agent._on_device(batch))
    del loss  # not earlier: while the graph lives, no address comes twice
    return sum(found.values())


def predicted_mb(agent, replay, config):
    """What a training needs, from the losses of one and of two sequences [MB].

    What is kept for the backward pass grows with the number of sequences; libraries and
    temporary results come on top.
    """
    few = [saved_bytes(agent, replay.sample(n, config.length)) for n in (1, 2)]
    numbers = sum(p.numel() for p in agent.parameters())
    return {
        # weights, gradients and two moments of every parameter, in float32
        "model": 16 * numbers / 1e6,
        "backward": (few[0] + (config.batch - 1) * (few[1] - few[0])) / 1e6,
        "replay": sum(column.nbytes for column in replay.data.values()) / 1e6,
    }


def memory_now():
    """Peak memory of this process so far [MB]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def bench_case(name, precision, device, speed, repeat):
    """One model in one precision: step, frames per second, shares, memory."""
    spaces, actions, config = CASES[name]
    changes = dict(vars(config), precision=precision, device=device, speed=speed)
    config = Config(**changes)
    torch.manual_seed(0)
    before = memory_now()
    agent = Dreamer(spaces, actions, config)
    replay = random_rows(spaces, actions)
    predicted = predicted_mb(agent, replay, config) | {"libraries": before}
    batch = replay.sample(config.batch, config.length)
    warmup = 5 if speed == "graph" else 2  # its first three are eager, then it records
    step = seconds(lambda: agent.train_step(batch), agent.device, repeat, warmup)
    rows = config.batch * config.length
    sample = seconds(
        lambda: replay.sample(config.batch, config.length), agent.device, 10
    )
    trained = [p for p in agent.parameters() if p.requires_grad]
    result = {
        "case": name,
        "precision": precision,
        "speed": speed,
        "parameters": sum(p.numel() for p in trained),
        "world_model_parameters": sum(
            p.numel() for p in agent.world_model.parameters()
        ),
        "step": step,
        "frames_per_second": rows / step["median"],
        "sampling_share": sample["median"] / step["median"],
        "predicted_mb": predicted,
        "full_replay_mb": replay_bytes(config.capacity, spaces, actions) / 1e6,
    }
    if speed == "eager":
        parts = share_of_parts(agent, batch, repeat)
        parts["heads and the rest"] = max(0.0, step["median"] - sum(parts.values()))
        result["parts"] = parts
    return result


def bench_in_process(name, precision, device, speed, repeat):
    """Run one case in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--case", name, "--precision", precision]
    command += ["--device", device, "--speed", speed, "--repeat", str(repeat)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name} {precision} {speed} failed: {done.stderr.strip()[-300:]}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def bench_environment():
    """Emulator frames per second: make_mario beside the bare emulator."""
    from mario_speed import measure

    return measure()


def bench_import(repeat=5):
    """Seconds to import the package and to import torch, medians of fresh processes."""
    result = {}
    for module in ("torch", "dreamer_lite.dreamer"):
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            times.append(time.perf_counter() - start)
        result[module] = statistics.median(times)
    return result


def run_cases(names, device, repeat):
    """Measure every precision and speed of each size, one process each."""
    speeds = ["eager", "compile"] + ["graph"] * (device == "cuda")
    cases = []
    for name, precision, speed in itertools.product(names, ("fp32", "bf16"), speeds):
        result = bench_in_process(name, precision, device, speed, repeat)
        if result:
            cases.append(result)
            fps = result["frames_per_second"]
            print(f"{name:12} {precision} {speed:8} {fps:8.0f} frames/s")
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--case", help="only this case, printed as JSON")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--speed", default="eager")
    options = parser.parse_args()
    reuse_memory()
    if options.case:
        case = (options.case, options.precision, options.device, options.speed)
        result = bench_case(*case, options.repeat)
        result["peak_mb"] = memory_now()
        if options.device == "cuda":
            result["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
        print(json.dumps(result))
        return
    if options.quick:
        run_cases(
            [name for name in CASES if name[:2] in ("1m", "3m")], options.device, 3
        )
        return
    about = {**machine(), "cores": os.cpu_count(), "gpu": None}
    if options.device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    cases = run_cases(CASES, options.device, options.repeat)
    report = {"machine": about, "cases": cases}
    report["import_seconds"] = bench_import()
    report["environment"] = bench_environment()
    folder = ROOT / "data" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{options.device}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
