"""Train on from the agent in data/: sticky actions in some episodes, rates that fall.

    python tools/further.py runs/further --minutes 85 --share 0.5 --fall 45
    python tools/ship.py runs/further --append

Started again with the same folder it goes on; `--minutes` is the length of the whole
run. An episode begins after 0 to 30 idle frames, as in the evaluation. At each reset it
is drawn whether the game repeats actions in this one. The settings are those of the
profile "evening" but for a memory of 50,000 rows: what older agents lived through would
crowd out the rare deaths of this one (notebook 10). In the last `--fall` minutes all
learning rates go down to a twentieth in steps of two minutes.
"""

import argparse
import functools
import sys
from pathlib import Path

import gymnasium as gym

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from command import run  # noqa: E402
from dreamer_lite import dreamer, playing, runs  # noqa: E402
from dreamer_lite.mario import make_mario  # noqa: E402

STICKY, LOWEST, LOOK = 0.25, 0.05, 2.0  # probability, share of the rates, minutes


class SometimesSticky(gym.wrappers.StickyAction):
    """Gymnasium's sticky actions in a share of the episodes, drawn at every reset."""

    def __init__(self, env, share):
        super().__init__(env, STICKY)
        self.share = share

    def reset(self, **kwargs):
        result = super().reset(**kwargs)
        sticky = self.np_random.random() < self.share
        self.repeat_action_probability = STICKY if sticky else 0.0
        return result


def make_env(share):
    """The game as the evaluation begins it, sticky in a share of the episodes."""
    return SometimesSticky(make_mario(noops=30), share)


class FallingRates:
    """A callback of `train`: full rates first, in the last minutes less and less."""

    def __init__(self, config, minutes, fall):
        self.rates = config.lr, config.critic_lr, config.actor_lr
        self.minutes, self.fall = minutes, fall

    def __call__(self, agent, run):
        left = self.minutes - run.minutes
        scale = min(1.0, max(LOWEST, left / self.fall)) if self.fall else 1.0
        for group, rate in zip(agent.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale


def minutes_so_far(folder):
    """How long the run in a folder has trained; 0 if there is none."""
    if not runs.checkpoint_path(folder).exists():
        return 0.0
    return runs.read_checkpoint(folder)[0]["minutes"]


def further(folder, minutes, share, fall, start, profile="evening", **changes):
    """Train in `folder` until the whole run has had its minutes; returns the agent."""
    settings = {"capacity": 50_000, "steps": 10_000_000, "video_minutes": LOOK}
    config, _ = playing.mario_config(profile, start, **settings | changes)
    return dreamer.train(
        functools.partial(make_env, share),
        config,
        folder,
        max(minutes - minutes_so_far(folder), 0.0),
        playing.TRACK,
        start,
        FallingRates(config, minutes, fall),
    )


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the run, a new one to begin")
    parser.add_argument("--minutes", type=float, default=85.0, help="of the whole run")
    parser.add_argument("--share", type=float, default=0.5, help="of sticky episodes")
    parser.add_argument("--fall", type=float, default=45.0, help="last minutes")
    parser.add_argument(
        "--speed",
        choices=["compile", "eager"],
        default="compile",
        help="eager is slower, but simple",
    )
    options = parser.parse_args()
    start = ROOT / "data" / "mario_agent.safetensors"
    plan = options.minutes, options.share, options.fall
    further(options.folder, *plan, start, speed=options.speed)


if __name__ == "__main__":
    run(main)
