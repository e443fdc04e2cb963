"""Measure the speed and the memory of an update; write data/bench/<device>.json.

    python tools/bench.py                       every size, precision and speed
    python tools/bench.py --avx2                "3m" on what every laptop has
    python tools/bench.py 1m 3m --against DIR   also the checkout in DIR, in turns

`--avx2` keeps torch and its libraries from newer instructions, and measures float32.
Each case runs in a process of its own, so that its peak memory is its own. With
`--against` nothing is written: the two checkouts take turns, so that a busy machine
slows both, and each line ends with the ratio of their medians, new / old. "classic" are
the small sizes of PyTorch ports: recurrent 512, 32 x 32 latents, batch 16 x 64.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLASSIC = dict(deter=512, units=512, classes=32, depth=32, blocks=1, length=64)
CASES = {  # name: preset, changes, whether the agent sees pictures, number of actions
    "1m CartPole": ("1m", {}, False, 2),
    "3m Mario": ("3m", {}, True, 5),
    "3m Mario, a quarter of the dreams": ("3m", dict(dream_share=0.25), True, 5),
    "12m Mario": ("12m", {}, True, 5),
    "classic": ("3m", CLASSIC, True, 6),
}
# What holds torch, oneDNN and MKL back; read when a process begins. Compiled code must
# not be mixed with what was compiled for newer instructions.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir(), "dreamer_lite_avx2")),
}


def build(name, precision, speed, device):
    """Make what one case measures.

    Args:
        name: a key of `CASES`.
        precision, speed, device: fields of Config.

    Returns:
        An agent and a batch of noise, because speed does not depend on what is seen.
    """
    import gymnasium as gym
    import numpy as np
    import torch

    from dreamer_lite.dreamer import Config, Dreamer

    preset, changes, pictures, actions = CASES[name]
    how = dict(precision=precision, speed=speed, device=device)
    config = Config.preset(preset, **changes, **how)
    space = gym.spaces.Box(-4, 4, (4,), np.float32)
    if pictures:
        space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    torch.manual_seed(0)
    spaces = gym.spaces.Dict(obs=space), gym.spaces.Discrete(actions)
    rng, size = np.random.default_rng(0), (config.batch, config.length)
    low, high = (0, 256) if pictures else (-1, 1)
    flags = np.zeros(size, bool)
    batch = {
        "obs": rng.uniform(low, high, (*size, *space.shape)).astype(space.dtype),
        "action": np.eye(actions, dtype=np.float32)[rng.integers(actions, size=size)],
        "reward": rng.normal(size=size).astype(np.float32),
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), flags),
    }
    return Dreamer(*spaces, config), batch


def measure(name, precision, speed, device, repeat):
    """Return the figures of one case, measured in this process."""
    import torch

    agent, batch = build(name, precision, speed, device)
    cuda = agent.device.type == "cuda"
    times = []
    for _ in range(repeat + (5 if speed == "graph" else 2)):  # the first ones warm up
        start = time.perf_counter()
        agent.train_step(batch)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    times, rows = times[-repeat:], batch["reward"].size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "case": name,
        "precision": precision,
        "speed": speed,
        "parameters": sum(p.numel() for p in agent.parameters() if p.requires_grad),
        "step": {f.__name__: f(times) for f in (statistics.median, min, max)},
        "frames_per_second": rows / statistics.median(times),
        "peak_mb": peak / (1e6 if sys.platform == "darwin" else 1e3),
    }
    if cuda:
        found["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def in_process(root, case, device, repeat):
    """Measure one case with the package of a checkout, in a fresh process."""
    command = [sys.executable, __file__, *case, "--device", device]
    command += ["--repeat", str(repeat), "--worker"]
    env = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{', '.join(case)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(cases, other, device, repeat, turns=3):
    """Print the seconds per update of this checkout and of another, in turns."""
    for case in cases:
        times = {ROOT: [], other: []}
        for _, root in itertools.product(range(turns), times):
            found = in_process(root, case, device, repeat)
            times[root].append(found["step"]["median"])
        new, old = map(statistics.median, times.values())
        name = ", ".join(case)
        print(
            f"{name:28} {new:.3f} s, {old:.3f} s in the other: {new / old:.2f}",
            flush=True,
        )


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of the sizes' names")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--avx2", action="store_true", help="no newer instructions")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=7, help="updates of a case")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device, repeat = options.device, options.repeat
    if options.worker:
        print(json.dumps(measure(*options.names, device, repeat)))
        return
    beginnings, precisions = [""], ["fp32", "bf16"]
    if options.avx2:
        beginnings, precisions = ["3m"], ["fp32"]
        os.environ.update(AVX2)
    wanted = tuple(options.names or beginnings)
    names = [name for name in CASES if name.startswith(wanted)]
    speeds = ["eager", "compile"] + ["graph"] * (device == "cuda")
    cases = list(itertools.product(names, precisions, speeds))
    if options.against:
        compare(cases, options.against.resolve(), device, repeat)
        return
    from machine import machine

    report = {"machine": machine() | {"cores": os.cpu_count()}, "cases": []}
    for case in cases:
        report["cases"].append(in_process(ROOT, case, device, repeat))
        print(*case, f"{report['cases'][-1]['step']['median']:.3f} s", flush=True)
    if not options.names:
        path = ROOT / "data" / "bench" / f"{device}{'_avx2' * options.avx2}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
