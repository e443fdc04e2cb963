"""The commands `python -m dreamer_lite.mario {record,train,play,evaluate}`.

Hand-written plumbing for notebook 10. Torch is imported only by the commands that need
it, so `--help` answers at once.
"""

import argparse
import functools
import json
import os
import sys
import time
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
AGENT = DATA / "mario_agent.safetensors"
RUN = DATA / "mario_1_1_actions.json"

STICKY = "share of steps in which the game repeats the last action"


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names a default where there is one."""

    def _get_help_string(self, action):
        return (
            action.help if action.default is None else super()._get_help_string(action)
        )


def parse(argv=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dreamer_lite.mario",
        description="Dreamer Lite on Super Mario Bros.: record, train, play, evaluate.",
        formatter_class=Help,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add_options in (_record, _train, _play, _evaluate):
        name, text = add_options.__name__[1:], add_options.__doc__
        p = commands.add_parser(name, help=text, description=text, formatter_class=Help)
        add_options(p)
    return parser.parse_args(argv)


def _record(p):
    """Record scripted play: three ways of playing, one stream each."""
    p.add_argument("path", type=Path, help="file to write (.npz)")
    p.add_argument("--rows", type=int, default=2000, help="rows of each stream")
    p.add_argument("--noops", type=int, default=30, help="idle frames at most")
    p.add_argument("--seed", type=int, default=0, help="of everything")
    p.add_argument("--overwrite", action="store_true", help="replace the file")


def _train(p):
    """Train on the real game; the same command again goes on."""
    from dreamer_lite.config import SIZES
    from dreamer_lite.mario import PROFILES

    p.add_argument("--logdir", default="runs/mario", help="folder of the run")
    p.add_argument("--profile", choices=PROFILES, default="evening", help="settings")
    p.add_argument("--minutes", type=float, help="budget, in place of the profile's")
    text = "size of the agent, in place of the profile's"
    p.add_argument("--preset", choices=SIZES, help=text)
    p.add_argument("--speed", choices=["eager", "compile", "graph"], help="of updates")
    p.add_argument("--seed", type=int, default=0, help="of everything")
    p.add_argument("--from", dest="start", type=Path, help="agent to start a run from")
    p.add_argument("--noops", type=int, default=0, help="idle frames at most")
    p.add_argument("--sticky", type=float, default=0.0, help=STICKY)
    p.add_argument("--quiet", action="store_true", help="no progress bar")


def _play(p):
    """Film one episode of an agent on the real game."""
    _add_agent(p)
    p.add_argument("--out", type=Path, default="mario.gif", help="GIF to write")
    p.add_argument("--seed", type=int, default=0, help="of game and agent")
    p.add_argument("--noops", type=int, default=0, help="idle frames at most")
    p.add_argument("--sticky", type=float, default=0.0, help=STICKY)
    p.add_argument("--steps", type=int, default=3000, help="agent steps at most")
    p.add_argument("--dream", action="store_true", help="film real | dreamed | error")
    p.add_argument("--human", action="store_true", help="show a window, write nothing")


def _evaluate(p):
    """Count flags over many episodes, actions sampled."""
    _add_agent(p)
    p.add_argument("--episodes", type=int, default=100, help="how many")
    p.add_argument("--seed", type=int, default=0, help="of games and agent")
    p.add_argument("--sticky", type=float, default=0.0, help=STICKY)
    p.add_argument("--envs", type=int, default=4, help="games side by side")
    p.add_argument(
        "--baselines", action="store_true", help="also players that learn not"
    )
    p.add_argument("--out", type=Path, help="JSON file to write")


def _add_agent(parser):
    text = "agent file, or the folder of a run"
    parser.add_argument("agent", nargs="?", type=Path, default=AGENT, help=text)


def record(o):
    """Make data/mario_episodes.npz, or a file like it."""
    from dreamer_lite import recording
    from dreamer_lite.playing import known_run

    if o.path.exists() and not o.overwrite:
        raise FileExistsError(f"{o.path} is there already; add --overwrite to replace.")
    player = functools.partial(recording.follow, known_run(RUN))
    plays = [recording.random_actions, recording.sticky_right, player]
    plays = [recording.Scripted(p, o.seed + i) for i, p in enumerate(plays, 1)]
    episodes = recording.record(o.path, plays, o.rows, o.seed, noops=o.noops)
    flags = sum(int(episode["flag_get"]) for episode in episodes)
    print(
        f"{len(plays)} x {o.rows} rows, {len(episodes)} episodes ended, {flags} flags"
    )
    print(f"wrote {o.path}")


def train(o):
    """Train, or go on training."""
    from dreamer_lite.playing import train_mario
    from dreamer_lite.runs import read_checkpoint

    names = ("seed", "preset", "speed", "noops", "sticky")
    given = {key: getattr(o, key) for key in names}
    changes = {key: value for key, value in given.items() if value is not None}
    agent = train_mario(o.logdir, o.profile, o.minutes, o.start, not o.quiet, **changes)
    step, steps = read_checkpoint(o.logdir)[0]["step"], agent.config.steps
    left = "the same command goes on with it" if step < steps else "its steps are done"
    print(f"the run lies in {o.logdir}, {step:,} of {steps:,} steps; {left}")


def play(o):
    """Film one episode, or show it."""
    from dreamer_lite import playing, video

    agent = playing.load_agent(o.agent)
    game = {"noops": o.noops, "sticky": o.sticky}
    played = playing.play_episode(agent, o.seed, o.steps, o.human, **game)
    end = "the flag" if played.info["flag_get"] else f"x = {played.info['x_pos']}"
    print(f"reached {end} with a return of {played.total:.1f}")
    if o.human:
        return
    frames = played.screens
    if o.dream:
        dreamed = playing.dream_beside(agent, played.rows)
        frames = playing.beside(played.rows["obs"], dreamed)
    video.write_gif(o.out, frames)
    print(f"wrote {o.out}")


def evaluate(o):
    """Report the flag rate; the last line printed is always of one form."""
    from dreamer_lite import playing
    from dreamer_lite.replay import write_whole

    file = o.agent
    players = {"agent": playing.load_agent(file)}
    about = playing.about_agent(file) | {"file": o.agent.name}  # or its run's folder
    result = {"agent": about, "commit": playing.commit()}
    result["hardware"] = playing.hardware(players["agent"])
    protocol = {"episodes": o.episodes, "seed": o.seed, "sticky": o.sticky}
    # The number of environments decides, with the seed, which games are played.
    result["protocol"] = protocol | dict(noops=30, actions="sampled", envs=o.envs)
    if o.baselines:
        players |= playing.baselines(o.seed, playing.known_run(RUN))
    result["players"], start = {}, time.monotonic()
    for name, player in players.items():
        found = playing.evaluate_mario(player, *protocol.values(), o.envs, o.envs > 1)
        result["players"][name] = found
        print(describe(name, found))
    result["minutes"] = round((time.monotonic() - start) / 60, 2)
    if o.out:
        text = json.dumps(result, indent=1) + "\n"
        write_whole(o.out, lambda file: file.write(text.encode()))
        print(f"wrote {o.out}")
    found = result["players"]["agent"]
    print(f"flag rate: {found['flag_rate']:.2f} ({found['flags']}/{found['episodes']})")


def describe(name, found):
    """One player's result in three lines."""
    low, high = found["interval_95"]
    quartiles = ", ".join(f"{x:.0f}" for x in found["x_quartiles"])
    places = ", ".join(f"{x}: {n}" for x, n in found["deaths_by_x"].items())
    mean, spread = found["return_mean"], found["return_std"]
    return (
        f"{name}: {found['flags']} flags in {found['episodes']} episodes, "
        f"95 % interval {low:.2f} to {high:.2f}, return {mean:.1f} +- {spread:.1f}\n"
        f"  x: mean {found['x_mean']:.0f}; least, quartiles, most: {quartiles}\n"
        f"  ends: {found['deaths']} deaths (by hundred of x: {places or 'none'}), "
        f"{found['stuck']} stuck"
    )


WRONG = OSError, ValueError, FloatingPointError, ModuleNotFoundError, MemoryError
AT_LEAST = dict.fromkeys(("rows", "steps", "episodes", "envs"), 1)
AT_LEAST |= dict.fromkeys(("minutes", "seed", "noops", "sticky"), 0)
BELOW = {"seed": 2**32, "sticky": 1}


def check(o):
    """Refuse what could not work, before anything is played. Raises: ValueError."""
    for name, least in AT_LEAST.items():
        got = getattr(o, name, None)
        if got is not None and not got >= least:  # nan is refused, too
            raise ValueError(
                f"--{name} is at least {least}, but got {got}; choose a larger one."
            )
    for name, limit in BELOW.items():
        got = getattr(o, name, None)
        if got is not None and got >= limit:
            raise ValueError(
                f"--{name} is below {limit}, but got {got}; choose a smaller one."
            )
    human = getattr(o, "human", False)
    if human and sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        raise ValueError(
            "--human needs a display, but DISPLAY is not set; leave it out to write a "
            "GIF."
        )
    name = "path" if o.command == "record" else "--out"
    file = getattr(o, name.lstrip("-"), None)
    if file is None or human:
        return
    if not file.parent.is_dir():
        raise ValueError(
            f"{name} is a file in a folder that exists, but there is no folder "
            f"{file.parent}; make it first."
        )
    if file.is_dir():
        raise ValueError(f"{name} is a file, but {file} is a folder; add a name.")
    if o.command == "play" and file.suffix.lower() != ".gif":
        raise ValueError(f"--out is a .gif, but got {file}; give it that ending.")


def main(argv=None):
    """Run a command; what is wrong with its options or files is said in one line.

    Exit status: 1 for what files and machine do not allow, 2 for wrong options, 130 if
    it was stopped by the keyboard.
    """
    options = parse(argv)
    command = {"record": record, "train": train, "play": play, "evaluate": evaluate}
    try:
        check(options)
    except ValueError as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        command[options.command](options)
    except WRONG as error:
        sys.exit(f"{options.command}: {error}")
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", ["Stopped."])
        print(f"{options.command}: {notes[-1]}", file=sys.stderr)
        sys.exit(130)
