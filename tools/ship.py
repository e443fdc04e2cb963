"""Put a Mario run into data/: its agent, its curves, and how they were made.

    python tools/ship.py runs/hour1 --name hour    its curves: data/curves/mario_hour_*
    python tools/ship.py runs/evening1 --agent     those of evening, and its agent
    python tools/ship.py --film --seed 23          only data/mario.gif

After a new agent the commands that this prints bring everything up to date that shows
it. Run it on the machine that trained, or say `--hardware` and `--commit`.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dreamer_lite import playing
from dreamer_lite.dreamer import Dreamer
from dreamer_lite.mario import make_mario
from dreamer_lite.runs import read_checkpoint
from dreamer_lite.video import write_gif
from machine import machine

DATA = ROOT / "data"
EVERY, FRAMES, FPS = 4, 160, 15  # the film: every fourth frame, so that it loads fast
AFTERWARDS = """make evaluate
python tools/deaths.py
python tools/ship.py --film
make times
python tools/reference_figures.py draw
make tables""".splitlines()


def describe(state, options):
    """Return how the agent of a checkpoint was made."""
    here = machine()
    alone = f"{here['processor']}, {here['threads']} threads"
    about = {
        "steps": state["step"],
        "updates": state["updates"],
        "minutes": round(state["minutes"], 1),
        "seed": state["config"]["seed"],
        "commit": options.commit or here["commit"],
        "hardware": options.hardware or alone,
        **{key: here[key] for key in ("python", "torch", "date")},
    }
    return about | ({"note": options.note} if options.note else {})


def rows_until(path, step):
    """Return the text of a table without the rows after a step."""
    head, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = head.strip().split(",").index("step")
    return "".join([head, *(r for r in rows if int(r.split(",")[place]) <= step)])


def ship(options, data=DATA):
    """Copy the curves of a run and, if that is asked for, its agent.

    Args:
        options: what `parse` returns.
        data: where to.

    Returns:
        How the agent was made, as stored in its JSON file.

    Raises:
        FileNotFoundError: if the folder holds no checkpoint.
    """
    state, weights = read_checkpoint(options.run)
    about = describe(state, options)
    stem = f"curves/mario_{options.name}_seed{about['seed']}"
    about_it = json.dumps(about, indent=1) + "\n"
    settings = (options.run / "config.yaml").read_text(encoding="utf-8")
    texts = {f"{stem}.json": about_it, f"{stem}_config.yaml": settings}
    for table in ("metrics.csv", "episodes.csv"):
        texts[f"{stem}_{table}"] = rows_until(options.run / table, state["step"])
    if options.agent:
        texts["mario_agent.json"] = about_it
        (data / "mario_agent.safetensors").write_bytes(weights)
    (data / "curves").mkdir(exist_ok=True)
    for file, text in texts.items():
        (data / file).write_text(text, encoding="utf-8")
    return about


def film(seed, data=DATA):
    """Write mario.gif: the game, the dream and the difference in one episode.

    Raises:
        ValueError: if the episode does not end at the flag, as the README promises.
    """
    agent = Dreamer.load(data / "mario_agent.safetensors").eval()
    played = playing.play_episode(agent, make_mario, seed)
    if not played.info["flag_get"]:
        raise ValueError(f"The agent does not reach the flag with seed {seed}.")
    frames = playing.beside(agent, played.rows)
    write_gif(data / "mario.gif", frames[::EVERY][:FRAMES], FPS / EVERY)


def parse(argv=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="the folder of the run")
    parser.add_argument("--name", default="evening", help="of the curves")
    parser.add_argument("--agent", action="store_true", help="ship its agent as well")
    parser.add_argument("--note", help="what the settings of the run do not say")
    parser.add_argument("--commit", help="that trained it (default: the one here)")
    parser.add_argument("--hardware", help="that trained it (default: this machine)")
    parser.add_argument("--film", action="store_true", help="write data/mario.gif")
    parser.add_argument("--seed", type=int, default=23, help="of the filmed episode")
    options = parser.parse_args(argv)
    if bool(options.run) == options.film:
        parser.error("expected the folder of a run or --film, and not both.")
    return options


def main():
    """Run the command."""
    options = parse()
    try:
        if options.film:
            film(options.seed)
        else:
            print(json.dumps(ship(options), indent=1))
            print("Now run", *AFTERWARDS[None if options.agent else -2 :], sep="\n    ")
    except (OSError, ValueError) as error:
        sys.exit(f"ship: {error}")


if __name__ == "__main__":
    main()
