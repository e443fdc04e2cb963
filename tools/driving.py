"""The run of notebooks/beyond/driving: train, evaluate, and store what came of it.

    python tools/driving.py              on from the last checkpoint in runs/driving/
    python tools/driving.py --minutes 0  only evaluate what is there, and store it

The evaluation is 20 whole episodes on roads that no
training has seen. Needs Box2D (pip install box2d).
"""

import argparse
import functools
import json
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from course.columns import in_groups, read_columns
from course.driving import look_ahead, make_car
from dreamer_lite import runs
from dreamer_lite.dreamer import Config, Dreamer, evaluate, train
from dreamer_lite.playing import dream_beside, play_episode
from dreamer_lite.replay import write_whole
from machine import machine

SETTINGS = dict(
    lr=6e-4, warmup=250, envs=4, prefill=1_500, steps=200_000, dream_share=0.5,
    speed="compile", video_minutes=600.0,
)  # fmt: skip
GROUP = 20  # training episodes in a point of the curve
ROADS = 1, 2, 3  # seeds of the films
START, CONTEXT, LENGTH = 40, 5, 32  # of the dream that is not looking


def curve(folder):
    """Return [decisions, minutes, mean return] of every 20 training episodes."""
    columns = read_columns(folder / "episodes.csv")
    step, minutes, total = (
        in_groups(columns[key], GROUP) for key in ("step", "minutes", "return")
    )
    return [
        [int(at), round(spent, 2), round(mean, 1)]
        for at, spent, mean in zip(step[:, -1], minutes[:, -1], total.mean(1))
    ]


def film(agent, path):
    """Drive three roads; store the best and the worst, and dreams beside the best."""
    played = [play_episode(agent, make_car, seed) for seed in ROADS]
    played.sort(key=lambda episode: -episode.total)
    best, worst = played[0].rows, played[-1].rows
    batch = {key: torch.as_tensor(value)[None] for key, value in best.items()}
    actor = agent.actor_critic.actor
    with torch.no_grad():
        states, _, _ = agent.world_model.observe(agent._on_device(batch))
        mean, deviation = actor._normal(actor.mlp(states.feature))
    window = {
        key: value[:, START : START + LENGTH].clone() for key, value in batch.items()
    }
    window["is_first"][:, 0] = True
    torch.manual_seed(0)
    blind = agent.dream(window, CONTEXT)["obs"][0].clamp(0, 1)
    arrays = {
        "totals": np.array([episode.total for episode in played]),
        "best": best["obs"],
        "reward": best["reward"],
        "worst": worst["obs"],
        "worst_reward": worst["reward"],
        "dreamed": dream_beside(agent, best),
        "blind": (255 * blind).round().byte().numpy(),
        "window": np.array([START, CONTEXT]),
        "mean": mean[0].numpy(),
        "deviation": deviation[0].numpy(),
    }
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def by_hand(obs, is_first):
    """`look_ahead` as a policy, whose actions are all from -1 to 1."""
    actions = np.array([look_ahead(picture) for picture in obs["obs"]], np.float32)
    actions[:, 1:] = 2 * actions[:, 1:] - 1
    return actions


def returns_of(driver, episodes):
    """Drive on the roads of the evaluation; return every episode's return."""
    played = evaluate(driver, make_car, episodes, envs=4, seed=0)
    return [round(episode["return"], 1) for episode in played]


def store(folder, data, episodes, here):
    """Evaluate a run's newest agent; write the results and two episodes."""
    data.mkdir(parents=True, exist_ok=True)
    agent = Dreamer.load(folder).eval()
    state, _ = runs.read_checkpoint(folder)
    returns = returns_of(agent, episodes)
    about = {
        "mean": round(float(np.mean(returns)), 1),
        "returns": returns,
        "by_hand": returns_of(by_hand, episodes),
        "decisions": state["step"],
        "updates": state["updates"],
        "minutes": round(state["minutes"], 1),
        "config": state["config"],
        **here,
        "curve": curve(folder),
    }
    (data / "result.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    print(f"mean return {about['mean']} of {episodes}: {sorted(returns)}", flush=True)
    film(agent, data / "film.npz")


def main():
    """Train for a while, then store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, help="of this call; none: to the end")
    parser.add_argument("--episodes", type=int, default=20, help="to evaluate")
    parser.add_argument("--logdir", type=Path, default=ROOT / "runs" / "driving")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "driving")
    options = parser.parse_args()
    here = machine()
    if options.minutes != 0:
        config = Config.preset("3m", **SETTINGS)
        make_env = functools.partial(make_car, patience=50)
        train(make_env, config, options.logdir, options.minutes)
    store(options.logdir, options.data, options.episodes, here)


if __name__ == "__main__":
    main()
