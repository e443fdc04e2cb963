"""Generate the marked blocks of README.md from stored results.

    python tools/readme.py            rewrite every block
    python tools/readme.py --check    write nothing; fail if a block is out of date

A block lies between `<!-- begin:NAME -->` and `<!-- end:NAME -->`. To add one, write a
function from the checkout's root to markdown and decorate it with `@block("NAME")`.
Figures come from files under data/ and from the repository itself, never by hand.
"""

import argparse
import ast
import csv
import io
import json
import re
import statistics
import sys
import tokenize
from pathlib import Path

import nb_check
from export import logic as export

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"<!-- begin:([\w-]+) -->\n(.*?)<!-- end:\1 -->", re.DOTALL)
WIDGETS = {"action_pad", "explore", "scrub"}
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
BLOCKS = {}


def block(name):
    """Register the function that writes the block `name`."""

    def register(function):
        BLOCKS[name] = function
        return function

    return register


def table(head, rows):
    """Return a markdown table; every column after the first is set to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def read_json(root, name):
    """Return a stored result, or None where there is none yet."""
    path = root / "data" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


GIF = (
    "The trained agent plays Super Mario Bros. 1-1 to the flag: real frames, the "
    "frames that its world model dreams from the buttons alone (anew every two "
    "seconds), and their difference, side by side."
)
CAPTION = (
    "*Left, the agent plays the real game. In the middle, what its world model dreams: "
    "every two seconds the dream begins anew from what was seen, and then knows only "
    "the buttons. Right, the difference: white means none.*"
)


@block("gif")
def gif(root):
    """The picture at the top, once there is one."""
    if not (root / "data" / "mario.gif").is_file():
        return "*The agent's GIF comes here.*"
    return f'<img src="data/mario.gif" alt="{GIF}">\n\n{CAPTION}'


# The notebooks


def count_notebook(path):
    """Return what a notebook holds: cells, exercises, prompts, widgets, figures."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    return {
        "cells": len(cells),
        "exercises": len({tag for tag in tags if tag.startswith("exercise-")}),
        "prompts": tags.count("predict"),
        "widgets": sum(nb_check.calls(source, WIDGETS) for source in code),
        "figures": sum(kind.startswith("image/") for kind in kinds),
    }


def title_of(path):
    """Return a notebook's title, without its number."""
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    title = "".join(first["source"]).splitlines()[0].lstrip("# ")
    return re.sub(r"^(Notebook )?\d+\s*[.:·-]?\s*", "", title)


@block("notebooks")
def notebooks(root):
    """One row for each notebook."""
    times = read_json(root, "times.json") or {}
    rows, sums, columns = [], {}, None
    for path in export.notebook_paths(root):
        counts = count_notebook(path)
        columns = list(counts)
        minutes = times.get(path.stem, {}).get("minutes")
        link = f"[{path.stem[:2]} {title_of(path)}](notebooks/{path.name})"
        shown = "" if minutes is None else f"{minutes:.1f}"
        rows.append([link, shown, *counts.values()])
        for name, value in [("minutes", minutes or 0), *counts.items()]:
            sums[name] = sums.get(name, 0) + value
    if not rows:
        return "*No notebooks yet.*"
    minutes = sums.pop("minutes")
    total = f"{minutes:.1f}" if times else ""
    rows.append(["all", total, *sums.values()])
    return table(["notebook", "minutes", *columns], rows)


# The package


def code_lines(source):
    """Count the lines of a module that hold code: no comments, docstrings or blanks."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            text = node.body[0]
            lines -= set(range(text.lineno, text.end_lineno + 1))
    return len(lines)


@block("code")
def code(root):
    """One row for each module: its code lines, and those of its test."""
    rows, sums = [], [0, 0]
    for path in export.notebook_paths(root):
        name = path.stem[3:]
        counts = []
        for file in (f"dreamer_lite/{name}.py", f"tests/test_{name}.py"):
            exists = (root / file).is_file()
            text = (root / file).read_text(encoding="utf-8") if exists else ""
            counts.append(code_lines(text))
        rows.append([f"`{name}.py`", *counts])
        sums = [total + count for total, count in zip(sums, counts)]
    rows.append(["the ten modules", *sums])
    ten = {path.stem[3:] for path in export.notebook_paths(root)}
    package = root / "dreamer_lite"
    plumbing = [p for p in package.glob("*.py") if p.stem not in ten]
    groups = {
        "files and machines, by hand": plumbing,
        "`course/`, for the notebooks": (package / "course").rglob("*.py"),
    }
    for name, paths in groups.items():
        counts = [code_lines(p.read_text(encoding="utf-8")) for p in paths]
        rows.append([name, sum(counts), ""])
    return table(["module", "lines of code", "lines of its test"], rows)


# Speed


@block("bench")
def bench(root):
    """One table for each machine that `make bench` has measured."""
    paths = sorted((root / "data" / "bench").glob("*.json"))
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return "\n\n".join(map(bench_table, reports)) or "*Not measured yet: `make bench`.*"


def bench_table(report):
    """Return the machine in one line and a row for each model that ran on it."""
    head = ["model", "M parameters (world model)", "seconds per update"]
    head += ["rows replayed per second", "peak MB", "predicted MB"]
    rows = []
    for case in report["cases"]:
        model = case["world_model_parameters"] / 1e6
        rows.append(
            [
                case_name(case),
                f"{case['parameters'] / 1e6:.1f} ({model:.1f})",
                f"{case['step']['median']:.3f}",
                f"{case['frames_per_second']:,.0f}",
                f"{case['peak_mb']:,.0f}",
                f"{sum(case['predicted_mb'].values()):,.0f}",
            ]
        )
    about = report["machine"]
    where = about.get("gpu") or f"{about['processor']}, {about['threads']} threads"
    versions = f"Python {about['python']}, torch {about['torch']}"
    line = f"{where}; {versions}; {about['date']}, commit {about['commit']}:"
    shown = f"{line}\n\n{table(head, rows)}{parts_table(report['cases'])}"
    return shown + sampling_line(report) + environment_line(report)


def case_name(case):
    """Return what was measured in a few words; eager goes without saying."""
    name = [case["case"], case["precision"], case.get("speed", "eager")]
    return ", ".join(part for part in name if part != "eager")


def parts_table(cases):
    """Return the share of each part in the steps that were not compiled."""
    cases = [case for case in cases if "parts" in case]
    if not cases:
        return ""
    rows = [
        [case_name(case)]
        + [f"{part / case['step']['median']:.0%}" for part in case["parts"].values()]
        for case in cases
    ]
    shown = table(["share of an update", *cases[0]["parts"]], rows)
    line = (
        "Each part measured apart: encoder, scan (the RSSM along a sequence) and "
        "decoder forward and backward, imagination (the dreams) forward, for it needs "
        "no gradient; the last column is what is left of the update:"
    )
    return f"\n\n{line}\n\n{shown}"


def sampling_line(report):
    """Return what the replay and the import cost."""
    share = max(case["sampling_share"] for case in report["cases"])
    line = (
        f"\n\nDrawing a batch from the replay takes at most {share:.2%} of an update."
    )
    found = report.get("import_seconds")
    if found:
        more = found["dreamer_lite.dreamer"] - found["torch"]
        line += f" Importing the package takes {more:.2f} s more than importing torch."
    return line


def environment_line(report):
    """Return how fast the environment is beside the bare emulator."""
    found = report.get("environment")
    if not found:
        return ""
    share = found["overhead"]
    overhead = f"overhead {share:.1%}" if share > 0 else "an overhead too small to see"
    return (
        f"\n\n`make_mario` plays {found['make_mario']:,.0f} emulator frames per "
        f"second, the bare emulator {found['bare']:,.0f} ({overhead})."
    )


# Learning


def read_rows(path):
    """Return the rows of a stored table as dictionaries."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stored_runs(root, name):
    """Return {seed: rows of episodes} of the stored runs of a name."""
    paths = sorted((root / "data" / "curves").glob(f"{name}_seed*_episodes.csv"))
    seeds = [re.search(r"_seed(\d+)", path.name).group(1) for path in paths]
    return {seed: read_rows(path) for seed, path in zip(seeds, paths)}


def first_reached(rows, column, bound, width):
    """Return the first row at which the mean of `width` episodes reaches a bound."""
    values = [float(row.get(column) or 0) for row in rows]
    for end in range(width, len(rows) + 1):
        if sum(values[end - width : end]) >= bound * width:
            return rows[end - 1]
    return None


def when(row):
    """Say at which step and minute something was reached."""
    if row is None:
        return "not reached"
    return f"{int(row['step']):,} steps, {float(row['minutes']):.0f} min"


@block("learning")
def learning(root):
    """One row for each stored run of CartPole and Pendulum."""
    rows = []
    for path in sorted((root / "data" / "curves").glob("*_seed*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if "goal" not in run:  # Mario's runs have a table of their own
            continue
        first, final = run["first_at_goal"], run["final"]
        reached = "never"
        if first:
            minutes = float(first["cpu_minutes"])
            reached = f"{int(first['step']):,} steps, {minutes:.0f} CPU min"
        name = f"{run['environment']}, seed {run['seed']}"
        ends = f"{float(final['return']):.0f} after {int(final['step']):,} steps"
        rows.append([name, run["goal"], f"{run['random_return']:.0f}", reached, ends])
    if not rows:
        return "*No stored runs yet: `python tools/curves.py cartpole 0`.*"
    return table(["run", "goal", "random", "at the goal first", "at the end"], rows)


EARLY = 25_000  # agent steps that every stored run of the evening has


@block("mario-curve")
def mario_curve(root):
    """One row for each stored run of the evening, with its milestones."""
    rows, where = [], []
    for seed, episodes in stored_runs(root, "mario").items():
        flags = [first_reached(episodes, "flag_get", 1, 1)]
        flags += [
            first_reached(episodes, "flag_get", share, 50) for share in (0.5, 0.9)
        ]
        far = [mean_x(until(episodes, EARLY)), mean_x(episodes[-50:])]
        rows.append([f"seed {seed}", when(episodes[-1]), *map(when, flags), *far])
        about = read_json(root, f"curves/mario_seed{seed}.json") or {}
        if "hardware" in about:
            where.append(f" Seed {seed}: {about['hardware']}.")
    if not rows:
        return "*No stored runs yet.*"
    head = ["run", "length", "first flag", "50 % flags", "90 % flags"]
    head += [f"mean x at {EARLY:,}", "mean x at the end"]
    found = read_json(root, "mario_evaluation.json") or {"players": {}}
    chance = found["players"].get("random")
    beside = f" A random policy reaches {chance['x_mean']:,.0f}." if chance else ""
    scale = (
        "Length is that at the end of the last episode. Mean x is over 50 episodes; "
        "the flag stands at 3,161."
    )
    return f"{table(head, rows)}\n\n{scale}{beside}{''.join(where)}"


HOUR = 60  # minutes
UPDATES = 1_500, 2_300, 3_500  # at which the stored runs of Mario are compared
# What the runs of a name are called; of other trials their note says it.
KINDS = {"mario": "evening", "mario_hour": "hour", "mario_rates": "twice the rates"}


@block("mario-hour")
def mario_hour(root):
    """One row for each Mario run: its first hour, by updates. Trials come last."""
    curves, rows, early, where = root / "data" / "curves", [], [], []
    paths = curves.glob("mario_*seed*_metrics.csv")
    names = {path.name.rsplit("_seed", 1)[0] for path in paths}
    for name in sorted(names, key=lambda name: (name not in KINDS, name)):
        for seed, episodes in stored_runs(root, name).items():
            metrics = read_rows(curves / f"{name}_seed{seed}_metrics.csv")
            about = read_json(root, f"curves/{name}_seed{seed}.json") or {}
            what = KINDS.get(name) or about.get("note", name)
            flags = [float(r["minutes"]) for r in episodes if float(r["flag_get"])]
            flags = [minutes for minutes in flags if minutes <= HOUR]
            early.append(len(flags))
            first = f"{flags[0]:.0f} min" if flags else ""
            by = [far_after(episodes, metrics, updates) for updates in UPDATES]
            length = f"{min(float(episodes[-1]['minutes']), HOUR):.0f}"
            found = [made(metrics), first, len(flags) or ""]
            rows.append([f"{what}, seed {seed}", length, *found, *by])
            if what == "hour":
                where.append(f" Hour, seed {seed}: {about.get('hardware', 'unknown')}.")
    if not rows:
        return "*No stored runs yet.*"
    head = ["run", f"minutes, at most {HOUR}", "updates by then", "first flag", "flags"]
    shown = table(head + [f"mean x after {count:,}" for count in UPDATES], rows)
    won = f"{sum(map(bool, early))} of {len(early)} runs, {sum(early)} flags in all"
    line = f"A flag within the first {HOUR} minutes: {won}.{''.join(where)}"
    return f"{shown}\n\n{line}"


def made(metrics):
    """Say how many updates a run had made in its first hour."""
    counts = [int(r["updates"]) for r in metrics if float(r["minutes"]) <= HOUR]
    return f"{max(counts, default=0):,}"


def far_after(episodes, metrics, updates):
    """Say how far Mario came when a run had made so many updates: mean ± its error."""
    if int(metrics[-1]["updates"]) < updates:
        return ""
    steps = [int(row["step"]) for row in metrics if int(row["updates"]) <= updates]
    far = [float(row["x_pos"]) for row in until(episodes, max(steps, default=0))]
    if len(far) < 2:
        return ""
    error = statistics.stdev(far) / len(far) ** 0.5
    return f"{statistics.mean(far):,.0f} ± {error:.0f}"


def until(episodes, step):
    """The last 50 episodes that had ended by a step."""
    return [row for row in episodes if int(row["step"]) <= step][-50:]


def mean_x(episodes):
    """Say how far Mario came on average."""
    far = [float(row["x_pos"]) for row in episodes]
    return f"{sum(far) / len(far):,.0f}" if far else ""


@block("evaluation")
def evaluation(root):
    """One table for each stored evaluation of Mario."""
    paths = sorted((root / "data").glob("mario_evaluation*.json"))
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    if not reports:
        return "*Not evaluated yet: `python -m dreamer_lite.mario evaluate`.*"
    return "\n\n".join([*map(evaluation_table, reports), *others_line(root, reports)])


def others_line(root, reports):
    """Say what the same agent did in the episodes of mario_deaths.json, if it did."""
    found = read_json(root, "mario_deaths.json")
    if not found or found["sha256"] != reports[0]["agent"]["sha256"]:
        return []
    share = found["flags"] / found["episodes"]
    return [
        f"In {found['episodes']} other episodes without sticky actions (seed "
        f"{found['seed']}, `python tools/deaths.py`) it takes {found['flags']} flags, "
        f"{share:.2f}. Notebook 10 looks at its deaths there."
    ]


def evaluation_table(report):
    """Return the protocol in one line and a row for each player."""
    rows = []
    for name, found in report["players"].items():
        low, high = found["interval_95"]
        flags = f"{found['flag_rate']:.2f} ({found['flags']}/{found['episodes']})"
        spread = f"{found['return_mean']:.1f} ± {found['return_std']:.1f}"
        interval = f"{low:.2f} to {high:.2f}"
        rows.append([name, flags, interval, f"{found['x_mean']:,.0f}", spread])
    asked, agent, machine = report["protocol"], report["agent"], report["hardware"]
    steps = f" after {agent['steps']:,} steps" if "steps" in agent else ""
    sticky = f", sticky actions {asked['sticky']}" if asked["sticky"] else ""
    line = (
        f"{asked['episodes']} episodes, seed {asked['seed']}, 0 to {asked['noops']} "
        f"no-ops, actions {asked['actions']}{sticky}; agent `{agent['sha256'][:12]}`"
        f"{steps}; commit {report['commit']}; {machine['cpu']}:"
    )
    head = ["player", "flag rate", "95 % interval", "mean x", "return"]
    return f"{line}\n\n{table(head, rows)}"


# Writing and checking


def render(root, text):
    """Return README text with every block written anew."""

    def fill(match):
        name = match.group(1)
        if name not in BLOCKS:
            raise ValueError(
                f"README.md: unknown block '{name}', have {sorted(BLOCKS)}"
            )
        body = BLOCKS[name](root).strip("\n")
        return f"<!-- begin:{name} -->\n{body}\n<!-- end:{name} -->"

    begun = re.findall(r"<!-- begin:([\w-]+) -->", text)
    closed = [match.group(1) for match in MARKED.finditer(text)]
    if begun != closed:
        broken = sorted(set(begun) - set(closed)) or begun
        raise ValueError(f"README.md: block without its end: {', '.join(broken)}")
    return MARKED.sub(fill, text)


def stale(root, text):
    """Return the names of the blocks that are out of date."""
    new = {m.group(1): m.group(2) for m in MARKED.finditer(render(root, text))}
    return [m.group(1) for m in MARKED.finditer(text) if new[m.group(1)] != m.group(2)]


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(argv)
    path = options.root / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
        names = stale(options.root, text)
        if not options.check and names:
            path.write_bytes(render(options.root, text).encode())
    except (OSError, ValueError) as error:
        print(f"readme: {error}", file=sys.stderr)
        return 1
    for name in names:
        state = "is out of date: make readme" if options.check else "written"
        print(f"README.md: block '{name}' {state}")
    return 1 if names and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
