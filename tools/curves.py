"""The learning runs of notebook 09: train one, evaluate on the way, store its curves.

    python tools/curves.py cartpole 0     task and seed; continues after an interruption
    python tools/curves.py pendulum 0     the same configuration

The run lives in runs/curves/. When its steps are done, its tables go to data/curves/,
together with a JSON file that says what was run, and on what. One run is 30,000 steps.
(The CPU minutes since the last evaluation before an interruption are not counted.)
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TASKS = {"cartpole": ("CartPole-v1", 475), "pendulum": ("Pendulum-v1", -200)}
SETTINGS = dict(ratio=32.0, steps=30_000)
EVERY, EPISODES = 1000, 20
TABLES = ("episodes", "metrics", "evaluations")


class Evaluations:
    """A callback of `train`: every so many steps, 20 episodes, as a row of a table."""

    def __init__(self, env, seed, path, step):
        from dreamer_lite.runs import Table, read_table

        self.env, self.seed = env, seed
        self.table = Table(path)
        self.table.begin(step, ["step"])
        rows = read_table(path)
        self.before = float(rows[-1]["cpu_minutes"]) if rows else 0.0
        self.done = int(rows[-1]["step"]) // EVERY if rows else 0

    def __call__(self, agent, run):
        if run.step // EVERY <= self.done:
            return
        self.done = run.step // EVERY
        from dreamer_lite.dreamer import evaluate

        seed = 1_000_000 + self.seed
        found = evaluate(agent, self.env, EPISODES, envs=10, seed=seed)
        returns = [episode["return"] for episode in found]
        row = {"step": run.step, "updates": run.updates, "minutes": run.minutes}
        row["cpu_minutes"] = self.before + time.process_time() / 60
        row["return"] = sum(returns) / len(returns)
        row |= {"lowest": min(returns), "highest": max(returns)}
        self.table.add(row)
        print(json.dumps(row), flush=True)


def describe_machine(config):
    """Return on what a configuration runs here: commit, device, versions."""
    import gymnasium

    from dreamer_lite.speed import pick_device, pick_precision
    from machine import machine

    device = pick_device(config.device)
    return {
        **machine(),
        "device": str(device),
        "precision": str(pick_precision(device, config.precision)),
        "shared": os.environ.get("DREAMER_LITE_SHARED", "no"),
        "gymnasium": gymnasium.__version__,
    }


def describe(name, config, rows, machine):
    """Return what was run, on what, and how it ended."""
    import numpy as np

    from dreamer_lite.dreamer import evaluate, random_policy
    from dreamer_lite.envs import build_env

    env, goal = TASKS[name]
    space = build_env(env).action_space
    by_chance = random_policy(space, np.random.default_rng(0))
    returns = [e["return"] for e in evaluate(by_chance, env, 100, envs=4)]
    reached = next((r for r in rows if float(r["return"]) >= goal), None)
    return {
        "command": f"python tools/curves.py {name} {config.seed}",
        "environment": env,
        "seed": config.seed,
        "goal": goal,
        "first_at_goal": reached,
        "final": rows[-1],
        "evaluation": f"{EPISODES} episodes with sampled actions",
        "random_return": round(sum(returns) / len(returns), 2),
        "config": dataclasses.asdict(config),
        **machine,
    }


def store(name, config, folder, machine):
    """Copy the run's tables to data/curves/ and write its description."""
    from dreamer_lite.replay import write_whole
    from dreamer_lite.runs import read_table

    target = ROOT / "data" / "curves"
    target.mkdir(parents=True, exist_ok=True)
    stem = f"{name}_seed{config.seed}"
    rows = read_table(folder / "evaluations.csv")
    about = json.dumps(describe(name, config, rows, machine), indent=1) + "\n"
    for kind in TABLES:
        text = (folder / f"{kind}.csv").read_bytes()
        write_whole(target / f"{stem}_{kind}.csv", lambda f, text=text: f.write(text))
    write_whole(target / f"{stem}.json", lambda file: file.write(about.encode()))


def main():
    """Train or continue one run; store it when all steps are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("seed", type=int)
    parser.add_argument("--minutes", type=float, help="stop after this long")
    arguments = parser.parse_args()
    from dreamer_lite.dreamer import Config, train
    from dreamer_lite.runs import checkpoint_path, read_checkpoint

    env, _ = TASKS[arguments.task]
    # Looked at in every step, so that evaluations fall on the same steps in every run.
    config = Config.preset("1m", seed=arguments.seed, video_minutes=0.0, **SETTINGS)
    folder = ROOT / "runs" / "curves" / f"{arguments.task}_seed{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    there = checkpoint_path(folder).exists()
    step = read_checkpoint(folder)[0]["step"] if there else 0
    watch = Evaluations(env, arguments.seed, folder / "evaluations.csv", step)
    here = describe_machine(config)  # a commit made meanwhile has trained nothing
    train(env, config, folder, arguments.minutes, callback=watch, progress=False)
    if read_checkpoint(folder)[0]["step"] == config.steps:
        store(arguments.task, config, folder, here)


if __name__ == "__main__":
    main()
