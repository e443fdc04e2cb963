"""The command line: python -m dreamer_lite {train,evaluate,play,record}.

Torch is imported only by the commands themselves, so that `--help` answers at once.
"""

import functools
import inspect
import json
import re
import sys
import traceback
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import tyro

from dreamer_lite.config import SIZES, Config

Agent = Annotated[Path, tyro.conf.Positional]
Hidden = tyro.conf.Suppress[dict]


def train(
    env: str,
    logdir: Path,
    config: Hidden = {},  # noqa: B006
    game: Hidden = {},  # noqa: B006
    profiles: Hidden = {},  # noqa: B006
    games: Hidden = {},  # noqa: B006
    profile: tyro.conf.Suppress[str | None] = None,
    preset: Literal[tuple(SIZES)] | None = None,
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    track: tuple[str, ...] = (),
    film: bool = False,
    quiet: bool = False,
):
    """Train an agent. The same command again continues the run in its folder.

    Several processes, also on several GPUs or machines, train one agent if torchrun
    starts them: torchrun --nproc-per-node 2 -m dreamer_lite train ...

    Args:
        env: a Gymnasium id, module:id or module:function; options as in "f(x=1)".
        logdir: folder of the run.
        config: Every number that a run depends on. --lr moves critic-lr and actor-lr,
            too, unless they are given. "--config.lr" is the same as "--lr".
        game: Options of the game.
        profiles: {name: Config} of every profile.
        games: {name: {option: value}} of the profiles that play another game.
        profile: a configuration made for the environment.
        preset: size of the agent, with its learning rates.
        start: agent file or run folder to begin with: size, rates, weights that fit.
        track: names in the environment's info to record at the end of an episode.
        film: film an episode with every video of the run.
        quiet: show no progress bar.
    """
    from dreamer_lite import dreamer, envs, playing, runs

    base = profiles[profile] if profile else Config()
    if start:
        base = base.resized(Config(**runs.load_agent(start)[2]))
    if preset:
        base = base.resized(Config.preset(preset))
    make_env = envs.env_by_name(env, **games.get(profile, {}) | game)
    callback = functools.partial(playing.film, make_env=make_env) if film else None
    config = base.changed(**config)
    dreamer.train(make_env, config, logdir, None, track, start, callback, not quiet)
    print(f"the run is in {logdir}")


def evaluate(
    agent: Agent,
    game: Hidden = {},  # noqa: B006
    env: str | None = None,
    fallback: tyro.conf.Suppress[str | None] = None,
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
        game: Options of the game.
        env: the environment, as in train; by default that of the run.
        fallback: the environment of an agent file, which does not name its own.
        episodes: number of episodes, shared equally by the environments.
        envs: environments side by side, each in a process of its own.
        seed: seed of environments and actions. No training run has these episodes.
        greedy: take the most likely actions instead of sampled ones.
        track: names in the environment's info to report.
        out: JSON file to write.
    """
    from dreamer_lite import dreamer, playing
    from dreamer_lite.envs import env_name

    if out:
        check_target(out)
    player = dreamer.Dreamer.load(agent)
    make_env = playing.env_of(agent, env, game, fallback)
    how = min(envs, episodes), seed, track, envs > 1, greedy
    played = dreamer.evaluate(player.eval(), make_env, episodes, *how)
    for key in dict.fromkeys(k for episode in played for k in episode if k != "env"):
        found = [episode[key] for episode in played if key in episode]
        total = f"{sum(found):g} of {len(found)}, " if set(found) <= {0, 1} else ""
        span = f"from {min(found):g} to {max(found):g}"
        print(f"{key}: {total}mean {sum(found) / len(found):.4g}, {span}")
    if out:
        about = dict(agent=str(agent), env=env_name(make_env), envs=envs, seed=seed)
        about |= dict(greedy=greedy, episodes=played)
        out.write_text(json.dumps(about, indent=1), encoding="utf-8")
        print(f"wrote {out}")


def play(
    agent: Agent,
    game: Hidden = {},  # noqa: B006
    env: str | None = None,
    fallback: tyro.conf.Suppress[str | None] = None,
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
        game: Options of the game.
        env: the environment, as in train; by default that of the run.
        fallback: the environment of an agent file, which does not name its own.
        out: GIF to write; by default runs/NAME.gif.
        seed: seed of environment and actions.
        steps: agent steps at most.
        greedy: take the most likely actions instead of sampled ones.
        dream: film what the agent sees, beside what it dreams and the error.
        human: show the episode in a window instead, and write nothing.
    """
    from dreamer_lite import dreamer, playing, video

    whole = agent.expanduser().resolve()
    out = out or Path("runs", f"{whole.name if whole.is_dir() else whole.stem}.gif")
    if not human:
        check_target(out)
    player = dreamer.Dreamer.load(agent)
    make_env = playing.env_of(agent, env, game, fallback)
    played = playing.play_episode(player.eval(), make_env, seed, steps, human, greedy)
    print(f"{len(played.rows['reward']) - 1} steps, return {played.total:.1f}")
    if "flag_get" in played.info:
        end = f"no flag, the episode ended at x = {played.info['x_pos']:,}"
        print("reached the flag" if played.info["flag_get"] else end)
    if not human:
        frames = playing.beside(player, played.rows) if dream else played.screens
        video.write_gif(out, frames, played.fps)
        print(f"wrote {out}")


def record(
    out: Annotated[Path, tyro.conf.Positional],
    env: str,
    game: Hidden = {},  # noqa: B006
    players: tuple[str, ...] = ("random",),
    rows: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
):
    """Record play as a replay file, one stream for each player.

    Args:
        out: file to write (.npz).
        env: the environment, as in train.
        game: Options of the game.
        players: random, agent files or run folders; for Mario also right and follow.
        rows: rows of each stream.
        seed: seed of environments and players.
        overwrite: replace the file if it exists.
    """
    from dreamer_lite import envs, playing

    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; add --overwrite to replace it.")
    check_target(out)
    make_env = envs.env_by_name(env, **game)
    ends = playing.record(out, make_env, players, rows, seed)
    print(f"{len(players)} x {rows} rows, {len(ends)} whole episodes\nwrote {out}")


def check_target(path):
    """Find out before the work whether a file can be written. Raises: OSError."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()
    if new:
        path.unlink()


def flags(example):
    """A type for the command line: the fields of a dataclass, each an optional flag.

    The comment beside a field is its help. What is parsed is a dictionary that holds
    only the fields that were typed.

    Args:
        example: an instance, whose values are shown as the defaults.
    """
    text = inspect.getsource(type(example))
    helps = dict(re.findall(r"^    (\w+): .*?  # (.*)$", text, re.MULTILINE))
    kinds = {}
    for field in fields(example):
        value = getattr(example, field.name)
        hint = f"(default: {value:g})" if field.type is float else f"(default: {value})"
        about = tyro.conf.arg(help=helps[field.name], help_behavior_hint=hint)
        kinds[field.name] = Annotated[field.type, about]
    name = type(example).__name__
    return tyro.conf.OmitArgPrefixes[TypedDict(name, kinds, total=False)]


def mendable(error):
    """Whether an error says what a person can mend: of a file, or our own sentence."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    kinds = ValueError, TypeError, ImportError, MemoryError, FloatingPointError
    own = isinstance(error, kinds) and Path(__file__).parent in Path(last).parents
    return own or isinstance(error, OSError)


def main(words=None, prog="python -m dreamer_lite", profiles=None, game=None, **given):
    """Run a command. What a person can mend is said in one sentence, with status 2.

    Args:
        words: the command line without the program's name.
        prog: the program's name.
        profiles: {name: Config} for `train`.
        game: an instance of a dataclass of the environment's options.
        **given: default arguments, {name: value}, of a command.
    """
    words = sys.argv[1:] if words is None else words
    words = [word.replace("--config.", "--") for word in words]
    commands, shown = {}, Config()
    if profiles:
        shown = profiles[given["train"]["profile"]]
        given["train"] |= {"profiles": profiles}
        train.__annotations__["profile"] = Literal[tuple(profiles)]
    train.__annotations__["config"] = flags(shown)
    for command in (train, evaluate, play, record):
        defaults = given.get(command.__name__, {})
        if game:
            options = replace(game, **defaults.get("game", {}))
            command.__annotations__["game"] = flags(options)
        commands[command.__name__] = functools.partial(command, **defaults)
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog=prog, args=words)
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", ["Stopped."])
        print(f"{words[0]}:", *notes, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not mendable(error):
            raise
        print(f"{words[0]}: {error}", *getattr(error, "__notes__", ()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
