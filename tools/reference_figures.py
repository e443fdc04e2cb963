"""The curves of the page on metrics: small real runs, healthy and sick on purpose.

    python tools/reference_figures.py train    CartPole -> data/curves/reference_*.csv
    python tools/reference_figures.py draw     tables -> notebooks/reference/figures/

`train` takes about ten minutes on one free core. `draw` reads the stored tables only.
"""

import argparse
import csv
import hashlib
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CURVES = ROOT / "data" / "curves"
FIGURES = ROOT / "notebooks" / "reference" / "figures"
# One run as it should be, and three that differ from it in the one setting named.
SMALL = dict(batch=8, prefill=500, steps=1400, log_every=10, warmup=100)
RUNS = {
    "healthy": {},
    "actor": {"actor_lr": 2e-2},
    "collapse": {"rep_scale": 100.0},
    "slow": {"lr": 1e-5},
}


def train(names):
    """Run each configuration once; store its two tables and what made them."""
    from curves import describe_machine
    from dreamer_lite import dreamer

    CURVES.mkdir(parents=True, exist_ok=True)
    configs = {n: dreamer.Config.preset("1m", **{**SMALL, **RUNS[n]}) for n in names}
    here = {name: describe_machine(config) for name, config in configs.items()}
    for name, config in configs.items():
        command = f"python tools/reference_figures.py train {name}"
        about = {"command": command, "preset": "1m", **SMALL, "changed": RUNS[name]}
        about |= here[name]
        with tempfile.TemporaryDirectory() as folder:
            dreamer.train("CartPole-v1", config, folder, progress=False)
            for table in ("metrics", "episodes"):
                text = (Path(folder) / f"{table}.csv").read_text(encoding="utf-8")
                path = CURVES / f"reference_{name}_{table}.csv"
                path.write_text(text, encoding="utf-8")
        text = json.dumps(about, indent=1) + "\n"
        (CURVES / f"reference_{name}.json").write_text(text, encoding="utf-8")
        print(f"trained {name}", flush=True)


# What each picture shows: (column, axis label) on a grid, and the runs drawn in it. A
# third entry names the sick run of one panel.
PICTURES = {
    "world_model": (
        [("loss/obs", "1"), ("loss/reward", "nats")]
        + [("loss/continue", "nats"), ("loss/dyn", "nats")],
        ["healthy", "slow"],
    ),
    "latent": (
        [("loss/dyn", "nats"), ("entropy/posterior", "nats")]
        + [("entropy/prior", "nats"), ("loss/obs", "1")],
        ["healthy", "collapse"],
    ),
    "actor": (
        [("actor/entropy", "nats"), ("actor/advantage", "1")]
        + [("imagined/continue", "1"), ("return", "1")],
        ["healthy", "actor"],
    ),
    "critic": (
        [("loss/critic", "nats"), ("loss/replay_critic", "nats")]
        + [("return/mean", "1"), ("value/mean", "1")],
        ["healthy", "slow"],
    ),
    "others": (
        [("loss/rep", "nats", "collapse"), ("loss/actor", "1", "actor")]
        + [("return/scale", "1", "slow"), ("imagined/reward", "1", "slow")],
        ["healthy"],
    ),
    "counters": (
        [("minutes", "min"), ("updates", "1")]
        + [("speed/replayed", "rows/s"), ("length", "steps")],
        ["mario_seed0"],
    ),
    "ends": (  # seed 0 is older than the columns dead and stuck
        [("flag_get", "1"), ("dead", "1"), ("stuck", "1"), ("time", "1")],
        ["mario_seed0", "mario_seed1"],
    ),
    "mario": (
        [("loss/obs", "1"), ("loss/dyn", "nats"), ("actor/entropy", "nats")]
        + [("return/scale", "1"), ("return", "1"), ("x_pos", "pixels")],
        ["mario_seed0"],
    ),
}
LABELS = {
    "healthy": ("as it should be", "ours"),
    "actor": ("actor's rate times 100", "error"),
    "collapse": ("weight of rep times 1000", "error"),
    "slow": ("model's rate divided by 100", "error"),
    "mario_seed0": ("Mario, seed 0", "ours"),
    "mario_seed1": ("Mario, seed 1", "neutral"),
}
IN_EPISODES = {"return", "x_pos", "length", "flag_get", "dead", "stuck", "time"}
SHARES = {"flag_get", "dead", "stuck"}  # 0 or 1 in each episode: a mean of many
LOGARITHMIC = {
    ("world_model", "loss/obs"),
    ("world_model", "loss/dyn"),
    ("others", "imagined/reward"),
    ("mario", "loss/obs"),
}


def table_of(run, name):
    """Return the path of the table that has a column of a run."""
    prefix = run if run.startswith("mario") else f"reference_{run}"
    table = "episodes" if name in IN_EPISODES else "metrics"
    return CURVES / f"{prefix}_{table}.csv"


def source(name):
    """Return one digest of all tables that a picture shows; stored in its file."""
    metrics, runs = PICTURES[name]
    pairs = [(run, m[0]) for m in metrics for run in [*runs, *m[2:]]]
    paths = sorted({table_of(*pair) for pair in pairs})
    tables = b"".join(path.read_bytes() for path in paths if path.is_file())
    return hashlib.sha256(tables).hexdigest()


def column(run, name):
    """Return (steps, values) of a column of a stored run, empty before it exists."""
    path = table_of(run, name)
    if not path.is_file():
        return [], []
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    return [int(row["step"]) for row in rows], [float(row[name]) for row in rows]


def smooth(values, width):
    """Return the mean of the last `width` values at every place."""
    sums = [values[max(0, i + 1 - width) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in sums]


def plain_logarithms():
    """A formatter for logarithmic axes that says 0.4 and not 4 x 10^-1."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x, pos=None):
            return f"{x:g}" if super().__call__(x, pos) else ""

    return Plain(minor_thresholds=(2, 0.5))


def picture(name):
    """Draw one picture of the page."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from course import line, use_style

    use_style()
    metrics, runs = PICTURES[name]
    rows = len(metrics) // 2
    fig, axes = plt.subplots(rows, 2, figsize=(7.2, 2.2 * rows), sharex=True)
    for ax, (metric, unit, *sick) in zip(axes.flat, metrics):
        for run in [*runs, *sick]:
            steps, values = column(run, metric)
            width = 50 if metric in SHARES else 10
            if metric in IN_EPISODES:  # the first means would be of fewer
                steps, values = steps[width - 1 :], smooth(values, width)[width - 1 :]
            label, quantity = LABELS[run]
            ax.plot(steps, values, **line(quantity), label=label)
        many = f" (mean of {width} episodes)" if metric in IN_EPISODES else ""
        ax.set(title=metric + many, ylabel=f"[{unit}]")
        if (name, metric) in LOGARITHMIC:
            ax.set_yscale("log")
            for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
                which(plain_logarithms())
        ax.locator_params("x", nbins=5)  # six digits need their room
        if sick:
            ax.legend(fontsize=8)
    for ax in axes.flat[-2:]:
        ax.set_xlabel("agent steps [1]")
    if axes.flat[0].get_legend() is None:
        handles = axes.flat[0].get_legend_handles_labels()
        fig.legend(*handles, loc="outside upper center", ncols=2)
    return fig


def draw(names):
    """Draw pictures from the stored tables."""
    import matplotlib.pyplot as plt

    from course.display import figure_png

    FIGURES.mkdir(parents=True, exist_ok=True)
    for name in names:
        fig = picture(name)
        png = figure_png(fig, dpi=80, source=source(name))
        (FIGURES / f"{name}.png").write_bytes(png)
        plt.close(fig)
        size = (FIGURES / f"{name}.png").stat().st_size
        print(f"drawn {name}.png, {size / 1000:.0f} kB", flush=True)


def main(argv=None):
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "draw"])
    text = "runs to train or pictures to draw (default: all)"
    parser.add_argument("names", nargs="*", help=text)
    options = parser.parse_args(argv)
    work, known = (train, RUNS) if options.what == "train" else (draw, PICTURES)
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(
            f"expected some of {', '.join(known)}, but got {', '.join(unknown)}; "
            "correct the names or give none for all."
        )
    work(options.names or list(known))


if __name__ == "__main__":
    main()
