"""The curves on the page about metrics and in the README, drawn from stored runs.

    python tools/reference_figures.py draw [world_model ...]    pictures from tables
    python tools/reference_figures.py train [healthy ...]       the small CartPole runs

`train` takes about ten minutes on one free core and writes data/curves/reference_*:
one run as it should be, and three that are sick on purpose.
"""

import argparse
import csv
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

CURVES = ROOT / "data" / "curves"
FIGURES = ROOT / "notebooks" / "reference" / "figures"
SMALL = dict(batch=8, prefill=500, steps=1400, log_every=10, warmup=100)
RUNS = {  # what is changed
    "healthy": {},
    "actor": {"actor_lr": 2e-2},
    "collapse": {"rep_scale": 100.0},
    "slow": {"lr": 1e-5, "critic_lr": 5e-4, "actor_lr": 2e-4},
}
LABELS = {  # of a run, and the quantity whose colour it has
    "healthy": ("as it should be", "ours"),
    "actor": ("actor's rate times 100", "error"),
    "collapse": ("weight of rep times 1000", "error"),
    "slow": ("model's rate divided by 100", "error"),
    "mario_seed0": ("Mario, seed 0", "ours"),
    "mario_seed1": ("Mario, seed 1", "neutral"),
}
# Each picture: the runs in every panel, then the column of each panel; a column may add
# one more run with a plus. Mario's seed 0 is older than the columns dead and stuck.
LINES = """
world_model: healthy slow: loss/obs loss/reward loss/continue loss/dyn
latent: healthy collapse: loss/dyn entropy/posterior entropy/prior loss/obs
actor: healthy actor: actor/entropy actor/advantage imagined/continue return
critic: healthy slow: loss/critic loss/replay_critic return/mean value/mean
others: healthy: loss/rep+collapse loss/actor+actor return/scale+slow \
imagined/reward+slow
counters: mario_seed0: minutes updates speed/replayed length
ends: mario_seed0 mario_seed1: flag_get dead stuck time
mario: mario_seed0: loss/obs loss/dyn actor/entropy return/scale return x_pos
"""
SPLIT = [line.split(": ") for line in LINES.strip().splitlines()]
PICTURES = {name: (columns.split(), runs.split()) for name, runs, columns in SPLIT}
NATS = set("loss/reward loss/continue loss/dyn loss/rep entropy/prior".split())
NATS |= set("entropy/posterior actor/entropy loss/critic loss/replay_critic".split())
UNITS = dict.fromkeys(NATS, "nats") | {"minutes": "min", "speed/replayed": "rows/s"}
UNITS |= {"length": "steps", "x_pos": "pixels"}
IN_EPISODES = {"return", "x_pos", "length", "flag_get", "dead", "stuck", "time"}
SHARES = {"flag_get", "dead", "stuck"}  # 0 or 1 in each episode: a mean of many
LOGARITHMIC = {("world_model", "loss/obs"), ("world_model", "loss/dyn")}
LOGARITHMIC |= {("others", "imagined/reward"), ("mario", "loss/obs")}


def train(names):
    """Run each configuration once; store its two tables and what made them."""
    from dreamer_lite import dreamer
    from machine import machine

    for name in names:
        changed = RUNS[name]
        command = f"python tools/reference_figures.py train {name}"
        about = {"command": command, "preset": "1m", **SMALL, "changed": changed}
        about |= machine()
        config = dreamer.Config.preset("1m", **SMALL, **changed)
        with tempfile.TemporaryDirectory() as folder:
            dreamer.train("CartPole-v1", config, folder, progress=False)
            for table in ("metrics.csv", "episodes.csv"):
                shutil.copy(Path(folder, table), CURVES / f"reference_{name}_{table}")
        text = json.dumps(about, indent=1) + "\n"
        (CURVES / f"reference_{name}.json").write_text(text, encoding="utf-8")
        print(f"trained {name}", flush=True)


def panels(name):
    """Return [(column, runs)] of a picture."""
    columns, runs = PICTURES[name]
    parts = [column.split("+") for column in columns]
    return [(column, runs + more) for column, *more in parts]


def table_of(run, column):
    """Return the path of the table that has a column of a run."""
    run = f"reference_{run}" if run in RUNS else run
    return CURVES / f"{run}_{'episodes' if column in IN_EPISODES else 'metrics'}.csv"


def source(name):
    """Return one digest of all tables that a picture shows; its file has it, too."""
    paths = {table_of(run, column) for column, runs in panels(name) for run in runs}
    return digest(paths)


def digest(paths):
    """Return one digest of these tables."""
    tables = b"".join(path.read_bytes() for path in sorted(paths))
    return hashlib.sha256(tables).hexdigest()


def in_the_readme():
    """Return the tables of `learning`: hours, evenings, and the one that failed."""
    names = "hour_*", "evening_*", "falling_seed2"
    return [p for n in names for p in sorted(CURVES.glob(f"mario_{n}_episodes.csv"))]


def read(path, *names):
    """Return columns of a stored table, of the rows that have a value in the last."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(names[-1])]
    return [[float(row[name]) for row in rows] for name in names]


def smooth(values, width):
    """Return the mean of the last `width` values at every place."""
    sums = [values[max(0, i + 1 - width) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in sums]


def plain_logarithms():
    """Return a formatter for logarithmic axes that says 0.4 and not 4 x 10^-1."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x, pos=None):
            return f"{x:g}" if super().__call__(x, pos) else ""

    return Plain(minor_thresholds=(2, 0.5))


def picture(name):
    """Draw one picture of the page on metrics."""
    import matplotlib.pyplot as plt

    from course import line

    rows = len(panels(name)) // 2
    fig, axes = plt.subplots(rows, 2, figsize=(7.2, 2.2 * rows), sharex=True)
    for ax, (metric, runs) in zip(axes.flat, panels(name)):
        for run in runs:
            steps, values = read(table_of(run, metric), "step", metric)
            width = 50 if metric in SHARES else 10
            if metric in IN_EPISODES:  # the first means would be of fewer
                steps, values = steps[width - 1 :], smooth(values, width)[width - 1 :]
            label, quantity = LABELS[run]
            ax.plot(steps, values, **line(quantity), label=label)
        many = f" (mean of {width} episodes)" if metric in IN_EPISODES else ""
        ax.set(title=metric + many, ylabel=f"[{UNITS.get(metric, 1)}]")
        if (name, metric) in LOGARITHMIC:
            ax.set_yscale("log")
            for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
                which(plain_logarithms())
        ax.locator_params("x", nbins=5)  # six digits need their room
        if name == "others":
            ax.legend(fontsize=8)
    for ax in axes.flat[-2:]:
        ax.set_xlabel("agent steps [1]")
    if name != "others":
        handles = axes.flat[0].get_legend_handles_labels()
        fig.legend(*handles, loc="outside upper center", ncols=2)
    return fig


def learning():
    """Draw the README's picture: how far Mario gets while the agent learns."""
    import matplotlib.pyplot as plt

    from course import line

    fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.6), sharey=True)
    for path in in_the_readme():
        _, kind, seed, _ = path.stem.split("_")
        at, x = read(path, "minutes" if kind == "hour" else "step", "x_pos")
        look = line("error" if kind == "falling" else "ours")
        look |= {"linestyle": ("-", "--", ":")[int(seed[-1])]}
        look |= {"linewidth": 1 if kind == "falling" else 2}
        ax, label = axes[int(kind != "hour")], f"seed {seed[-1]}"
        ax.plot(at[49:], smooth(x, 50)[49:], **look, label=label)
    units = {"hour": "training [min]", "evening": "agent steps [1]"}
    for ax, (kind, unit) in zip(axes, units.items()):
        ax.axhline(3161, **line("threshold"), label="the flag")
        ax.set(title=f"profile {kind}", xlabel=unit, ylim=(0, 3400))
    axes[0].set(ylabel="x [pixels]")
    axes[0].legend(ncols=2, loc="lower right")
    return fig


def draw(names):
    """Draw pictures from the stored tables."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from course import use_style
    from course.display import figure_png

    use_style()
    for name in names:
        path = FIGURES / f"{name}.png"
        if name == "learning":
            path = ROOT / "data" / "learning.png"
            png = figure_png(learning(), dpi=100, source=digest(in_the_readme()))
        else:
            png = figure_png(picture(name), dpi=80, source=source(name))
        path.write_bytes(png)
        plt.close("all")
        print(f"drawn {path.name}, {len(png) / 1000:.0f} kB", flush=True)


def main(argv=None):
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "draw"])
    parser.add_argument("names", nargs="*", help="of runs or pictures (default: all)")
    options = parser.parse_args(argv)
    known = [*RUNS] if options.what == "train" else [*PICTURES, "learning"]
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"expected some of {known}, but got {', '.join(unknown)}.")
    work = train if options.what == "train" else draw
    work(options.names or known)


if __name__ == "__main__":
    main()
