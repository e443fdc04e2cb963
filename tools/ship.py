"""Put a Mario run into data/: its newest agent, its curves, and what they are.

    python tools/ship.py runs/mario [--commit abc1234] [--hardware "..."] [--note "..."]

With `--tables-only` the agent in data/ stays: so other seeds get their curves, and with
`--name hour` a trial of other settings, under names of its own. With
`--append` the run began from the agent in data/ (`train --from`): its steps, updates
and minutes are counted on from there: one curve leads from step 0 to the new agent.
Without `--note` and `--hardware` those of that agent stay; a new one replaces them:
tell all of it. A run that is there already is refused.

After a new agent `python -m dreamer_lite.mario evaluate --baselines --out
data/mario_evaluation.json`, the same with `--sticky 0.25` (see data/README.md), `python
tools/deaths.py`, `python tools/film.py`, `python tools/reference_figures.py draw` and
`make times` bring all that shows it up to date.
"""

import argparse
import csv
import io
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from command import run as run_command  # noqa: E402
from dreamer_lite.config import Config  # noqa: E402
from dreamer_lite.replay import write_whole  # noqa: E402
from dreamer_lite.runs import read_checkpoint, read_table  # noqa: E402
from machine import machine  # noqa: E402

NOTHING = {"steps": 0, "updates": 0, "minutes": 0.0}  # what a run from step 0 has


def rows_until(path, step):
    """The rows of a table up to a step, as the bytes of a CSV file."""
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = header.strip().split(",").index("step")
    kept = [row for row in rows if int(row.split(",")[place]) <= step]
    return "".join([header, *kept]).encode()


def behind(stored, path, step, before):
    """The rows of a stored table, then a run's up to a step, counted on: CSV bytes.

    Args: stored, path, of the two tables; before, what the run began from: its steps,
    updates and minutes. A column that only one of them has stays empty in the other.
    """
    old = read_table(stored)
    new = [row for row in read_table(path) if int(row["step"]) <= step]
    # The minutes of an agent are rounded: time must not run backwards.
    minutes = max([before["minutes"], *(float(row["minutes"]) for row in old)])
    for row in new:
        row["minutes"] = f"{float(row['minutes']) + minutes:.7g}"
        for column, start in (
            ("step", before["steps"]),
            ("updates", before["updates"]),
        ):
            if column in row:
                row[column] = int(row[column]) + start
    out, fields = io.StringIO(), dict.fromkeys([*old[0], *new[0]])
    writer = csv.DictWriter(out, list(fields), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(old + new)
    return out.getvalue().encode()


COUNTED = {"step", "updates", "minutes"}  # columns that `behind` changes


def check_new(stored, path):
    """Refuse a run whose first row of metrics is in a stored table. Raises: ValueError.

    Its losses know it: two runs do not agree in every digit of all of them.
    """
    mine = read_table(path)[:1]
    for row in read_table(stored) if mine else []:
        if all(row.get(key) == mine[0][key] for key in mine[0].keys() - COUNTED):
            raise ValueError(
                f"--append expects a run that is not yet in {stored}, but the first "
                f"row of {path} is there, at step {row['step']}; train on in a new "
                "folder, from the agent in data/."
            )


def started_from(data, seed):
    """What the agent in data/ is, to be counted on from. Raises: ValueError."""
    path = data / "mario_agent.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    if before.get("seed") != seed:
        raise ValueError(
            f"--append expects a run of the seed of the agent in {data}, "
            f"{before.get('seed')}, but this one has {seed}; leave it out."
        )
    return before


def describe(state, seed, before, trained_with, hardware, note):
    """What a run's agent is: its counters, from `before` on, and what made it."""
    here = machine()
    here_alone = f"{here['processor']}, {here['threads']} threads"
    about = {
        "steps": before["steps"] + state["step"],
        "updates": before["updates"] + state["updates"],
        "minutes": round(before["minutes"] + state["minutes"], 1),
        "seed": seed,
        "commit": trained_with or here["commit"],
        "hardware": hardware or before.get("hardware") or here_alone,
        **{key: here[key] for key in ("python", "torch", "date")},
    }
    note = note or before.get("note")  # what was told of the agent it began from
    return about | ({"note": note} if note else {})


def check_trial(name, more):
    """Refuse a trial that would change what ships. Raises: ValueError."""
    if name and more:
        raise ValueError(
            f"a run with a name of its own, {name!r}, leaves the agent in data/ and "
            "its curves alone, but more was asked for; add --tables-only, no --append."
        )


def tables(run, stem, step, before, append):
    """The two tables of a run up to its checkpoint's step, as {path: CSV bytes}.

    Rows after the checkpoint belong to an agent that is not the shipped one.
    """
    found = {}
    for kind in ("metrics", "episodes"):
        table, stored = run / f"{kind}.csv", Path(f"{stem}_{kind}.csv")
        found[stored] = (
            behind(stored, table, step, before) if append else rows_until(table, step)
        )
    return found


def ship(
    run,
    data,
    trained_with=None,
    hardware=None,
    agent=True,
    note=None,
    append=False,
    name=None,
):
    """Copy the newest checkpoint's agent and the tables up to it; return what it is.

    Args: agent, False leaves the agent in data/ as it is and copies the tables alone;
    note, what its settings do not say: what was changed on the way; append, whether
    the run began from the agent in data/; name, of a trial, whose agent does not ship.

    Raises: FileNotFoundError for a folder without a checkpoint; ValueError for a run
    of another seed than that of the agent it is appended to, or appended before; or
    for a trial that would put its agent into data/.
    """
    run, data = Path(run), Path(data)
    check_trial(name, agent or append)
    state, weights = read_checkpoint(run)
    config = Config.from_yaml(run / "config.yaml")
    before = started_from(data, config.seed) if append else NOTHING
    about = describe(state, config.seed, before, trained_with, hardware, note)
    text = (json.dumps(about, indent=1) + "\n").encode()
    files = {}
    if agent:
        files[data / "mario_agent.safetensors"] = weights
        files[data / "mario_agent.json"] = text
    stem = data / "curves" / f"mario_{name + '_' if name else ''}seed{config.seed}"
    if append:
        check_new(Path(f"{stem}_metrics.csv"), run / "metrics.csv")
    stem.parent.mkdir(parents=True, exist_ok=True)
    files[Path(f"{stem}.json")] = text
    files[Path(f"{stem}_config.yaml")] = (run / "config.yaml").read_bytes()
    files |= tables(run, stem, state["step"], before, append)
    for path, content in files.items():
        write_whole(path, lambda file, content=content: file.write(content))
    return about


def main():
    """Ship one run and print what it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--commit", help="that trained it (default: what is here)")
    parser.add_argument(
        "--hardware", help="that trained it (default: what is told so far, or this one)"
    )
    parser.add_argument("--note", help="what was changed on the way")
    parser.add_argument(
        "--tables-only", action="store_true", help="leave the agent in data/ alone"
    )
    parser.add_argument("--name", help="of a trial, say hour: data/curves/mario_hour_*")
    parser.add_argument(
        "--append", action="store_true", help="the run began from the agent in data/"
    )
    options = parser.parse_args()
    about = ship(
        options.run,
        ROOT / "data",
        options.commit,
        options.hardware,
        agent=not options.tables_only,
        note=options.note,
        append=options.append,
        name=options.name,
    )
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    run_command(main)
