"""One colour and one line style per quantity, the same in all notebooks.

Colour never carries the meaning alone: every quantity that is drawn as a line also has
a line style, so a figure can be read in grey and by colour-blind readers.
"""

COLORS = {
    "real": "#0072B2",
    "dreamed": "#E08A00",
    "error": "#882255",
    "prior": "#C0659A",
    "posterior": "#009E73",
    "kl": "#332288",
    "reward": "#D55E00",
    "value": "#3C9BD6",
    "return": "#117733",
    "advantage": "#7F6000",
    "continue": "#A3A34A",
    "actor": "#AA4499",
    "critic": "#2F8F87",
    "action": "#CC6677",
    "entropy": "#6A51A3",
    "observation": "#4477AA",
    "embedding": "#B07AA1",
    "memory": "#364B9A",
    "latent": "#B8860B",
    "is_first": "#1F6FB2",
    "is_last": "#E3B505",
    "is_terminal": "#4A0D1F",
    "target": "#222222",
    "naive": "#8C510A",
    "ours": "#3B4CC0",
    "random": "#A0A0A0",
    "threshold": "#555555",
    "neutral": "#777777",
    "ink": "#1F2933",
    "paper": "#FFFFFF",
    "mist": "#EEF1F4",
}

LINESTYLES = {
    "real": "-",
    "dreamed": (0, (6, 2, 1, 2)),
    "error": ":",
    "prior": "--",
    "posterior": "-",
    "kl": "-.",
    "reward": "-.",
    "value": "--",
    "return": "-",
    "advantage": ":",
    "continue": (0, (3, 1, 1, 1, 1, 1)),
    "actor": "-",
    "critic": "--",
    "action": ":",
    "entropy": (0, (5, 1)),
    "target": (0, (1, 1)),
    "naive": "--",
    "ours": "-",
    "random": ":",
    "threshold": (0, (8, 3)),
    "neutral": "-",
}


def line(quantity: str) -> dict:
    """Return the look of a quantity's line: ``ax.plot(x, y, **line("kl"))``."""
    return {"color": COLORS[quantity], "linestyle": LINESTYLES[quantity]}


def use_style() -> None:
    """Set the figure style of the course: small, sharp figures with quiet axes."""
    import matplotlib

    matplotlib.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.figsize": (7.2, 3.4),
            "figure.constrained_layout.use": True,
            "figure.facecolor": COLORS["paper"],
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelcolor": COLORS["ink"],
            "axes.edgecolor": "#9AA5B1",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": matplotlib.cycler(color=_cycle()),
            "grid.color": "#E4E7EB",
            "grid.linewidth": 0.8,
            "lines.linewidth": 2.0,
            "lines.markersize": 5,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "xtick.color": "#52606D",
            "ytick.color": "#52606D",
            "text.color": COLORS["ink"],
            "image.cmap": "cividis",
            "image.interpolation": "nearest",
        }
    )


def _cycle() -> list[str]:
    names = ("real", "dreamed", "posterior", "error", "value", "prior", "neutral")
    return [COLORS[name] for name in names]
