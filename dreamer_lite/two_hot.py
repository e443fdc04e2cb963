# Generated from notebooks/02_two_hot.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""Numbers predicted as a distribution over exponentially spaced bins.

Built in notebook 02. Source: DreamerV3, section "Robust predictions", equations 10, 11.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_lite.symlog import symexp


class TwoHot(nn.Module):
    """Encode numbers as two-hot vectors, score logits against them, read them out.

    Args:
        bins: number of bins, odd, so that one bin is exactly 0.
        low, high: the range in symlog space; symmetric, so that the bins mirror.
    Raises: ValueError where the bins could not mirror around 0.
    Source: DreamerV3, equations 10 and 11 (symexp two-hot).
    """

    def __init__(self, bins: int = 255, low: float = -20.0, high: float = 20.0):
        super().__init__()
        if bins < 3 or bins % 2 == 0 or low != -high or high <= 0:
            raise ValueError(
                f"TwoHot expects an odd number of bins, at least 3, and low = -high, "
                f"but got bins={bins}, low={low}, high={high}; choose a range that "
                "mirrors around 0, so that equal probabilities mean exactly 0."
            )
        # One half is computed and mirrored: the bins are antisymmetric to the bit.
        half = symexp(torch.linspace(low, 0.0, bins // 2 + 1))
        mirrored = torch.cat([half, -half[:-1].flip(0)])
        self.register_buffer("bins", mirrored, persistent=False)

    def _neighbours(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower bin's index [...] and the weight of the upper one [...]."""
        y = torch.clamp(y.detach().float(), self.bins[0], self.bins[-1])
        below = torch.searchsorted(self.bins, y.contiguous(), right=True) - 1
        below = below.clamp(0, len(self.bins) - 2)
        lower, upper = self.bins[below], self.bins[below + 1]
        return below, (y - lower) / (upper - lower)

    def encode(self, y: Tensor | float) -> Tensor:
        """Two-hot targets: [...] -> [..., bins], at most two weights, their sum 1.

        The weights are the ones whose weighted bins give back `y`; a number beyond the
        last bin becomes that bin.
        """
        below, weight = self._neighbours(torch.as_tensor(y))
        lower = F.one_hot(below, len(self.bins)) * (1 - weight)[..., None]
        upper = F.one_hot(below + 1, len(self.bins)) * weight[..., None]
        return lower + upper

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross entropy in nats: logits [..., bins], numbers y [...] -> [...].

        Only two log-probabilities enter, so two are gathered and the dense target is
        never built. No gradient flows into `y`.
        """
        if logits.shape[:-1] != y.shape or logits.shape[-1] != len(self.bins):
            raise ValueError(
                f"TwoHot.loss expects logits of shape [..., {len(self.bins)}] with the "
                f"targets' shape in front, but got logits {tuple(logits.shape)} and "
                f"targets {tuple(y.shape)}; drop or add the missing dimension."
            )
        below, weight = self._neighbours(y)
        log_probs = torch.log_softmax(logits.float(), -1)
        pair = torch.stack([below, below + 1], -1)
        lower, upper = log_probs.gather(-1, pair).unbind(-1)
        return -(lower * (1 - weight) + upper * weight)

    def mean(self, logits: Tensor) -> Tensor:
        """Expected number: logits [..., bins] -> [...].

        Mirrored bins are paired before anything is summed: equal probabilities cancel
        to exactly 0, where a plain float32 sum leaves 0.6 or -1.
        """
        probs = torch.softmax(logits.float(), -1)
        half = len(self.bins) // 2
        positive, negative = probs[..., half + 1 :], probs[..., :half].flip(-1)
        return ((positive - negative) * self.bins[half + 1 :]).sum(-1)
