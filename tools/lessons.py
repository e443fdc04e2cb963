"""Train the agents of notebooks/beyond: one on Catch, and three with a planted fault.

    python tools/lessons.py healthy 0     which one, and the seed

The same command continues an interrupted run in runs/lessons/. After its last step the
tables are copied to data/lessons/, with dreams of three episodes of random play and a
JSON file that says what was run, and on what.
"""

import argparse
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dreamer_lite.dreamer import Collector, Config, Dreamer, train
from dreamer_lite.envs import open_vector, random_policy
from dreamer_lite.replay import Replay
from machine import machine

PAGE = ROOT / "notebooks" / "text" / "beyond" / "own_environment.py"


def cell_with(text):
    """Run the cell of the notebook that contains `text`; return its names."""
    cells = re.split(r"^# %%.*\n", PAGE.read_text(encoding="utf-8"), flags=re.M)
    names = {"__name__": "catch"}
    for cell in cells:
        if text in cell:
            exec(cell, names)
    return names


Catch = cell_with("class Catch(")["Catch"]
SMALL = cell_with("SMALL = dict(")["SMALL"]


class Truncated(Catch):
    """The fault is in `step`: a landed ball is reported as a time limit."""

    def step(self, action):
        obs, reward, ended, _, info = super().step(action)
        return obs, reward, False, ended, info


class Black(Catch):
    """The fault is in the picture: it is scaled to 0..1 and then stored as bytes."""

    def _look(self):
        return (super()._look() / 255).astype(np.uint8)


def shifted(batch):
    """The fault is in the rows: each has the action that led to its observation."""
    action = np.roll(batch["action"], 1, axis=1)
    action[:, 0] = 0
    return batch | {"action": action}


class Shifted(Dreamer):
    def train_step(self, batch):
        return super().train_step(shifted(batch))

    def dream(self, batch, context=5):
        return super().dream(shifted(batch), context)


RUNS = {  # environment, agent, and steps: a fault shows long before the end
    "healthy": (Catch, Dreamer, SMALL["steps"]),
    "truncated": (Truncated, Dreamer, 2000),
    "black": (Black, Dreamer, 1500),
    "shifted": (Catch, Shifted, 1500),
}


def dreams(agent, env, episodes=3, context=1):
    """Return episodes of random play, real and dreamed after one frame, as bytes."""
    with open_vector(env, episodes, seed=1, held_out=True) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        replay = Replay(100, *spaces, num_envs=episodes)
        collector = Collector(envs, replay)
        policy = random_policy(spaces[1], np.random.default_rng(1))
        while not any(collector.tick(policy)):
            pass
        collector.tick(policy)  # stores the last rows
    rows = {key: column[:, : replay.size[0]] for key, column in replay.data.items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dreamed = agent.dream(rows, context)["obs"]
    dreamed = (255 * dreamed.float().clamp(0, 1)).round().byte().cpu().numpy()
    return {"real": rows["obs"], "dreamed": dreamed}


def main():
    """Train or continue one run; store it when all steps are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    options = parser.parse_args()
    env, agent, steps = RUNS[options.name]
    config = Config(**SMALL | {"steps": steps}, seed=options.seed)
    name, here = f"{options.name}_seed{options.seed}", machine()
    folder, target = ROOT / "runs" / "lessons" / name, ROOT / "data" / "lessons"
    target.mkdir(exist_ok=True)
    trained = train(env, config, folder, agent=agent, progress=False)
    for table in ("metrics", "episodes"):
        shutil.copy(folder / f"{table}.csv", target / f"{name}_{table}.csv")
    np.savez_compressed(target / f"{name}_dreams.npz", **dreams(trained, env))
    about = {"command": f"python tools/lessons.py {options.name} {options.seed}"}
    about |= {"config": dataclasses.asdict(config), **here}
    text = json.dumps(about, indent=1) + "\n"
    (target / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
