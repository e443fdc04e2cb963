"""Search for a fixed list of actions that carries Mario from the start to the flag.

    python tools/find_mario_run.py data/mario_1_1_actions.json --seed 0

From where Mario stands, a number of random right-biased futures are tried on the
emulator, all from one saved state; the beginning of the best is kept, and the search
goes on from there. When every future ends in death, the last pieces are given up.
The list serves as a "better policy" for recordings and as a baseline that replays
blindly: it works because the game is deterministic, and fails once anything shifts it.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from dreamer_lite.mario import make_mario
from dreamer_lite.recording import sticky_right

FUTURES, LENGTH, KEEP, GIVE_UP = 24, 36, 12, 24


def press(env, action):
    """One agent step on the bare emulator: `skip` frames, or fewer if it is over."""
    for _ in range(env.options.skip):
        if not env.nes.done:
            env.nes.step(env.buttons[action])


def stand_at(world, stage, actions):
    """A fresh emulator after `actions`, its state saved there."""
    env = make_mario(world, stage).unwrapped
    env.reset()
    for action in actions:
        press(env, action)
    env.nes._backup()
    return env


def future(env, rng):
    """Random actions from the saved state: (score, actions); death scores below 0."""
    env.nes._restore()
    env.nes.done = False
    actions = list(itertools.islice(sticky_right(rng), LENGTH))
    for step, action in enumerate(actions, start=1):
        press(env, action)
        if env.nes.done:
            flag = bool(env.nes._flag_get)
            return (np.inf if flag else env.nes._x_position - 1e6), actions[:step]
    return env.nes._x_position, actions


def search(world, stage, seed, rounds=300):
    """Actions that reach the flag. Raises: RuntimeError after `rounds` attempts."""
    rng = np.random.default_rng(seed)
    kept, env = [], stand_at(world, stage, [])
    for _ in range(rounds):
        score, actions = max(
            (future(env, rng) for _ in range(FUTURES)), key=lambda f: f[0]
        )
        if score == np.inf:
            env.close()
            return kept + actions
        kept = kept[:-GIVE_UP] if score < 0 else kept + actions[:KEEP]
        env.close()
        env = stand_at(world, stage, kept)
        print(f"\r{len(kept)} steps, x = {env.nes._x_position} ", end="", flush=True)
    raise RuntimeError(f"no flag after {rounds} rounds; try another --seed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    actions = search(args.world, args.stage, args.seed)
    runs = [[a, len(list(same))] for a, same in itertools.groupby(actions)]
    found = {
        "what": "actions [index in RIGHT_ONLY, steps it is held], frame skip 4",
        "world": args.world,
        "stage": args.stage,
        "steps": len(actions),
        "command": f"python tools/find_mario_run.py {args.path} --world {args.world} "
        f"--stage {args.stage} --seed {args.seed}",
        "runs": runs,
    }
    args.path.write_text(json.dumps(found) + "\n")
    print(f"\nflag after {len(actions)} steps -> {args.path}")


if __name__ == "__main__":
    main()
