# Generated from notebooks/06_world_model.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""The world model: everything that learns from what really happened.

Built in notebook 06. Source: DreamerV3, section "World model learning", equations 2, 3.
"""

from collections.abc import Iterable, Sequence

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_lite.config import Config
from dreamer_lite.networks import MLP, Decoder, Encoder, TwoHotHead, keys_of
from dreamer_lite.replay import read_spaces
from dreamer_lite.rssm import RSSM, State
from dreamer_lite.two_hot import TwoHot


def previous_actions(action: Tensor) -> Tensor:
    """Shift the action column by one: [B, T, A], row t holds the action of row t - 1.

    The replay stores the action chosen after seeing a row; the model wants the one that
    led to it. The first row of a window gets zeros. Source: DreamerV3, equation 1.
    """
    return torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], 1)


def as_tensors(
    batch: dict, device: torch.device | str | None = None
) -> dict[str, Tensor]:
    """Turn the arrays of `Replay.sample` into tensors. Source: none, bookkeeping."""
    return {key: torch.as_tensor(value, device=device) for key, value in batch.items()}


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder, reward head and continue head, with their losses.

    Args:
        spaces: a Dict of observations.
        action_space: the space of actions.
        config: the sizes of all parts; `discount`, which the continue head learns as a
            soft label; `free_nats`, `dyn_scale` and `rep_scale` of the KL;
            `vector_scale`, the weight of the error of every vector.

    Source: DreamerV3, equations 1 to 3.
    """

    def __init__(
        self, spaces: gym.spaces.Dict, action_space: gym.Space, config: Config
    ):
        super().__init__()
        self.config, c = config, config
        self.fields = read_spaces(spaces, action_space)
        self.encoder = Encoder(spaces, depth=c.depth, units=c.units)
        self.rssm = RSSM(
            self.encoder.size,
            self.fields["action"].width,
            deter=c.deter,
            units=c.units,
            latents=c.latents,
            classes=c.classes,
            blocks=c.blocks,
            unimix=c.unimix,
        )
        self.decoder = Decoder(
            spaces,
            deter=c.deter,
            stoch=c.latents * c.classes,
            depth=c.depth,
            units=c.units,
            blocks=c.blocks,
        )
        vectors = keys_of(self.decoder.fields, "vector")
        self.scales = dict.fromkeys(vectors, c.vector_scale)  # of other terms: 1
        self.scales |= {"dyn": c.dyn_scale, "rep": c.rep_scale}
        self.two_hot, feature = TwoHot(), self.rssm.feature_size
        self.reward = MLP(feature, c.units, 1).append(TwoHotHead(c.units))
        self.cont = MLP(feature, c.units, 1, 1)

    def predict_reward(self, feature: Tensor) -> Tensor:
        """Expected reward that arrives with a state: [..., F] -> [...]."""
        return self.two_hot.mean(self.reward(feature))

    def predict_continue(self, feature: Tensor) -> Tensor:
        """Probability that it continues, times the discount: [..., F] -> [...]."""
        return torch.sigmoid(self.cont(feature).float()).squeeze(-1)

    def observe(self, batch: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """Encode a batch and follow it: what `RSSM.observe` returns, for all rows."""
        embed = self.encoder(batch)
        action = previous_actions(batch["action"])
        return self.rssm.observe(embed, action, batch["is_first"])

    def loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor], State]:
        """The loss of a batch of rows, as `Replay.sample` gives them.

        Args:
            batch: {key: [B, T, ...]}.

        Returns:
            The loss, a scalar; metrics {name: tensor without gradient}; the posterior
            states [B, T, ...], through which gradients still flow.

        Source: DreamerV3, equations 2 and 3.
        """
        states, posterior, prior = self.observe(batch)
        losses = self._losses(states.feature, posterior, prior, batch)
        means = {key: value.mean() for key, value in losses.items()}
        total = sum(self.scales.get(key, 1.0) * mean for key, mean in means.items())
        metrics = {f"loss/{key}": mean.detach() for key, mean in means.items()}
        with torch.no_grad():
            for name, logits in {"posterior": posterior, "prior": prior}.items():
                entropy = -(logits.exp() * logits).sum((-1, -2)).mean()
                metrics[f"entropy/{name}"] = entropy
        return total, metrics, states

    def _losses(
        self,
        feature: Tensor,
        posterior: Tensor,
        prior: Tensor,
        batch: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Every term of equations 2 and 3 for every row: {name: [B, T]}."""
        losses = self.decoder.loss(self.decoder(feature), batch)
        losses["reward"] = self.two_hot.loss(self.reward(feature), batch["reward"])
        goes_on = (~batch["is_terminal"].bool()).float() * self.config.discount
        logit = self.cont(feature).float().squeeze(-1)
        losses["continue"] = F.binary_cross_entropy_with_logits(
            logit, goes_on, reduction="none"
        )
        dyn, rep = self.rssm.kl_loss(posterior, prior, self.config.free_nats)
        return losses | {"dyn": dyn, "rep": rep}

    @torch.no_grad()
    def dream(self, batch: dict, context: int = 5) -> dict[str, Tensor]:
        """Open-loop prediction: look at `context` rows, then dream the rest.

        A dream has no resets: judge it on windows whose episode does not end after the
        context.

        Args:
            batch: as in `loss`. The last row's action leads out of it and is not used.
            context: how many rows are seen, from 1 to T - 1.

        Returns:
            {key: [B, T, ...]}, reconstructions for the first rows, then predictions:
            images [..., H, W, C] in [0, 1], vectors [..., n] in symlog units (`symexp`
            undoes it), choices [..., n] and texts [..., L, 256] as logits.

        Raises:
            ValueError: for another context.
        """
        length = batch["reward"].shape[1]
        if not 1 <= context < length:
            raise ValueError(
                f"dream expects a context of at least 1 and fewer than the {length} "
                f"rows of the batch, but got {context}; change it or pass more rows."
            )
        past = {key: value[:, :context] for key, value in batch.items()}
        states, _, _ = self.observe(past)
        last = states.map(lambda x: x[:, -1])
        actions = batch["action"][:, context - 1 : length - 1]
        future, _ = self.rssm.imagine(last, actions, length - context)
        feature = torch.cat([states.feature, future.feature[:, 1:]], 1)
        return self.decoder(feature)


class LaProp(torch.optim.Optimizer):
    """RMSProp-normalised gradients with momentum afterwards, and adaptive clipping.

    For each parameter tensor p with gradient g: clip g to `clip` times the norm of p
    (at least 1e-3), divide by the root of its running square, then average. Everything,
    the step count too, is a tensor: nothing waits, so a CUDA graph can hold it.

    Args:
        params: tensors, or groups with their own `lr`.
        lr: learning rate.
        betas: how slowly momentum and square forget.
        eps: added to the divisor.
        clip: of the adaptive gradient clipping, 0 for none.
        warmup: updates in which the learning rate rises linearly from 0.
        parts: of equal size, into which a tensor is cut for clipping, for a group whose
            tensors hold several layers.

    Source: DreamerV3, Methods, "Optimizer".
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 4e-5,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        clip: float = 0.3,
        warmup: int = 0,
        parts: int = 1,
    ):
        rates = dict(lr=lr, betas=betas, eps=eps, clip=clip, warmup=warmup)
        super().__init__(params, rates | {"parts": parts})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "step": torch.zeros((), device=p.device),
                    "momentum": torch.zeros_like(p),
                    "square": torch.zeros_like(p),
                }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)

    def _update(self, group: dict, params: list[Tensor]) -> None:
        momentum_rate, square_rate = group["betas"]
        states = [self.state[p] for p in params]
        momentum = [s["momentum"] for s in states]
        square = [s["square"] for s in states]
        grads = [p.grad for p in params]
        grads = self._clip(grads, params, group["clip"], group["parts"])
        step = states[0]["step"]  # all parameters of a group step together
        lr = group["lr"] * (step / max(group["warmup"], 1)).clamp(max=1.0)
        if not group["warmup"]:
            lr = torch.full_like(step, group["lr"])
        torch._foreach_add_([s["step"] for s in states], 1.0)
        torch._foreach_lerp_(square, torch._foreach_mul(grads, grads), 1 - square_rate)
        scale = torch._foreach_div(square, 1 - square_rate**step)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_lerp_(
            momentum, torch._foreach_div(grads, scale), 1 - momentum_rate
        )
        change = torch._foreach_mul(momentum, -lr / (1 - momentum_rate**step))
        torch._foreach_add_(params, change)

    @staticmethod
    def _clip(
        grads: Sequence[Tensor], params: Sequence[Tensor], clip: float, parts: int = 1
    ) -> Sequence[Tensor]:
        """Adaptive gradient clipping: no gradient above `clip` times its tensor."""
        if parts > 1:
            cut = [
                [half for t in ts for half in t.chunk(parts)] for ts in (grads, params)
            ]
            done = LaProp._clip(*cut, clip)
            starts = range(0, len(done), parts)
            return [torch.cat(done[i : i + parts]) for i in starts]
        limit = torch._foreach_norm(params)
        torch._foreach_clamp_min_(limit, 1e-3)
        torch._foreach_mul_(limit, clip or float("inf"))
        ratio = torch._foreach_div(torch._foreach_norm(grads), limit)
        torch._foreach_clamp_min_(ratio, 1.0)
        return torch._foreach_div(grads, ratio)
