"""Train a little in many environments, one by one; write data/worlds.json.

    python tools/worlds.py                  those that have no row yet, about 10 minutes
    python tools/worlds.py CarRacing ALE    those whose name holds a word, anew

Needs the extra `worlds`: pip install -e ".[worlds]" -c constraints.txt. Pictures of
MuJoCo are drawn by EGL, or by what MUJOCO_GL names. Every run is a plain
`dreamer.train` on one core: a small agent, small batches, 30 updates. That shows
whether the spaces fit, what an update costs and whether the world model's loss falls,
not whether the task is learnt. Seconds are those of the processor, because a busy
machine does not change them much.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dreamer_lite.dreamer import Config, Dreamer, train
from dreamer_lite.envs import env_by_name
from dreamer_lite.runs import read_table
from machine import machine

TARGET = ROOT / "data" / "worlds.json"
UPDATES = 30
SMALL = dict(batch=2, length=8, warmup=10, log_every=1, prefill=100, ratio=4.0)
SMALL |= dict(steps=SMALL["prefill"] + 4 * UPDATES, capacity=1000, device="cpu")
NO_TEXT = dict(obs_keys="image,direction")
WORLDS = {  # name as for --env: what differs from SMALL
    "minigrid:MiniGrid-Empty-5x5-v0": NO_TEXT,
    "minigrid:MiniGrid-FourRooms-v0": NO_TEXT,
    "minigrid:MiniGrid-GoToObject-6x6-N2-v0": {},
    "HalfCheetah-v5": {},
    "Hopper-v5": {},
    "Walker2d-v5": {},
    "Ant-v5": {},
    "Humanoid-v5": {},
    "CarRacing-v3": {},
    "CarRacing-v3(continuous=False)": {},
    "LunarLander-v3": {},
    "LunarLander-v3(continuous=True)": {},
    "ale_py:ALE/Pong-v5": {},
    "ale_py:ALE/Breakout-v5": {},
    "ale_py:ALE/MsPacman-v5": {},
    "worlds:pixels('dm_control/cartpole-balance-v0')": {},
    "worlds:pixels('dm_control/walker-walk-v0')": {},
    "Taxi-v4": {},
    "FrozenLake-v1": {},
    "Blackjack-v1": {},
    "worlds:Spot": {},
}


def pixels(name, side=64):
    """A task of dm_control as shimmy registers it, seen as pictures only."""
    import shimmy  # noqa: F401

    size = {"height": side, "width": side}
    env = gym.make(name, render_mode="rgb_array", render_kwargs=size)
    return gym.wrappers.AddRenderObservation(env)


class Spot(gym.Env):
    """A spot to be moved into the middle, as picture, mask, text and vector at once."""

    observation_space = gym.spaces.Dict(
        picture=gym.spaces.Box(0, 255, (40, 32, 3), np.uint8),
        mask=gym.spaces.Box(0, 1, (40, 32, 1), np.uint8),
        task=gym.spaces.Text(24),
        place=gym.spaces.Box(-1, 1, (2,), np.float32),
    )
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def _observation(self):
        rows, columns, _ = self.observation_space["mask"].shape
        y, x = ((self.place + 1) / 2 * [rows - 5, columns - 5]).astype(int)
        mask = np.zeros((rows, columns, 1), np.uint8)
        mask[y : y + 5, x : x + 5] = 1
        side = "right" if self.place[1] < 0 else "left"
        task = f"push the spot to the {side}"[:24]
        picture = mask * np.array([255, 160, 0], np.uint8)
        return dict(picture=picture, mask=mask, task=task, place=self.place)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.place = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        self.place = np.clip(self.place + 0.2 * action, -1, 1).astype(np.float32)
        reward = -float(np.abs(self.place).mean())
        return self._observation(), reward, False, self.steps >= 50, {}


def describe(key, field):
    """A key of a row in a few words, as `dreamer_lite.replay` reads it."""
    kind, shape = field.kind, field.frame if field.kind == "picture" else field.shape
    size = " x ".join(map(str, shape or (1,)))
    if field.sizes:
        kind = "choice" if len(field.sizes) == 1 else "choices"
        size = f"of {', '.join(map(str, field.sizes))}"
    return f"{key}: {kind} {size}"


def measure(name):
    """Train in one environment; return its row."""
    times = []

    class Timed(Dreamer):
        def train_step(self, batch):
            start = time.process_time()
            metrics = super().train_step(batch)
            times.append(time.process_time() - start)
            return metrics

    config = Config.preset("1m", **SMALL | WORLDS[name], precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        make_env = env_by_name(name)
        agent = train(make_env, config, folder, progress=False, agent=Timed)
        rows = read_table(Path(folder, "metrics.csv"))
    assert len(rows) == UPDATES, f"{len(rows)} updates instead of {UPDATES}"
    keys = [*agent.obs_space, "reward", "continue", "dyn", "rep"]
    losses = [sum(float(row[f"loss/{key}"]) for key in keys) for row in rows]
    seen = agent.world_model.fields
    return {
        "environment": name,
        "observation": [describe(key, seen[key]) for key in agent.obs_space],
        "action": describe("", agent.choice)[2:],
        "seconds": statistics.median(times),
        "loss_first": statistics.mean(losses[:5]),
        "loss_last": statistics.mean(losses[-5:]),
    }


def report(name):
    """Measure one environment in a process of its own; return its row, or None."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        try:
            row = pool.apply(measure, (name,))
        except Exception as error:  # of whatever kind: the others are tried, too
            print(f"{name} failed: {error!r}", flush=True)
            return None
    first, last = row["loss_first"], row["loss_last"]
    print(f"{name}: {row['seconds']:.3f} s, {first:.2f} -> {last:.2f}", flush=True)
    return row


def main():
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="parts of names: measure these anew")
    options = parser.parse_args()
    os.environ.setdefault("MUJOCO_GL", "egl")
    torch.set_num_threads(1)
    stored = json.loads(TARGET.read_text()) if TARGET.exists() else {"worlds": []}
    about = {"machine": machine(), "updates": UPDATES}
    rows = {row["environment"]: row for row in stored["worlds"]}
    asked = [n for n in WORLDS if any(word in n for word in options.words)]
    for name in asked or [n for n in WORLDS if n not in rows]:
        if row := report(name):
            rows[name] = row
            kept = [rows[n] for n in WORLDS if n in rows]
            TARGET.write_text(json.dumps(about | {"worlds": kept}, indent=1) + "\n")
    return 0 if set(rows) >= set(WORLDS) else 1


if __name__ == "__main__":
    sys.exit(main())
