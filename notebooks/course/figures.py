"""Pictures made of game frames: strips of real, dreamed and error, and grids."""

import numpy as np

from course.display import as_frames
from course.style import COLORS
from dreamer_lite import video


def error_frames(real, dreamed) -> np.ndarray:
    """Return how far two clips differ, ``[T, H, W, 3]``: white is right, wine wrong."""
    real, dreamed = as_frames(real, "real"), as_frames(dreamed, "dreamed")
    return video.error_frames(real, dreamed)


def strip(
    real,
    dreamed=None,
    error=None,
    times=None,
    columns=8,
    title=None,
    context=0,
    label="dreamed",
    unit="t",
):
    """Draw the rows ``real / dreamed / error`` over time and return the figure.

    Args:
        real, dreamed: clips ``[T, H, W, C]``, uint8 or floats in 0 to 1.
        error: a third clip; by default the difference of the two.
        times: which steps to show; by default ``columns`` of them, evenly spread.
        columns: how many steps to show.
        title: a line above the strip.
        context: the first so many steps were seen by the model, the rest was dreamed.
        label: the name of the second row.
        unit: what the numbers below count: steps, or frames in any order.
    """
    rows = {"real": as_frames(real, "real")}
    if dreamed is not None:
        rows[label] = as_frames(dreamed, label)
        rows["error"] = (
            error_frames(real, dreamed) if error is None else as_frames(error, "error")
        )
    length = min(len(clip) for clip in rows.values())
    if times is None:
        times = np.unique(
            np.linspace(0, length - 1, min(columns, length)).round().astype(int)
        )
    return _rows(rows, [int(t) for t in times], title, context, unit)


def filmstrips(clips: dict, times, unit: str = "t"):
    """Draw clips ``{name: [T, H, W, C]}`` below each other at the given steps."""
    rows = {name: as_frames(clip, name) for name, clip in clips.items()}
    return _rows(rows, list(times), None, 0, unit)


def _rows(rows: dict, times: list[int], title: str | None, context: int, unit: str):
    first = next(iter(rows.values()))
    cell = min(7.1 / len(times), 1.5)
    height = cell * first.shape[1] / first.shape[2] * len(rows)
    size = (cell * len(times) + 0.9, height + 0.24 + (0.28 if title else 0))
    fig, axes = _sheet(len(rows), len(times), size, title)
    for row, (name, clip) in enumerate(rows.items()):
        for axis, step in zip(axes[row], times, strict=True):
            _image(axis, clip[step])
        axes[row, 0].set_ylabel(
            name, color=COLORS.get(name, COLORS["ink"]), weight="bold"
        )
    for axis, step in zip(axes[-1], times, strict=True):
        seen = " (seen)" if step < context else ""
        axis.set_xlabel(f"{unit} = {step}{seen}", fontsize=8, labelpad=2)
    return fig


def frames_grid(frames, labels=None, columns: int = 8, title: str | None = None):
    """Draw frames ``[N, H, W, C]`` in a grid with labels and return the figure."""
    frames = as_frames(frames, "frames")
    labels = [""] * len(frames) if labels is None else labels
    columns = min(columns, len(frames))
    count = -(-len(frames) // columns)
    cell = min(8.0 / columns, 1.6)
    tall = cell * frames.shape[1] / frames.shape[2] + (0.2 if any(labels) else 0.04)
    size = (cell * columns, tall * count + (0.28 if title else 0))
    fig, axes = _sheet(count, columns, size, title)
    for axis in axes.flat[len(frames) :]:
        axis.axis("off")
    for axis, (image, label) in zip(axes.flat, zip(frames, labels, strict=True)):
        _image(axis, image)
        axis.set_xlabel(label, fontsize=8, labelpad=2)
    return fig


def zoomed(frames, labels, middle, radius: int = 12):
    """Draw frames ``[N, H, W, C]``, and below each the square around one pixel.

    Args:
        frames, labels: as in ``frames_grid``.
        middle: row and column of the pixel in the middle of the square.
        radius: how far the square reaches from it, in pixels.
    """
    import matplotlib.pyplot as plt

    frames, (y, x) = as_frames(frames, "frames"), middle
    fig, axes = plt.subplots(
        2, len(frames), figsize=(1.6 * len(frames), 3.4), layout="constrained"
    )
    edge = COLORS["error"]
    for (whole, detail), image, label in zip(axes.T, frames, labels, strict=True):
        whole.imshow(image)
        corner = (x - radius - 0.5, y - radius - 0.5)
        size = 2 * radius + 1
        look = {"fill": False, "edgecolor": edge, "linewidth": 1.5}
        whole.add_patch(plt.Rectangle(corner, size, size, **look))
        whole.set_xlabel(label, fontsize=8, labelpad=2)
        detail.imshow(image[y - radius : y + radius + 1, x - radius : x + radius + 1])
        _frame(whole, "#9AA5B1", 0.8)
        _frame(detail, edge, 1.5)
    return fig


def side_by_side(*clips, gap: int = 4) -> np.ndarray:
    """Join clips ``[T, H, W, C]`` left to right into one, for ``show_gif``."""
    clips = [as_frames(clip, "every clip") for clip in clips]
    clips = [np.repeat(c, 3, axis=-1) if c.shape[-1] == 1 else c for c in clips]
    between = np.full((*clips[0].shape[:2], gap, 3), 255, np.uint8)
    parts = [part for clip in clips for part in (between, clip)][1:]
    return np.concatenate(parts, axis=2)


def _sheet(rows: int, columns: int, size: tuple, title: str | None):
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained"
    )
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
    return fig, axes


def _image(axis, image) -> None:
    axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    _frame(axis, "#9AA5B1", 0.8)


def _frame(axis, color: str, width: float) -> None:
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=width)
