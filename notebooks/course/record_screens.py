"""A few moments of the game with the whole screen and Mario's place in it.

    python -m course.record_screens       writes data/mario_screens.npz

Notebook 06 asks with it what the agent must see: the replay holds small colour pictures
only, while this file also has the screen they were made of, and `mario_pixel`, the
[row, column] of Mario's middle in the small picture, which the emulator's memory gives.
"""

import argparse
from pathlib import Path

import numpy as np

from course.paths import ROOT
from dreamer_lite.mario import make_mario
from dreamer_lite.playing import sticky_right

STEPS = 48
SEED = 2026  # not a seed of data/mario_episodes.npz


def play(steps=STEPS, seed=SEED):
    """Play one stretch of 1-1 without dying: {name: [steps, ...]}."""
    env = make_mario(render_mode="rgb_array")
    rng = np.random.default_rng(seed)
    while True:
        rows, buttons = [], sticky_right(rng)
        (obs, info), reward, ended = env.reset(seed=seed), 0.0, False
        while len(rows) < steps and not ended:
            action = next(buttons)
            rows.append((env.render(), obs, action, reward, info["mario_pixel"]))
            obs, reward, ended, _, info = env.step(action)
        if len(rows) == steps:
            env.close()
            names = ("screen", "obs", "action", "reward", "mario_pixel")
            return dict(zip(names, map(np.array, zip(*rows)), strict=True))


def main(argv=None):
    """Record and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data/mario_screens.npz")
    options = parser.parse_args(argv)
    rows = play()
    rows["screen"] = rows["screen"][::8]  # every eighth is enough to look at
    rows["reward"] = rows["reward"].astype(np.float32)
    rows["mario_pixel"] = rows["mario_pixel"].astype(np.int16)
    rows["action"] = rows["action"].astype(np.uint8)
    np.savez_compressed(options.out, **rows)
    print(f"wrote {options.out.name}, {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
