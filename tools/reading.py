"""Runs in a room with four doors: with the mission's text, and without it.

    python tools/reading.py           all six; what is finished is not run again
    python tools/reading.py text 0    one: text or blank, and the seed

An interrupted run continues from its checkpoint in runs/reading/. A finished one leaves
its curve and what 200 held-out episodes gave in data/reading/, and the first one with
the text its agent. Needs minigrid (pip install minigrid).
"""

import argparse
import functools
import itertools
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from course.columns import in_groups, read_columns
from course.reading import make_doors
from dreamer_lite.dreamer import Config, evaluate, train
from dreamer_lite.runs import read_checkpoint, read_table
from machine import machine

KINDS = {"text": False, "blank": True}
SETTINGS = dict(
    deter=128, latents=16, classes=8, lr=1e-3, actor_lr=3e-4, entropy=5e-3, warmup=100,
    batch=32, length=6, horizon=5, discount=0.95, dream_share=0.5,
    envs=8, steps=48_000, prefill=1_000, ratio=16.0,
)  # fmt: skip
SEEN = "view", "direction", "mission"
GROUP, EPISODES = 100, 200


def run(kind, seed, data, runs):
    """Train one agent and store what it did; nothing, if that is stored already."""
    name = f"{kind}_seed{seed}"
    if (data / f"{name}.json").exists():
        return
    make_env = functools.partial(make_doors, blank=KINDS[kind])
    config = Config.preset("1m", seed=seed, **SETTINGS)
    folder, here = runs / name, machine()
    agent = train(make_env, config, folder, track=["right"], progress=False)
    played = evaluate(agent, make_env, EPISODES, envs=8, track=["right"])
    columns = read_columns(folder / "episodes.csv")
    step, right = (in_groups(columns[key], GROUP) for key in ("step", "right"))
    curve = [[int(at), share] for at, share in zip(step[:, -1], right.mean(1))]
    (state, _), last = read_checkpoint(folder), read_table(folder / "metrics.csv")[-1]
    about = {
        "kind": kind,
        "seed": seed,
        "right": sum(episode["right"] for episode in played),
        "episodes": EPISODES,
        "steps": sum(episode["length"] for episode in played) / EPISODES,
        "minutes": round(state["minutes"], 1),
        "updates": state["updates"],
        "nats": {key: float(last[f"loss/{key}"]) for key in SEEN},
        **here,
        "curve": curve,
    }
    data.mkdir(parents=True, exist_ok=True)
    if (kind, seed) == ("text", 0):
        agent.save(data / "text.safetensors")
    (data / f"{name}.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    print(name, about["right"], "of", EPISODES, flush=True)


def main():
    """Make the runs that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "reading")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "reading")
    options = parser.parse_args()
    kinds = [options.kind] if options.kind else KINDS
    seeds = [0, 1, 2] if options.seed is None else [options.seed]
    for seed, kind in itertools.product(seeds, kinds):
        run(kind, seed, options.data, options.runs)


if __name__ == "__main__":
    main()
