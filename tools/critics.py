"""Do several critics cure optimism? The runs of an aside in notebook 08.

    python tools/critics.py

An agent learns to steer the sled of notebooks/course/tasks, once for its usual rewards
and once for rewards that are pure noise. At ten points of each run the critic's value
of 64 starts is written beside the discounted reward that the same agent then gets. A
finished run is stored at once, in data/critics.csv; the same command continues.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from course.ablations import BOLD, SETTINGS
from course.tasks import Sled
from dreamer_lite.dreamer import Config, train
from dreamer_lite.runs import add_row, read_table

PATH = ROOT / "data" / "critics.csv"
CRITICS = [(1, "mean"), (2, "mean"), (2, "min"), (4, "min")]
# Share of the sled's own rewards, noise, updates between two points, critics.
TASKS = {
    "noise": (0.0, 3.0, 25, CRITICS),
    "sled": (1.0, 0.0, 25, CRITICS),
    "sled, longer": (1.0, 0.0, 80, CRITICS[::2]),
}
SEEDS, POINTS = 3, 10
STEPS = 16  # agent steps for each update
STARTS, LENGTH = 64, 100  # of what is measured


class PaidSled(Sled):
    """The sled with a share of its rewards, and normal noise of a given deviation."""

    def __init__(self, share, noise):
        super().__init__()
        self.share, self.noise = share, noise

    def step(self, action):
        obs, reward, *rest = super().step(action)
        noise = self.noise * self.np_random.normal()
        return obs, self.share * reward + noise, *rest


@torch.no_grad()
def value_and_truth(agent, share, seed):
    """What is said of 64 starts, and the discounted rewards that follow them.

    The truth leaves the noise out, because its mean is 0. It has no time limit either:
    a critic does not see one. What comes after 100 steps counts less than 0.6 %.

    Returns: means of the value, of the deviation among the critics, of the truth.
    """
    envs = [PaidSled(share, noise=0.0) for _ in range(STARTS)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    state, truth, alive = None, 0.0, [True] * STARTS
    for t in range(LENGTH):
        actions, state = agent.act(obs, state)
        if t == 0:
            parts = agent.actor_critic
            logits = parts.critic(state.model.feature)
            each = parts.two_hot.mean(logits).reshape(-1, STARTS)
            said = parts.value(logits).mean(), each.std(0, correction=0).mean()
        for i, env in enumerate(envs):
            if alive[i]:
                obs[i], reward, out, _, _ = env.step(actions[i])
                truth += agent.config.discount**t * reward / STARTS
                alive[i] = not out
    return *map(float, said), truth


def run(task, critics, reduce, seed):
    """Train one agent; return its ten rows, without what they are rows of."""
    share, noise, every, _ = TASKS[task]
    settings = SETTINGS | BOLD | dict(
        discount=0.95, critics=critics, critic_reduce=reduce, seed=seed, envs=8,
        ratio=SETTINGS["batch"] * SETTINGS["length"] / STEPS, log_every=every,
        prefill=every * STEPS, steps=(POINTS + 1) * every * STEPS,
    )  # fmt: skip
    found, start = [], time.perf_counter()

    def measure(agent, run):
        if run.updates:
            measured = value_and_truth(agent, share, 10_000 * (seed + 1))
            row = dict(zip(("value", "spread", "truth"), measured))
            seconds = time.perf_counter() - start
            found.append({"updates": run.updates, **row, "seconds": seconds})

    with tempfile.TemporaryDirectory() as folder:
        train(
            partial(PaidSled, share, noise),
            Config(**settings),
            folder,
            callback=measure,
            callback_every=every * STEPS,
            progress=False,
        )
        metrics = read_table(Path(folder) / "metrics.csv")
    for row, logged in zip(found, metrics, strict=True):
        row["dreamed_reward"] = float(logged["imagined/reward"])
    return found


def main():
    """Make the missing runs, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    end = time.monotonic() + 60 * parser.parse_args().minutes
    torch.set_num_threads(1)
    names = "task", "critics", "reduce", "seed"
    done = [tuple(row[name] for name in names) for row in read_table(PATH)]
    planned = [(task, *c) for task, (*_, critics) in TASKS.items() for c in critics]
    for seed, chosen in product(range(SEEDS), planned):
        about = *chosen, seed
        if tuple(map(str, about)) in done:
            continue
        if time.monotonic() > end:
            return
        for row in run(*about):
            add_row(PATH, dict(zip(names, about)) | row)
        print(*about, row, flush=True)


if __name__ == "__main__":
    main()
