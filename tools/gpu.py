"""Try a GPU in ten minutes: updates in every form, then Mario in what is left.

    python tools/gpu.py --out runs/gpu
    python tools/gpu.py --out /tmp/gpu --device cpu --minutes 4 --sizes 1m   a rehearsal

Writes updates.json: seconds per update and peak memory of each size, precision, form,
the most useful first, or the last line of the error. Half of the minutes is for these,
the other half for the profile "gpu", whose tables and agent come along.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import CASES, ROOT

sys.path.insert(0, str(ROOT))

from dreamer_lite.runs import read_checkpoint
from machine import machine

FORMS = {"cuda": ("graph", "eager", "compile"), "cpu": ("auto", "eager")}
HERE = os.environ | {"PYTHONPATH": str(ROOT)}
KEPT = ("config.yaml", "metrics.csv", "episodes.csv")


def measure(case, device, seconds):
    """Measure one case in a process of its own.

    Args:
        case: its name in `bench.CASES`, precision and speed.
        device: field of Config.
        seconds: time limit.

    Returns:
        The figures of `bench.measure`, or the case and the last line of its `error`.
    """
    command = [sys.executable, "tools/bench.py", *case, "--device", device, "--worker"]
    about = dict(zip(("case", "precision", "speed"), case))
    how = dict(cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    try:
        done = subprocess.run(command, env=HERE, **how)
    except subprocess.TimeoutExpired:
        return about | {"error": f"not done after {seconds:.0f} seconds"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "Error" in line]
        return about | {"error": (lines or ["stopped"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def updates(names, device, until, path):
    """Measure all cases until the time is up; write after each one."""
    report = {"machine": machine(), "cases": []}
    cases = itertools.product(("bf16", "fp16"), FORMS[device], names)
    for precision, speed, name in cases:
        left = until - time.monotonic()
        if left < 20:
            break
        found = measure((name, precision, speed), device, left)
        report["cases"].append(found)
        path.write_text(json.dumps(report, indent=1) + "\n")
        seconds = found.get("error") or f"{found['step']['median']:.4f} s"
        print(name, precision, speed, seconds, flush=True)


def mario(device, minutes, out):
    """Train the profile "gpu" for some minutes and keep its tables and its agent."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dreamer_lite.mario", "train", "--quiet"]
        command += ["--profile", "gpu", "--logdir", folder, "--no-film"]
        command += ["--minutes", f"{minutes:.1f}", "--device", device]
        done = subprocess.run(command, cwd=ROOT, env=HERE)
        keep(Path(folder), out)
    return done.returncode


def keep(run, out):
    """Copy what a run left, even one that failed: tables, and the newest agent."""
    for name in KEPT:
        if (run / name).exists():
            shutil.copy(run / name, out)
    with contextlib.suppress(FileNotFoundError):  # it failed before a checkpoint
        (out / "agent.safetensors").write_bytes(read_checkpoint(run)[1])


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cuda", choices=FORMS)
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--sizes", nargs="+", default=["12m", "classic"])
    options = parser.parse_args()
    start = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in CASES if name.startswith(tuple(options.sizes))]
    half, path = 60 * options.minutes / 2, options.out / "updates.json"
    updates(names, options.device, start + half, path)
    left = options.minutes - (time.monotonic() - start) / 60
    sys.exit(mario(options.device, max(left - 0.5, 0.1), options.out))


if __name__ == "__main__":
    main()
