"""Does a world model know where the cart is? The measurement behind notebook 09.

    python tools/place.py     four models, some three minutes of one core each

A controller lets CartPole's cart wander, often off the track. A world model learns from
20,000 of its rows, with `vector_scale` 1 and 10 and two seeds. Then it follows 60 new
episodes, from their beginning, and again only their last 32 rows, from the zero state
in which a training window begins. Result: data/lessons/place.json.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dreamer_lite.dreamer import Collector, Config, Dreamer
from dreamer_lite.envs import make_vector
from dreamer_lite.replay import Replay
from dreamer_lite.symlog import symexp
from dreamer_lite.world_model import as_tensors
from machine import machine

ROWS, EPISODES, WINDOW, EDGE, UPDATES = 20_000, 60, 32, 2.4, 1_500


class Wanderer:
    """A policy for `Collector`: balance about a place that moves, with a shaky hand."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, obs, is_first):
        x, speed, angle, turning = obs["obs"][0]
        if is_first[0]:
            self.goal, self.moves = 0.0, 0.02 * self.rng.normal()
            self.moves *= self.rng.random() > 0.3
            self.shaky = self.rng.choice([0.02, 0.1, 0.3, 1.0], p=[0.5, 0.2, 0.2, 0.1])
        self.goal = np.clip(self.goal + self.moves, -3, 3)
        push = 0.5 * (x - self.goal) + 0.8 * speed + 10 * angle + 3 * turning
        right = push > 0 if self.rng.random() > self.shaky else self.rng.random() < 0.5
        return np.array([right], np.int64)


def play(seed, rows=None, episodes=None):
    """Collect rows, or whole episodes: the replay, and [begin, end) of each episode."""
    envs = make_vector("CartPole-v1", 1, seed)
    spaces = envs.single_observation_space, envs.single_action_space
    replay = Replay(rows or 500 * episodes + episodes, *spaces, seed=seed)
    collector, policy, ended = Collector(envs, replay), Wanderer(seed), 0
    while len(replay) < (rows or 1e9) and ended < (episodes or 1e9):
        ended += len(collector.tick(policy))
    collector.tick(policy)  # the last row of the last episode
    envs.close()
    first = np.flatnonzero(replay.data["is_first"][0, : len(replay)])
    last = np.flatnonzero(replay.data["is_last"][0, : len(replay)])
    return replay, [(b, e + 1) for b, e in zip(first, last)]


def learn(replay, config):
    """Train the world model of a new agent, and nothing else."""
    torch.manual_seed(config.seed)
    agent = Dreamer(replay.obs_space, replay.action_space, config)
    for _ in range(UPDATES):
        batch = as_tensors(replay.sample(config.batch, config.length))
        loss, _, _ = agent.world_model.loss(batch)
        agent.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        agent.optimizer.step()
    return agent.world_model


@torch.no_grad()
def follow(model, replay, begin, end):
    """Place of the cart in the last five rows, and P(go on) in the last one."""
    rows = {key: column[:, begin:end] for key, column in replay.data.items()}
    batch = as_tensors({k: np.ascontiguousarray(v) for k, v in rows.items()})
    batch["is_first"][:, 0] = True
    feature = model.observe(batch)[0].feature
    place = symexp(model.decoder(feature)["obs"])[0, -5:, 0].abs().mean()
    goes_on = model.predict_continue(feature)[0, -1] / model.config.discount
    return float(place), float(goes_on)


def main():
    """Measure and store."""
    replay, _ = play(1, rows=ROWS)
    new, episodes = play(2, episodes=EPISODES)
    x, ends = np.abs(new.data["obs"][0, :, 0]), new.data["is_terminal"][0]
    off = [(b, e) for b, e in episodes if ends[e - 1] and x[e - 1] > EDGE]
    true = float(np.mean([x[e - 5 : e].mean() for _, e in off]))
    about = {"episodes": len(episodes), "off": len(off), "true": true, "models": []}
    about |= {"updates": UPDATES, **machine()}
    for scale in (1.0, 10.0):
        for seed in (0, 1):
            start = time.monotonic()
            config = Config.preset("1m", seed=seed, vector_scale=scale, device="cpu")
            model = learn(replay, config)
            found = {"vector_scale": scale, "seed": seed}
            for name, rows in (("whole", 10**9), ("window", WINDOW)):
                seen = [follow(model, new, max(b, e - rows), e) for b, e in off]
                place, goes_on = np.mean(seen, axis=0)
                found |= {f"{name}_place": place, f"{name}_goes_on": goes_on}
            found["minutes"] = round((time.monotonic() - start) / 60, 1)
            about["models"].append(found)
            print(found, flush=True)
    path = ROOT / "data" / "lessons" / "place.json"
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
