# Generated from notebooks/05_rssm.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""The recurrent state-space model: a memory `h` that knows, a latent `z` that guesses.

Built in notebook 05. Source: DreamerV3, section "World model learning", equations 1, 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_lite.networks import MLP, BlockLinear, Linear, RMSNorm


class State(NamedTuple):
    """Model state: `h` [..., D] deterministic, `z` [..., latents, classes] one-hot.

    Source: DreamerV3, equation 1.
    """

    h: Tensor
    z: Tensor

    @property
    def feature(self) -> Tensor:
        """What every head reads: h and flat z side by side, [..., D + S]."""
        return torch.cat([self.h, self.z.flatten(-2).to(self.h.dtype)], -1)

    def map(self, fn: Callable[[Tensor], Tensor]) -> "State":
        """Apply `fn` to both parts: detach, flatten, index, move to a device."""
        return State(fn(self.h), fn(self.z))


class SequenceModel(nn.Module):
    """Block GRU, the function f of equation 1: h_t = f(h_{t-1}, z_{t-1}, a_{t-1}).

    Args:
        stoch: width of flat z.
        action_size: A.
        deter: D.
        units: width of the inner layers.
        blocks: of the block-diagonal layers; 1 gives the dense cell.

    Source: DreamerV3, equation 1 and Methods, "Networks".
    """

    def __init__(
        self,
        stoch: int,
        action_size: int,
        *,
        deter: int,
        units: int,
        blocks: int,
    ):
        super().__init__()
        self.action_size, self.deter, self.blocks = action_size, deter, blocks
        self.from_h = MLP(deter, units)
        self.from_z = MLP(stoch, units)
        self.from_a = MLP(action_size, units)
        self.core = BlockLinear(deter + 3 * units * blocks, deter, blocks)
        self.core_norm = RMSNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def embed_action(self, action: Tensor) -> Tensor:
        """Actions [..., A] -> [..., units]; an unbounded sample is capped at 1."""
        size = action.abs().clamp(min=1.0).detach()
        return self.from_a(action / size)

    def advance(self, state: State, action_part: Tensor) -> Tensor:
        """One step: state [B, ...] and `embed_action` of its action -> h_t [B, D]."""
        h = state.h.to(action_part.dtype)
        inputs = [self.from_h(h), self.from_z(state.z.flatten(-2)), action_part]
        shared = torch.cat(inputs, -1)[:, None].expand(-1, self.blocks, -1)
        own = h.unflatten(-1, (self.blocks, -1))  # each block sees its own slice of h
        x = self.core(torch.cat([own, shared], -1).flatten(-2))
        gates = self.gates(F.silu(self.core_norm(x)))
        gates = gates.unflatten(-1, (self.blocks, 3, -1))  # split inside each block
        reset, candidate, update = gates.unbind(-2)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)  # leans towards remembering
        return (update * candidate + (1 - update) * own).flatten(-2)


def categorical_logits(raw: Tensor, unimix: float = 0.01) -> Tensor:
    """Log-probabilities in float32, mixed with 1 % of the uniform distribution.

    The mix keeps every probability above unimix / classes, so that no KL explodes.

    Args:
        raw: network outputs, [..., classes].
        unimix: share of the uniform distribution.

    Source: DreamerV3, "World model learning".
    """
    probs = torch.softmax(raw.float(), -1).clamp_min(1e-37)  # unimix may be 0
    return torch.log((1 - unimix) * probs + unimix / raw.shape[-1])


def sample_one_hot(logits: Tensor, noise: Tensor) -> Tensor:
    """Exact sample as a one-hot with a straight-through gradient, same shape.

    `noise` is exponential with rate 1 and of the logits' shape: the class whose noise
    divided by its probability is smallest wins. It can be drawn for all steps at once.
    Source: DreamerV3, "World model learning"; the race is ours.
    """
    probs = logits.exp()
    winner = (logits - noise.log()).argmax(-1)
    one_hot = F.one_hot(winner, logits.shape[-1]).to(probs.dtype)
    return one_hot + (probs - probs.detach())


def kl_divergence(left: Tensor, right: Tensor) -> Tensor:
    """KL[left || right] in nats of log-probabilities [..., latents, classes] -> [...].

    Summed over classes and over latents. Source: DreamerV3, equation 3.
    """
    return (left.exp() * (left - right)).sum((-1, -2))


class RSSM(SequenceModel):
    """Sequence model, prior and posterior.

    Args:
        embed_size: width of the encoder's embedding. action_size: A.
        deter: D, deterministic units. latents, classes: z is `latents` one-hots.
        units: width of every inner layer. blocks: of the block-diagonal layers.
        unimix: share of the uniform distribution in every categorical.
    Source: DreamerV3, equation 1 and Methods, "Networks".
    """

    def __init__(
        self,
        embed_size: int,
        action_size: int,
        *,
        deter: int,
        units: int,
        latents: int,
        classes: int,
        blocks: int,
        unimix: float,
    ):
        stoch = latents * classes
        super().__init__(stoch, action_size, deter=deter, units=units, blocks=blocks)
        self.latents, self.classes, self.unimix = latents, classes, unimix
        self.prior_head = MLP(deter, units, 2, stoch)
        self.posterior_in = Linear(deter + embed_size, units)
        outputs = RMSNorm(units), nn.SiLU(), Linear(units, stoch)
        self.posterior_out = nn.Sequential(*outputs)

    @property
    def feature_size(self) -> int:
        """Width of `State.feature`: D + latents * classes."""
        return self.deter + self.latents * self.classes

    def initial(self, batch: int) -> State:
        """The state before anything was seen: zeros, z included (not a one-hot)."""
        zeros = self.gates.bias.new_zeros
        return State(zeros(batch, self.deter), zeros(batch, self.latents, self.classes))

    def _logits(self, raw: Tensor) -> Tensor:
        """Raw outputs [..., S] -> log-probabilities [..., latents, classes]."""
        raw = raw.unflatten(-1, (self.latents, self.classes))
        return categorical_logits(raw, self.unimix)

    def prior(self, h: Tensor) -> Tensor:
        """What z should be, judged from the memory alone: h [..., D] -> logits."""
        return self._logits(self.prior_head(h))

    def _noise(self, like: Tensor, *lead: int) -> Tensor:
        """Exponential noise [*lead, latents, classes], for all steps at once."""
        shape = (*lead, self.latents, self.classes)
        return torch.empty(shape, device=like.device).exponential_()

    def observe(
        self,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        state: State | None = None,
    ) -> tuple[State, Tensor, Tensor]:
        """Watch a window of experience, row by row.

        Args:
            embed: embeddings of the observations, [B, T, E].
            prev_action: the action that led to each row, [B, T, A].
            is_first: rows at which state and previous action are cleared, [B, T].
            state: the state before the window; by default zeros.

        Returns:
            States [B, T, ...] with z sampled from the posterior, and log-probabilities
            of posterior and prior, [B, T, latents, classes].

        Source: DreamerV3, equation 1.
        """
        batch, length = embed.shape[:2]
        state = self.initial(batch) if state is None else state
        keep = (~is_first.bool()).to(embed.dtype)[..., None]
        action_part = self.embed_action(prev_action * keep)
        # The observation's half of the posterior needs no memory: one product for all.
        weight_h, weight_e = self.posterior_in.weight.tensor_split([self.deter], 1)
        seen = F.linear(embed, weight_e, self.posterior_in.bias)
        weight_h = weight_h.to(seen.dtype)  # cast once, not in every step
        noise = self._noise(embed, length, batch)
        states, posteriors = [], []
        for row in zip(keep.unbind(1), action_part.unbind(1), seen.unbind(1), noise):
            state, posterior = self._observe_step(state, weight_h, row)
            states.append(state), posteriors.append(posterior)
        states = State(*(torch.stack(part, 1) for part in zip(*states)))
        return states, torch.stack(posteriors, 1), self.prior(states.h)

    def _observe_step(
        self, state: State, weight_h: Tensor, row: tuple[Tensor, ...]
    ) -> tuple[State, Tensor]:
        """One row of `observe`: the state after it, and its posterior."""
        keep, action_part, seen, noise = row
        state = State(state.h * keep, state.z * keep[..., None])
        h = self.advance(state, action_part)
        posterior = self._logits(self.posterior_out(F.linear(h, weight_h) + seen))
        return State(h, sample_one_hot(posterior, noise)), posterior

    def imagine(
        self, state: State, policy: Callable[[State], Tensor] | Tensor, horizon: int
    ) -> tuple[State, Tensor]:
        """Dream: roll the prior forward from `state` [B, ...] for `horizon` steps.

        Args:
            state: where the dreams begin.
            policy: a callable State -> actions [B, A], or actions [B, H, A].
            horizon: H, the number of steps.

        Returns:
            States [B, H+1, ...], of which the first is `state`, and actions [B, H, A].

        Source: DreamerV3, section "Critic learning".
        """
        noise = self._noise(state.h, horizon, len(state.h))
        states, actions = [state], []
        for t in range(horizon):
            action = policy(state) if callable(policy) else policy[:, t]
            state = self._imagine_step(state, action, noise[t])
            states.append(state), actions.append(action)
        states[0] = states[0]._replace(h=states[0].h.to(state.h.dtype))
        states = State(*(torch.stack(part, 1) for part in zip(*states)))
        return states, torch.stack(actions, 1)

    def _imagine_step(self, state: State, action: Tensor, noise: Tensor) -> State:
        """One step of `imagine`: the state that the model expects next."""
        h = self.advance(state, self.embed_action(action))
        return State(h, sample_one_hot(self.prior(h), noise))

    @staticmethod
    def kl_loss(
        posterior: Tensor, prior: Tensor, free_nats: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Dynamics and representation loss, two [B, T] in nats, clipped per element.

        One number, two gradients: `dyn` trains the prior to predict the posterior,
        `rep` trains the posterior to stay predictable. The sum over all latents is
        clipped from below, not each latent. Source: DreamerV3, equation 3.
        """
        dyn = kl_divergence(posterior.detach(), prior)
        rep = kl_divergence(posterior, prior.detach())
        return dyn.clamp(min=free_nats), rep.clamp(min=free_nats)
