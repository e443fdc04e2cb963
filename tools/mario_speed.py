"""Frames per second of `make_mario` beside the bare emulator, and what is added.

    python tools/mario_speed.py

Both play the same buttons; rounds alternate, so that a busy machine slows both; each
figure is the median over the rounds of processor time. Prints one line of JSON.
"""

import argparse
import json
import platform
import statistics
import time

from dreamer_lite.emulator import load_emulator
from dreamer_lite.mario import make_mario

ACTIONS = ([1] * 22 + [2] * 8) * 4


def play_bare(nes, buttons, skip):
    """Frames per second of the emulator's own step, as its package ships it."""
    nes.reset()
    start = time.process_time()
    for held in buttons:
        for _ in range(skip):
            nes.step(held)
            if nes.done:
                nes.reset()
    return len(buttons) * skip / (time.process_time() - start)


def play_ours(env, actions):
    """Frames per second of the environment that the agent sees."""
    env.reset()
    start = time.process_time()
    for action in actions:
        if env.step(action)[2]:
            env.reset()
    return len(actions) * env.options.skip / (time.process_time() - start)


def measure(rounds=9):
    """{"bare", "make_mario": frames per second, "overhead": share of bare time}."""
    shipped, fixed = load_emulator()[0].__mro__[1::-1]
    own_info = {"_get_info": shipped._get_info}  # undo the one shortcut we take
    env, nes = make_mario(), type("Bare", (fixed,), own_info)(target=(1, 1))
    buttons = [env.buttons[action] for action in ACTIONS]
    pairs = [
        (play_bare(nes, buttons, env.options.skip), play_ours(env, ACTIONS))
        for _ in range(rounds)
    ]
    env.close()
    nes.close()
    bare, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "python": platform.python_version(),
        "bare": round(bare),
        "make_mario": round(ours),
        "overhead": round(bare / ours - 1, 3),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(json.dumps(measure()))
