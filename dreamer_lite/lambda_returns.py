# Generated from notebooks/07_lambda_returns.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""How far to look ahead: lambda-returns, and the scale that makes them comparable.

Built in notebook 07. Source: DreamerV3, sections "Critic learning" (equation 5) and
"Actor learning" (equation 7).
"""

import torch
from torch import Tensor, nn


def lambda_return(
    reward: Tensor, value: Tensor, cont: Tensor, lam: float | Tensor = 0.95
) -> Tensor:
    """Bootstrapped lambda-returns of states s_0..s_{H-1}.

    R_H = value_H;
    R_t = reward_{t+1} + cont_{t+1} * ((1 - lam) * value_{t+1} + lam * R_{t+1}).

    Args:
        reward, value, cont: [B, H+1], aligned with states s_0..s_H; the reward arrives
            with its state, and `cont` already contains the discount.
        lam: a number, or a tensor [B, H+1] (0 stops the look ahead there).
    Returns: [B, H]. Raises: ValueError for shapes that differ or have no future.
    Source: DreamerV3, equation 5; with `lam` as a tensor also the critic's replay loss.
    """
    lam = lam if torch.is_tensor(lam) else torch.full_like(value, lam)
    shapes = [tuple(x.shape) for x in (reward, value, cont, lam)]
    if len(set(shapes)) > 1 or value.dim() != 2 or value.shape[1] < 2:
        raise ValueError(
            "lambda_return expects reward, value, cont (and lam, if it is a tensor) of "
            f"one shape [B, H+1] with H at least 1, but got {shapes}; give one number "
            "for each of the states s_0..s_H."
        )
    ret, returns = value[:, -1], []
    for t in reversed(range(value.shape[1] - 1)):
        mixed = (1 - lam[:, t + 1]) * value[:, t + 1] + lam[:, t + 1] * ret
        ret = reward[:, t + 1] + cont[:, t + 1] * mixed
        returns.append(ret)
    return torch.stack(returns[::-1], 1)


class ReturnNormalizer(nn.Module):
    """Running spread of the returns: what an advantage is divided by.

    An exponential moving average of the 5th and 95th percentile, from 0 and without
    bias correction, and never a divisor below 1, so that small returns (sparse rewards,
    noise) are not blown up.
    Args: rate, the share of the newest batch; low, high, the two percentiles; limit,
    the smallest divisor. Source: DreamerV3, equations 6 and 7.
    """

    def __init__(
        self,
        rate: float = 0.01,
        low: float = 0.05,
        high: float = 0.95,
        limit: float = 1.0,
    ):
        super().__init__()
        self.rate, self.limit = rate, limit
        self.register_buffer("quantiles", torch.tensor([low, high]), persistent=False)
        self.register_buffer("range", torch.zeros(2))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take in a batch of returns (any shape)."""
        percentiles = torch.quantile(returns.detach().float().flatten(), self.quantiles)
        self.range.lerp_(percentiles, self.rate)

    @property
    def scale(self) -> Tensor:
        """The divisor, a tensor of no dimensions, at least `limit`."""
        return (self.range[1] - self.range[0]).clamp(min=self.limit)
