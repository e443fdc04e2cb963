"""Stored tables as arrays, to draw from."""

from pathlib import Path

import numpy as np

from dreamer_lite.runs import read_table


def read_columns(path: str | Path) -> dict[str, np.ndarray]:
    """Return a CSV file as ``{column: floats}``; an empty cell is nan."""
    rows = read_table(path)
    return {
        key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]
    }


def in_groups(values: np.ndarray, size: int) -> np.ndarray:
    """Cut [N] into whole groups, [N // size, size]; what is left over is dropped."""
    return values[: len(values) // size * size].reshape(-1, size)
