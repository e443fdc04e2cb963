"""Time drawn from left to right: rows of the replay, and returns."""

from collections.abc import Sequence

import torch

from course.drawing import INK, QUIET, Sheet
from course.style import COLORS
from dreamer_lite.lambda_returns import lambda_return

EPISODE = (
    {"obs": "x0", "action": "right", "reward": 0.0, "is_first": True},
    {"obs": "x1", "action": "right", "reward": 1.0},
    {"obs": "x2", "action": "jump", "reward": 1.0},
    {"obs": "x3", "action": "right", "reward": -2.0}
    | dict.fromkeys(("is_last", "is_terminal"), True),
    {"obs": "x0", "action": "right", "reward": 0.0, "is_first": True},
    {"obs": "x1", "action": "jump", "reward": 1.0},
)
ROWS = (
    ("observation", "observation"),
    ("reward", "reward"),
    ("action stored", "action"),
    ("action read", "memory"),
    ("flags", "neutral"),
)
SHAPES = ("[B, T, ...]", "[B, T]", "[B, T, A]", "[B, T, A]", "[B, T] each")


def alignment(rows: Sequence[dict] | None = None):
    """Draw stored replay rows as columns and return the figure and its alt sentence.

    Args:
        rows: dicts with ``obs`` (a short name), ``action`` (a short name), ``reward``
            and, where true, ``is_first``, ``is_last``, ``is_terminal``; by default a
            short Mario episode that ends in a pit and the beginning of the next one.
    """
    rows = list(EPISODE if rows is None else rows)
    sheet = Sheet(800, 376)
    wide = (800 - 128) / len(rows)
    for level, (name, quantity) in enumerate(ROWS):
        y = 74 + 56 * level
        look = {"size": 9.5, "weight": "bold", "color": COLORS[quantity]}
        sheet.text(112, y, name, ha="right", **look)
        sheet.note(112, y + 16, SHAPES[level], size=7.8, ha="right")
    for index in range(len(rows)):
        _column(sheet, rows, index, 124 + wide * index, wide)
    sheet.text(126, 348, _EXPLAINED, size=8.5, color=QUIET, ha="left", linespacing=1.5)
    alt = (
        f"Time alignment of {len(rows)} replay rows: a reward arrives with the frame "
        "that its action led to, and the model reads each action one column later, "
        "zero after a reset."
    )
    return sheet.fig, alt


_EXPLAINED = (
    "One column is one stored row: the reward came with the frame, the action was "
    "chosen after it.\nThe model reads the action of the row before, and zeros after "
    "a reset."
)


def _column(sheet, rows, index, x, wide):
    """Draw one stored row and the arrows to the next one."""
    row, middle, half = rows[index], x + wide / 2, min(wide / 2 - 10, 46)
    first, last = row.get("is_first", False), row.get("is_last", False)
    if first:
        look = {"face": "#F0F4F8", "edge": "none", "round": 8, "layer": 0}
        sheet.box(x + 2, 26, wide - 4, 300, **look)
    sheet.note(middle, 38, f"row {index}{': reset' if first else ''}", size=8.5)
    previous = "0" if first or index == 0 else rows[index - 1]["action"]
    action = "0" if last else row["action"]
    texts = (row["obs"], f"{row['reward']:g}", action, previous, _flags(row))
    for level, ((_, quantity), text) in enumerate(zip(ROWS, texts, strict=True)):
        y = 74 + 56 * level
        look = {"edge": COLORS[quantity], "width": 1.8}
        if level == 4:
            look = {"edge": "#CBD2D9", "width": 1}
        elif text == "0" and level > 1:
            look["style"] = (0, (3, 2))
        sheet.box(middle - half, y - 17, 2 * half, 34, text, size=9, **look)
    if index + 1 < len(rows) and not last:
        _onward(sheet, middle, half, wide)


def _flags(row) -> str:
    names = [n for n in ("first", "last", "terminal") if row.get(f"is_{n}")]
    return "+".join(names).replace("last+terminal", "last, term.") or "-"


def _onward(sheet, middle, half, wide):
    """Draw that an action leads to the next row and is read there."""
    start, edge = middle + half, middle + wide - half
    joint = (start + edge) / 2
    color = COLORS["action"]
    sheet.arrow((start, 186), (joint, 186), (joint, 74), (edge, 74), color=color)
    sheet.arrow((joint, 130), (edge, 130), color=COLORS["reward"])
    sheet.arrow((joint, 186), (joint, 242), (edge, 242), color=COLORS["memory"])


def lambda_recursion(reward, value, cont, lam: float = 0.95):
    """Draw the lambda-return, computed backwards; return figure and alt sentence.

    Args:
        reward, value, cont: ``[H+1]`` numbers aligned with s_0..s_H, H at most 5;
            ``cont`` already contains the discount.
        lam: lambda, how far the return trusts what was imagined.
    """
    reward, value, cont = ([float(v) for v in seq] for seq in (reward, value, cont))
    horizon = len(value) - 1
    returns = lambda_return(*(torch.tensor([x]) for x in (reward, value, cont)), lam)
    returns = [*returns[0].tolist(), value[-1]]
    sheet = Sheet(800, 344)
    wide = (800 - 90) / (horizon + 1)
    rows = (
        ("reward", reward, 84),
        ("continue", cont, 134),
        ("value", value, 184),
        ("return", returns, 264),
    )
    for name, _, y in rows:
        sheet.text(76, y, name, size=9.5, ha="right", weight="bold", color=COLORS[name])
    for t in range(horizon + 1):
        _step(sheet, rows, t, horizon, 86 + wide * (t + 0.5), wide)
    text = r"$R_t = r_{t+1} + c_{t+1}\,((1-\lambda)\,v_{t+1} + \lambda R_{t+1})$"
    text += rf"     with $\lambda = {lam:g}$, from right to left"
    sheet.text(90, 322, text, size=10.5, ha="left")
    alt = (
        f"The lambda-return over {horizon} steps, computed from right to left: it "
        f"starts as the last value, {value[-1]:.2f}, and ends as {returns[0]:.2f} at "
        "the first state."
    )
    return sheet.fig, alt


def _step(sheet, rows, t, horizon, middle, wide):
    """Draw the numbers of one imagined state and how they reach the return before."""
    half = min(34, wide / 2 - 18)
    sheet.text(middle, 40, rf"$s_{t}$", size=13)
    for name, numbers, y in rows:
        used = t > 0 or name == "return"
        look = {"edge": COLORS[name], "width": 1.8} if used else {"edge": "#CBD2D9"}
        look["face"] = "#EAF4EC" if name == "return" else "white"
        look["color"] = INK if used else QUIET
        look["weight"] = "bold" if name == "return" else "normal"
        words = f"{numbers[t]:.2f}"
        sheet.box(middle - half, y - 17, 2 * half, 34, words, size=9.5, **look)
    if t == horizon:
        sheet.arrow((middle, 201), (middle, 247), color=COLORS["value"])
        sheet.note(middle + 6, 225, "bootstrap", size=8, ha="left")
    if t:
        left = middle - wide / 2
        for _, _, y in rows[:3]:
            sheet.line((middle - half, y), (left, y), width=1.2)
        sheet.line((left, 84), (left, 264), width=1.2)
        sheet.line((middle - half, 264), (left, 264), width=1.2)
        sheet.arrow((left, 264), (left - wide / 2 + half, 264))
