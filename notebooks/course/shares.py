"""How much each loss of the world model contributes, as bars."""

from course.style import COLORS

QUANTITY = {
    "obs": "observation",
    "reward": "reward",
    "continue": "continue",
    "dyn": "prior",
    "rep": "posterior",
}
WORTH_NAMING = 0.08  # of a bar


def loss_shares(bars: dict[str, dict[str, float]]):
    """Draw one bar of 100 % for each entry; return the figure and its alt sentence.

    Args: bars: {name of the bar: {loss: its value or the length of its gradient}}.
    """
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(8, 0.55 * len(bars) + 0.9))
    said = []
    for name, amounts in reversed(bars.items()):
        total, left, large = sum(amounts.values()), 0.0, []
        for loss, amount in amounts.items():
            share = amount / total
            label = loss if name == next(iter(bars)) else None
            color = COLORS[QUANTITY[loss]]
            axis.barh(name, share, left=left, color=color, label=label)
            if share > WORTH_NAMING:
                text = f"{loss} {share:.0%}" if share > 0.12 else f"{share:.0%}"
                middle = {"ha": "center", "va": "center", "color": "white"}
                axis.text(left + share / 2, name, text, fontsize=9, **middle)
                large.append(loss)
            left += share
        said.insert(0, f"{name}: {' and '.join(large)}")
    axis.set(xlim=(0, 1), xlabel="share of all terms [1]")
    axis.grid(False)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    axis.legend(ncols=len(QUANTITY), **place)
    return fig, f"The largest shares of the loss: {'; '.join(said)}."
