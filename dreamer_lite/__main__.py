"""The command line: python -m dreamer_lite {train,evaluate,play,record}.

Written by hand, not exported from a notebook. Torch is imported only by the commands
themselves, so that `--help` answers at once.
"""

import argparse
import functools
import json
import re
import sys
import traceback
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dreamer_lite.config import SIZES, Config, rates

Argument = Annotated[Path, tyro.conf.Positional]


def train(
    env: str,
    logdir: Path,
    config: Config = Config(),  # noqa: B008
    preset: Literal[tuple(SIZES)] | None = None,
    profile: str | None = None,
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    track: tuple[str, ...] = (),
    film: bool = False,
    quiet: bool = False,
):
    """Train an agent. The same command again continues the run in its folder.

    Args:
        env: a Gymnasium id, module:id of a module that registers it on import, or
            module:function; with options as in "CartPole-v1(render_mode='human')".
        logdir: folder of the run.
        config: Every number that a run depends on. --config.lr also moves critic_lr and
            actor_lr, unless they are given. Here "config." may be left out.
        preset: size of the agent, with its learning rates; 3m or that of the profile
            without it.
        profile: a configuration made for the environment.
        start: agent file or run folder; a new run begins with its weights and size.
        track: names in the environment's info to record at the end of an episode.
        film: film an episode with every video of the run.
        quiet: show no progress bar.
    """
    from dreamer_lite import dreamer, envs, playing

    make_env = envs.env_by_name(env)
    callback = functools.partial(playing.film, make_env=make_env) if film else None
    dreamer.train(make_env, config, logdir, None, track, start, callback, not quiet)
    print(f"the run is in {logdir}")


def evaluate(
    agent: Argument,
    env: str | None = None,
    episodes: int = 100,
    envs: int = 4,
    seed: int = 0,
    greedy: bool = False,
    track: tuple[str, ...] = (),
    out: Path | None = None,
):
    """Play whole episodes and report the returns. Nothing is learnt.

    Args:
        agent: agent file or run folder.
        env: the environment, as in train; without it that of the run.
        episodes: number of episodes, shared equally by the environments.
        envs: environments side by side, each in a process of its own.
        seed: seed of environments and actions. No training run has these episodes.
        greedy: take the most likely actions instead of sampled ones.
        track: names in the environment's info to report.
        out: JSON file to write.
    """
    from dreamer_lite import dreamer, playing

    if min(episodes, envs) < 1:
        raise ValueError("--episodes and --envs are at least 1; raise them.")
    check_target(out)
    player, envs = dreamer.Dreamer.load(agent).eval(), min(envs, episodes)
    env, make_env = playing.env_of(agent, env)
    how = episodes, envs, seed, track, envs > 1, greedy
    played = dreamer.evaluate(player, make_env, *how)
    for key in [key for key in played[0] if key != "env"]:
        found = [episode[key] for episode in played if key in episode]
        total = f"{sum(found):g} of {len(found)}, " if set(found) <= {0, 1} else ""
        span = f"from {min(found):g} to {max(found):g}"
        print(f"{key}: {total}mean {sum(found) / len(found):.4g}, {span}")
    if out:
        about = dict(agent=str(agent), env=env, envs=envs, seed=seed, greedy=greedy)
        about["episodes"] = played
        with open(out, "w", encoding="utf-8") as file:
            json.dump(about, file, indent=1)
        print(f"wrote {out}")


def play(
    agent: Argument,
    env: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    steps: int = 3000,
    greedy: bool = False,
    dream: bool = False,
    human: bool = False,
):
    """Film one episode of an agent.

    Args:
        agent: agent file or run folder.
        env: the environment, as in train; without it that of the run.
        out: GIF to write; runs/NAME.gif without it.
        seed: seed of environment and actions.
        steps: agent steps at most.
        greedy: take the most likely actions instead of sampled ones.
        dream: film what the agent sees, beside what it dreams and the error.
        human: show the episode in a window instead, and write nothing.
    """
    from dreamer_lite import dreamer, playing, video

    out = Path("runs", f"{agent.resolve().stem}.gif") if out is None else out
    check_target(None if human else out)
    player = dreamer.Dreamer.load(agent).eval()
    _, make_env = playing.env_of(agent, env)
    played = playing.play_episode(player, make_env, seed, steps, human, greedy)
    print(f"{len(played.rows['reward']) - 1} steps, return {played.total:.1f}")
    if "flag_get" in played.info:
        place = (
            f"no flag, the end was at x = {played.info['x_pos']:,}; try another seed"
        )
        print("reached the flag" if played.info["flag_get"] else place)
    if not human:
        frames = playing.beside(player, played.rows) if dream else played.screens
        video.write_gif(out, frames, played.fps)
        print(f"wrote {out}")


def record(
    out: Argument,
    env: str,
    players: tuple[str, ...] = ("random",),
    rows: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
):
    """Record play as a replay file, one stream for each player.

    Args:
        out: file to write (.npz).
        env: the environment, as in train.
        players: random, agent files or run folders; for Mario also right (runs and
            jumps to the right) and follow (follows a list that reaches the flag).
        rows: rows of each stream.
        seed: seed of environments and players.
        overwrite: replace the file if it exists.
    """
    from dreamer_lite import playing

    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; add --overwrite to replace it.")
    check_target(out)
    ends = playing.record(out, playing.env_by_name(env), players, rows, seed)
    print(f"{len(players)} x {rows} rows, {len(ends)} whole episodes\nwrote {out}")


def check_target(path):
    """Find out before the work whether a file can be written. Raises: OSError."""
    if path is None:
        return
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(path, "ab").close()
    except OSError as error:
        error = f"{path} cannot be written ({error}); name another file."
        raise OSError(error) from None
    if new:
        path.unlink()


def known(words, names):
    """Take `--name value` out of `words`: {name: value}, and the other words."""
    parser = argparse.ArgumentParser(usage="", add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}")
    found, rest = parser.parse_known_args(words)
    return {name: value for name, value in vars(found).items() if value}, rest


def first_config(words, profiles, profile):
    """The Config that --config.* changes: of the profile, size and rate asked for."""
    asked, _ = known(words, ["preset", "profile", "from", "config.lr"])
    profile = asked.get("profile", profile)
    if profile and profile not in profiles:
        raise ValueError(f"--profile is one of {[*profiles]}, but got {profile!r}.")
    if {"preset", "from"} <= set(asked):
        raise ValueError("--preset and --from both name a size; leave one of them out.")
    config = profiles[profile] if profile else Config()
    if asked.get("preset") in SIZES:
        config = config.resized(Config.preset(asked["preset"]))
    if "from" in asked:
        from dreamer_lite.dreamer import Dreamer

        config = config.resized(Dreamer.load(asked["from"]).config)
    lr = asked.get("config.lr")
    return replace(config, **rates(Config(lr=lr).lr)) if lr else config


def name_with(env, options):
    """The name of an environment with further options, {name: text}."""
    import yaml

    from dreamer_lite.envs import env_by_name, env_name

    options = {name: yaml.safe_load(text) for name, text in options.items()}
    return env_name(functools.partial(env_by_name(env), **options))


def run(words, prog, profiles, options, given):
    """Parse and run a command; the arguments are those of `main`."""
    commands = {f.__name__: f for f in (train, evaluate, play, record)}
    name = words[0] if words and words[0] in commands else None
    if not name:  # help, or an error
        tyro.extras.subcommand_cli_from_dict(commands, prog=prog, args=words)
    asked, words = known(words[1:], options)
    given = dict(given.get(name, {}))
    if asked:
        given["env"] = name_with(given["env"], asked)
    if name == "train":
        plain = "|".join(field.name for field in fields(Config))
        plain = re.compile(f"--(?=(no-)?({plain}|{plain.replace('_', '-')})(=|$))")
        words = [plain.sub("--config.", word) for word in words]
        given["config"] = first_config(words, profiles, given.get("profile"))
    about = commands[name].__doc__.splitlines()[0]
    about += f" Options of the game: --{', --'.join(options)}." if options else ""
    command = functools.partial(commands[name], **given)
    tyro.cli(command, prog=f"{prog} {name}", description=about, args=words)


def ours(error):
    """Whether the package raised an error itself, to say what a person can mend."""
    frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    inside = Path(__file__).parent in Path(frame.f_code.co_filename).parents
    kinds = OSError, ValueError, TypeError, ImportError, MemoryError, FloatingPointError
    unknown = type(error).__module__ == "gymnasium.error"  # an id, say
    return unknown or inside and isinstance(error, kinds)


def main(words=None, prog="python -m dreamer_lite", profiles=None, options=(), **given):
    """Run a command. What a person can mend is said in one sentence, with status 2.

    Args:
        words: the command line without the program's name.
        prog: the program's name.
        profiles: {name: Config} for `train`.
        options: names of the environment's options that are flags, too.
        **given: default arguments, {name: value}, of a command.
    """
    words = sys.argv[1:] if words is None else list(words)
    try:
        run(words, prog, profiles or {}, options, given)
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", ["Stopped."])
        print(f"{words[0]}:", *notes, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not ours(error):
            raise
        print(f"{words[0]}: {error}", *getattr(error, "__notes__", ()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
