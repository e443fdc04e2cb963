# Generated from notebooks/01_symlog.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""Symmetric logarithm and its inverse: one scale for rewards of any size.

Built in notebook 01. Source: DreamerV3, section "Robust predictions", equation 9.
"""

import numpy as np
import torch
from torch import Tensor


def symlog(x: Tensor | np.ndarray | list | float) -> Tensor:
    """Compress `x` as sign(x) * ln(1 + |x|).

    Args: a tensor, array, list or number of any shape. Returns: a float32 tensor of
    that shape. Nearly the identity around 0, logarithmic far away, odd, and without
    the singularity that a plain logarithm has at 0.
    Source: DreamerV3, equation 9.
    """
    x = torch.as_tensor(x).float()  # log1p in bf16 would lose the small numbers
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor | np.ndarray | list | float) -> Tensor:
    """Undo `symlog`: sign(x) * (exp(|x|) - 1).

    Args: a tensor, array, list or number of any shape. Returns: a float32 tensor of
    that shape. Source: DreamerV3, equation 9.
    """
    x = torch.as_tensor(x).float()
    return torch.sign(x) * torch.expm1(torch.abs(x))
