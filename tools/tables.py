"""Write the tables of data/README.md from the stored results, and data/SHA256SUMS.

    python tools/tables.py            rewrite them
    python tools/tables.py --check    write nothing; exit 1 if something is out of date

A table lies between `<!-- begin:NAME -->` and `<!-- end:NAME -->`; the function of that
name below writes it. Everything around the tables is written by hand. Each file must be
named by a heading of data/README.md, in backticks: `mario.gif` or `curves/mario_*`.
"""

import argparse
import csv
import fnmatch
import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
TABLE = re.compile(r"(<!-- begin:(\w+) -->\n).*?(<!-- end:\2 -->)", re.DOTALL)
KINDS = "evening", "falling", "hour", "rates"
RUNS = {f"mario_{kind}": kind for kind in KINDS} | {"mario": "first"}


def markdown(head, rows):
    """Return a markdown table; every column after the first is aligned to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def read_json(path):
    """Return a stored JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_rows(path):
    """Return the rows of a stored CSV file as dictionaries."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# The results


def evaluation(data):
    """One row for each player of each stored evaluation of Mario."""
    rows = []
    for path in sorted(data.glob("mario_evaluation*.json")):
        report = read_json(path)
        sticky = report["protocol"]["sticky"] or "no"
        run = path.stem.split("_")[2] if "run" in report.get("agent", {}) else None
        for name, found in report["players"].items():
            low, high = found["interval_95"]
            spread = f"{found['return_mean']:.1f} ± {found['return_std']:.1f}"
            flags = f"{found['flags']} of {found['episodes']}"
            reached = f"{found['x_mean']:,.0f}"
            interval = f"{low:.2f} to {high:.2f}"
            name = f"{name} of `{run}`" if run else name
            rows.append([name, sticky, flags, interval, reached, spread])
    head = ["player", "sticky actions", "flags", "95 % interval", "mean x", "return"]
    return markdown(head, rows)


def mario(data):
    """One row for each stored run of Mario."""
    rows = []
    paths = (data / "curves").glob("mario_*seed*_episodes.csv")
    named = {
        path: path.stem.removesuffix("_episodes").rsplit("_seed") for path in paths
    }
    for path in sorted(named, key=lambda path: (named[path][0] not in RUNS, path)):
        name, seed = named[path]
        episodes, run = (
            read_rows(path),
            read_json(path.with_name(f"{name}_seed{seed}.json")),
        )
        flags = [float(row["minutes"]) for row in episodes if float(row["flag_get"])]
        first, early = f"{flags[0]:.0f}" if flags else "", sum(m <= 60 for m in flags)
        late = episodes[-50:]
        won = sum(float(row["flag_get"]) > 0 for row in late)
        far = sum(float(row["x_pos"]) for row in late) / len(late)
        label = f"{RUNS.get(name, name.removeprefix('mario_'))}, seed {seed}"
        row = [
            label,
            f"{run['steps']:,}",
            f"{run['updates']:,}",
            f"{run['minutes']:.0f}",
        ]
        rows.append([*row, first, early, won, f"{far:,.0f}"])
    head = ["run", "agent steps", "updates", "minutes", "first flag [min]"]
    head += ["flags in the first hour", "flags in the last 50", "mean x of these"]
    return markdown(head, rows)


def learning(data):
    """One row for each stored run of CartPole and Pendulum."""
    rows = []
    for path in sorted((data / "curves").glob("*_seed*.json")):
        run = read_json(path)
        if "goal" in run:  # Mario's runs have a table of their own
            first, last = run["first_at_goal"], run["final"]
            reached = f"{int(first['step']):,}" if first else "never"
            minutes = f"{float(first['cpu_minutes']):.0f}" if first else ""
            ratio = f"ratio {run['config']['ratio']:g}"
            ratio += ", falling rates" * (run["config"].get("anneal", 0) > 0)
            name = f"{run['environment']}, {ratio}, seed {run['seed']}"
            ends = f"{float(last['return']):.0f}"
            chance = f"{run['random_return']:.0f}"
            rows.append([name, chance, run["goal"], reached, minutes, ends])
    head = [
        "run",
        "random",
        "goal",
        "goal reached at step",
        "CPU minutes",
        "at the end",
    ]
    return markdown(head, rows)


def bench(data):
    """One row for each case of each stored measurement of the speed."""
    rows = []
    for path in sorted((data / "bench").glob("*.json")):
        for case in read_json(path)["cases"]:
            name = f"{case['case']}, {case['precision']}, {case['speed']}"
            name += ", AVX2" * path.stem.endswith("avx2")
            size, time = case["parameters"] / 1e6, case["step"]["median"]
            speed = f"{case['frames_per_second']:,.0f}"
            memory = f"{case['peak_mb']:,.0f}"
            rows.append([name, f"{size:.1f}", f"{time:.3f}", speed, memory])
    head = ["model", "M parameters", "seconds per update", "rows per second", "peak MB"]
    return markdown(head, rows)


def worlds(data):
    """One row for each environment that was tried for a few updates."""
    rows = []
    for world in read_json(data / "worlds.json")["worlds"]:
        first, last = world["loss_first"], world["loss_last"]
        loss = f"{first:,.1f} to {last:,.1f}"
        falls = "yes" if last < first else "no"
        names = f"`{world['environment']}`", "; ".join(world["observation"])
        seconds = f"{world['seconds']:.2f}"
        rows.append([*names, world["action"], seconds, loss, falls])
    head = ["environment", "observation", "action", "CPU seconds per update"]
    return markdown([*head, "loss of the world model", "falls"], rows)


def ablations(data):
    """One row for each world in which tricks were taken out."""
    rows = []
    for path in sorted((data / "ablations").glob("*.csv")):
        found = read_rows(path)
        ends = {(row["variant"], row["seed"]): float(row["seconds"]) for row in found}
        agents = Counter(variant for variant, _ in ends)
        seeds = f"{min(agents.values())} to {max(agents.values())}"
        minutes = f"{sum(ends.values()) / 60:.0f}"
        rows.append([path.stem, len(agents), seeds, len(ends), minutes])
    return markdown(["world", "agents", "seeds of each", "runs", "minutes"], rows)


# The files


def stored(data):
    """Return every data file, sorted, except the two that describe the others."""
    found = [path for path in data.rglob("*") if path.is_file()]
    about = {data / "README.md", data / "SHA256SUMS"}
    return sorted(p for p in found if p not in about and not p.name.startswith("."))


def patterns(text):
    """Return the names and patterns of files in the headings of data/README.md."""
    heads = re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    return [name for head in heads for name in re.findall(r"`([^`]+)`", head)]


def files(data):
    """One row for each name or pattern of the headings, and the sum."""
    rows, sizes = (
        [],
        {p.relative_to(data).as_posix(): p.stat().st_size for p in stored(data)},
    )
    for pattern in patterns((data / "README.md").read_text(encoding="utf-8")):
        found = [size for name, size in sizes.items() if fnmatch.fnmatch(name, pattern)]
        rows.append([f"`{pattern}`", len(found), f"{sum(found):,}"])
    rows.append(["all", len(sizes), f"{sum(sizes.values()):,}"])
    return markdown(["file or pattern", "files", "bytes"], rows)


def undescribed(data):
    """Return the files that no heading names, and the headings that name no file."""
    known = patterns((data / "README.md").read_text(encoding="utf-8"))
    names = [path.relative_to(data).as_posix() for path in stored(data)]
    bare = [n for n in names if not any(fnmatch.fnmatch(n, p) for p in known)]
    empty = [p for p in known if not fnmatch.filter(names, p)]
    found = [f"{name} is not described: name it in a heading" for name in bare]
    return found + [f"the heading `{pattern}` names no file" for pattern in empty]


def checksums(data):
    """Return the SHA-256 of every file in the form of `sha256sum`."""
    digests = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in stored(data)}
    return "".join(
        f"{d}  {p.relative_to(data).as_posix()}\n" for p, d in digests.items()
    )


TABLES = {
    f.__name__: f
    for f in (evaluation, mario, learning, ablations, bench, worlds, files)
}


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of data")
    options = parser.parse_args(argv)
    data, found = options.data, undescribed(options.data)
    text = (data / "README.md").read_text(encoding="utf-8")
    text = TABLE.sub(lambda m: m[1] + TABLES[m[2]](data) + m[3], text)
    for name, new in {"README.md": text, "SHA256SUMS": checksums(data)}.items():
        path = data / name
        if not path.is_file() or path.read_text(encoding="utf-8") != new:
            if options.check:
                found.append(f"{name} is out of date: make tables")
            else:
                path.write_bytes(new.encode())
    print("".join(f"data: {line}\n" for line in found), end="")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
