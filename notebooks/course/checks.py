"""Claims about a notebook's results, and comparisons with the truth.

Both print only what holds on any processor: a bound, never a measured last digit. What
does not hold is printed too, so that whoever tries other numbers can go on. Where a
notebook is checked (``DREAMER_LITE_STATIC=1``), it is an error.
"""

import math
import os
import random
import sys
from contextlib import contextmanager

import numpy as np


def static() -> bool:
    """Tell whether notebooks are being checked or stored, without a reader."""
    return os.environ.get("DREAMER_LITE_STATIC", "0") not in ("", "0")


def claim(text: str, condition) -> None:
    """Print whether a claim holds.

    Args:
        text: the claim with its bound: "symlog has less than a tenth of the error".
        condition: one truth value (Python, NumPy or torch).
    """
    holds = bool(condition)
    _report(f"claim: {text} | {'holds' if holds else 'does not hold'}", holds)


def _report(line: str, good: bool) -> None:
    print(line)
    if static() and not good:
        raise AssertionError(line)


def compare(
    name: str, mine, truth, tolerance: float | None = 1e-6, expect: str = "equal"
) -> None:
    """Print how close a result is to the truth.

    Prints bounds, not measured digits: ``name | exact | max difference 0``, ``name |
    close | max difference < 1e-06`` or ``name | different | max difference > 0.1``.
    "exact" is printed only when it is demanded with ``tolerance=0`` (or for integers
    and booleans), since another processor may round the last digit of a float.

    Args:
        name: what is compared, in a few words.
        mine, truth: numbers, arrays or tensors of the same shape.
        tolerance: the largest difference that counts as close; 0 demands every bit.
        expect: "equal", or "different" for a failure that is shown on purpose.
    """
    mine, truth = as_array(mine), as_array(truth)
    if mine.shape != truth.shape:
        raise ValueError(
            f"{name}: the shapes differ, mine is {list(mine.shape)}, "
            f"truth is {list(truth.shape)}."
        )
    gap = _largest_gap(mine, truth)
    if mine.dtype.kind in "iub" and truth.dtype.kind in "iub":
        tolerance = 0
    if gap > tolerance:
        verdict = f"different | max difference > {_decade_below(gap):g}"
    elif tolerance == 0:
        verdict = "exact | max difference 0"
    else:
        verdict = f"close | max difference < {tolerance:g}"
    good = (gap > tolerance) == (expect == "different")
    _report(f"{name} | {verdict}{'' if good else f' | expected: {expect}'}", good)


def as_array(value) -> np.ndarray:
    """Return a number, array or tensor as a NumPy array (bf16 becomes fp32)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        return value.numpy()
    return np.asarray(value)


def _largest_gap(mine: np.ndarray, truth: np.ndarray) -> float:
    if mine.size == 0:
        return 0.0
    mine, truth = mine.astype(np.float64), truth.astype(np.float64)
    same = (mine == truth) | (np.isnan(mine) & np.isnan(truth))
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0.0, np.abs(mine - truth))
    return math.inf if np.isnan(gaps).any() else float(gaps.max())


def _decade_below(gap: float) -> float:
    if math.isinf(gap):
        return 1e300
    return 10.0 ** math.floor(math.log10(gap / 2))


@contextmanager
def same_random_numbers():
    """Leave the global random generators of Python, NumPy and torch as they were."""
    torch = sys.modules.get("torch")
    states = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state() if torch else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch:
            torch.set_rng_state(torch_state)
