"""The run of notebooks/beyond/driving: train, evaluate, and store what came of it.

    python tools/driving.py              on from the last checkpoint in runs/driving/
    python tools/driving.py --minutes 0  only evaluate what is there, and store it

Four hours of computing at most. The agent is stored in half precision, and evaluated as
it is stored: 20 whole episodes on roads of its own. Needs Box2D (pip install box2d).
"""

import argparse
import functools
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from course.driving import make_car  # noqa: E402
from dreamer_lite import runs  # noqa: E402
from dreamer_lite.dreamer import Config, Dreamer, evaluate, train  # noqa: E402
from dreamer_lite.playing import play_episode  # noqa: E402
from dreamer_lite.replay import write_whole  # noqa: E402
from machine import machine  # noqa: E402

SETTINGS = dict(
    lr=6e-4, warmup=250, envs=4, prefill=1_500, steps=200_000, dream_share=0.5,
    speed="compile", video_minutes=600.0,
)  # fmt: skip
EPISODES, GROUP = 20, 20


def halve(folder, path):
    """Write the newest agent of a run in half precision."""
    data = runs.read_checkpoint(folder)[1]
    weights, about = runs.unpack(data, runs.AGENT)
    small = runs.pack({name: w.half() for name, w in weights.items()}, about)
    write_whole(path, lambda file: file.write(small))


def curve(folder):
    """Return [decisions, minutes, mean return] of every 20 training episodes."""
    rows = runs.read_table(folder / "episodes.csv")
    groups = [rows[i : i + GROUP] for i in range(0, len(rows) - GROUP + 1, GROUP)]
    return [
        [
            int(group[-1]["step"]),
            round(float(group[-1]["minutes"]), 2),
            round(sum(float(row["return"]) for row in group) / GROUP, 1),
        ]
        for group in groups
    ]


def store(folder, data):
    """Evaluate a run's newest agent; write agent, results and one episode."""
    data.mkdir(parents=True, exist_ok=True)
    halve(folder, data / "agent.safetensors")
    agent = Dreamer.load(data / "agent.safetensors").eval()
    played = evaluate(agent, make_car, EPISODES, envs=4, seed=0)
    returns = [round(episode["return"], 1) for episode in played]
    state, _ = runs.read_checkpoint(folder)
    about = {
        "mean": round(float(np.mean(returns)), 1),
        "returns": returns,
        "lengths": [episode["length"] for episode in played],
        "decisions": state["step"],
        "updates": state["updates"],
        "minutes": round(state["minutes"], 1),
        "config": state["config"],
        **machine(),
        "curve": curve(folder),
    }
    (data / "result.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    filmed = play_episode(agent, make_car, seed=1)
    rows = filmed.rows | {"total": filmed.total}
    write_whole(data / "episode.npz", lambda file: np.savez_compressed(file, **rows))
    print(f"mean return {about['mean']} of {EPISODES} episodes: {sorted(returns)}")


def main():
    """Train for a while, then store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, help="of this call; none: to the end")
    parser.add_argument("--logdir", type=Path, default=ROOT / "runs" / "driving")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "driving")
    options = parser.parse_args()
    if options.minutes != 0:
        config = Config.preset("3m", **SETTINGS)
        make_env = functools.partial(make_car, patience=50)
        train(make_env, config, options.logdir, options.minutes)
    store(options.logdir, options.data)


if __name__ == "__main__":
    main()
