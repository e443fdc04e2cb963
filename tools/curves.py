"""The learning runs of notebook 09: train one, evaluate on the way, store its curves.

    python tools/curves.py cartpole 0           the task and the seed
    python tools/curves.py cartpole 0 --many    with eight times as many updates
    python tools/curves.py cartpole 0 --settled  these, and rates that fall at the end
    python tools/curves.py pendulum 0

The same command continues an interrupted run; the CPU minutes since the last
evaluation before the interruption are not counted. The run is in runs/curves/. After
its 30,000 steps its tables are copied to data/curves/, with a JSON file that says what
was run, and on what.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dreamer_lite.dreamer import Config, evaluate, train
from dreamer_lite.envs import build_env, random_policy
from dreamer_lite.runs import add_row, begin_table, read_table
from machine import machine

TASKS = {"cartpole": ("CartPole-v1", 475), "pendulum": ("Pendulum-v1", -200)}
SETTINGS = dict(ratio=32.0, steps=30_000)
# Dreams begin in a quarter of the sequences, to save time.
MANY = dict(ratio=256.0, vector_scale=10.0, dream_share=0.25, speed="compile")
# In fp32, which every processor has.
SETTLED = MANY | dict(anneal=0.4, precision="fp32")
KINDS = {"first": {}, "many": MANY, "settled": SETTLED}
EVERY, EPISODES = 1000, 20
FIELDS = "step updates minutes cpu_minutes return lowest highest".split()


class Evaluations:
    """A callback of `train`: 20 episodes every 1,000 steps, as rows of a table."""

    def __init__(self, env, seed, path):
        self.env, self.seed, self.path, self.before = env, seed, path, None

    def rows(self):
        """Return the rows so far."""
        return read_table(self.path)

    def __call__(self, agent, run):
        if self.before is None:  # the first call: drop what an interrupted run added
            begin_table(self.path, run.step - 1, FIELDS)
            rows = self.rows()
            self.before = float(rows[-1]["cpu_minutes"]) if rows else 0.0
        seed = 1_000_000 + self.seed
        found = evaluate(agent, self.env, EPISODES, envs=10, seed=seed)
        returns = [episode["return"] for episode in found]
        cpu = self.before + time.process_time() / 60
        values = [run.step, run.updates, run.minutes, cpu]
        values += [sum(returns) / len(returns), min(returns), max(returns)]
        add_row(self.path, dict(zip(FIELDS, values)))
        print(*values, flush=True)


def describe(task, kind, config, rows, here):
    """Return what was run, on what, and how it ended."""
    env, goal = TASKS[task]
    flag = "" if kind == "first" else f" --{kind}"
    policy = random_policy(build_env(env).action_space, np.random.default_rng(0))
    chance = [episode["return"] for episode in evaluate(policy, env, 100, envs=4)]
    reached = [row for row in rows if float(row["return"]) >= goal]
    return {
        "command": f"python tools/curves.py {task} {config.seed}{flag}",
        "environment": env,
        "seed": config.seed,
        "goal": goal,
        "first_at_goal": reached[0] if reached else None,
        "final": rows[-1],
        "evaluation": f"{EPISODES} episodes with sampled actions",
        "random_return": round(sum(chance) / len(chance), 2),
        "config": dataclasses.asdict(config),
        **here,
        "gymnasium": gymnasium.__version__,
    }


def main():
    """Train or continue one run; store it when all steps are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("seed", type=int)
    pick = dict(dest="kind", action="store_const", default="first")
    parser.add_argument("--many", const="many", help="ratio 256, vectors x 10", **pick)
    parser.add_argument("--settled", const="settled", help="and falling rates", **pick)
    options = parser.parse_args()
    (env, _), kind = TASKS[options.task], options.kind
    config = Config.preset("1m", seed=options.seed, **SETTINGS | KINDS[kind])
    name = f"{options.task}_{kind}_seed{config.seed}".replace("_first", "")
    folder, target = ROOT / "runs" / "curves" / name, ROOT / "data" / "curves"
    folder.mkdir(parents=True, exist_ok=True)
    watch = Evaluations(env, config.seed, folder / "evaluations.csv")
    here = machine()  # a commit made meanwhile has trained nothing
    train(env, config, folder, callback=watch, progress=False, callback_every=EVERY)
    for table in ("episodes", "metrics", "evaluations"):
        shutil.copy(folder / f"{table}.csv", target / f"{name}_{table}.csv")
    about = describe(options.task, kind, config, watch.rows(), here)
    text = json.dumps(about, indent=1) + "\n"
    (target / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
