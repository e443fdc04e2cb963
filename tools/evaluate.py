"""Evaluate the shipped agent and three players that learn nothing, for data/.

    python tools/evaluate.py data/mario_evaluation.json [--sticky 0.25]
    python tools/evaluate.py evening0.json --run runs/evening0    this agent alone

One hundred episodes of each player. The last line printed is the agent's flag rate.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from course.mario import baselines, evaluate_mario
from dreamer_lite.__main__ import check_target
from dreamer_lite.dreamer import Dreamer
from dreamer_lite.runs import read_checkpoint
from machine import machine


def about_agent(path):
    """What is known of an agent file: its name, sha256, and the notes beside it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    notes = json.loads(path.with_suffix(".json").read_text("utf-8"))
    return {"file": path.name, "sha256": digest, **notes}


def about_run(folder):
    """What is known of the newest agent of a run: its seed, and how long it learnt."""
    state, _ = read_checkpoint(folder)
    known = {key: state[key] for key in ("step", "updates", "minutes")}
    return {"run": folder.name, "seed": state["config"]["seed"], **known}


def main(words=None):
    """Play, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--run", type=Path, help="folder of a run: its agent alone")
    parser.add_argument("--episodes", type=int, default=100, help="of each player")
    parser.add_argument("--seed", type=int, default=0, help="of games and players")
    parser.add_argument("--sticky", type=float, default=0.0, help="repeated actions")
    parser.add_argument("--envs", type=int, default=4, help="games side by side")
    options = parser.parse_args(words)
    check_target(options.out)
    shipped, start = ROOT / "data" / "mario_agent.safetensors", time.monotonic()
    how = {k: v for k, v in vars(options).items() if k not in ("out", "run")}
    players = {"agent": Dreamer.load(options.run or shipped)}
    if options.run:
        about = about_run(options.run)
    else:
        about, players = about_agent(shipped), players | baselines(options.seed)
    result = {"agent": about, "machine": machine()}
    result["protocol"] = how | dict(noops=30, actions="sampled")
    result["players"] = {}
    for name, player in players.items():
        found = evaluate_mario(player, **how, parallel=options.envs > 1)
        result["players"][name] = found
        print(f"{name}: {found['flags']} flags, mean x {found['x_mean']:.0f}")
    result["minutes"] = round((time.monotonic() - start) / 60, 2)
    found = result["players"]["agent"]
    print(f"flag rate: {found['flag_rate']:.2f} ({found['flags']}/{found['episodes']})")
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
