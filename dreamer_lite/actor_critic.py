# Generated from notebooks/08_actor_critic.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""Learning to act in the dream: actor, critic and their losses.

Built in notebook 08. Source: DreamerV3, sections "Critic learning" (equations 4, 5) and
"Actor learning" (equations 6, 7).
"""

import copy
import math

import gymnasium as gym
import torch
from torch import Tensor, nn

from dreamer_lite.config import Config
from dreamer_lite.lambda_returns import ReturnNormalizer, lambda_return
from dreamer_lite.networks import MLP, TwoHotHead
from dreamer_lite.replay import read_action
from dreamer_lite.rssm import State, categorical_logits, sample_one_hot
from dreamer_lite.two_hot import TwoHot
from dreamer_lite.world_model import WorldModel


class Actor(nn.Module):
    """Policy over features: choices, or a bounded normal over A dimensions.

    A choice is a categorical with 1 % uniform; several choices at once are independent.
    Continuous actions come from a normal with mean tanh(m) and deviation
    0.9 sigmoid(s + 2) + 0.1; the sample is not clipped here but at the environment, so
    its log-probability stays that of a normal.

    Args:
        feature_size: width of the features.
        action_space: what `read_action` can read.
        units: width of the MLP.
        unimix: share of the uniform distribution.

    Source: DreamerV3, section "Actor learning" and Methods.
    """

    def __init__(
        self,
        feature_size: int,
        action_space: gym.Space,
        *,
        units: int,
        unimix: float,
    ):
        super().__init__()
        field, self.unimix = read_action(action_space), unimix
        self.sizes = field.sizes  # of each choice; none for a normal
        self.heads = 1 if self.sizes else 2  # in the last layer: mean, deviation
        outputs = self.heads * field.width
        self.mlp = MLP(feature_size, units, 3, outputs, outscale=0.01)

    def _logits(self, raw: Tensor) -> list[Tensor]:
        parts = raw.split(self.sizes, -1)
        return [categorical_logits(part, self.unimix) for part in parts]

    def _normal(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = raw.float().chunk(2, -1)
        return torch.tanh(mean), 0.9 * torch.sigmoid(deviation + 2.0) + 0.1

    def sample(self, feature: Tensor, greedy: bool = False) -> Tensor:
        """Draw actions: features [..., F] -> [..., A], one-hots or plain numbers.

        If `greedy`, these are the most likely choices, or the mean.
        """
        raw = self.mlp(feature)
        if not self.sizes:
            mean, deviation = self._normal(raw)
            noise = torch.zeros_like if greedy else torch.randn_like
            return (mean + deviation * noise(mean)).detach()
        pairs = [
            (x, torch.ones_like(x) if greedy else torch.empty_like(x).exponential_())
            for x in self._logits(raw)
        ]
        return torch.cat([sample_one_hot(*pair) for pair in pairs], -1).detach()

    def evaluate(self, feature: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of `action` and entropy, in nats: two tensors [...].

        Both are summed over several choices, or over the dimensions.
        """
        raw = self.mlp(feature)
        if self.sizes:
            logits = torch.cat(self._logits(raw), -1)
            entropy = -(logits.exp() * logits).sum(-1)
            return (logits * action).sum(-1), entropy
        mean, deviation = self._normal(raw)
        constant = 0.5 * math.log(2 * math.pi)
        log_prob = (
            -0.5 * ((action - mean) / deviation) ** 2 - deviation.log() - constant
        )
        return log_prob.sum(-1), (deviation.log() + 0.5 + constant).sum(-1)


class Critic(MLP):
    """Value distribution over two-hot bins, exactly 0 before it has learnt.

    Args: feature_size; units of the MLP; bins.
    Source: DreamerV3, equations 5 and 10.
    """

    def __init__(self, feature_size: int, *, units: int, bins: int = 255):
        super().__init__(feature_size, units, 3)
        self.append(TwoHotHead(units, bins))


class Critics(nn.ModuleList):
    """Critics with weights of their own: [..., F] -> [critics, ..., bins].

    Source: none in DreamerV3, which has one critic.
    """

    def forward(self, feature: Tensor) -> Tensor:
        return torch.stack([critic(feature) for critic in self])


class ActorCritic(nn.Module):
    """Actor, critic, the critic's slow copy and the return normaliser.

    Args: feature_size; action_space; config, of which it reads `units`, `actor_unimix`,
    `horizon`, imagined steps, `lam` of the lambda-return, `discount` for real rows,
    `entropy`, weight of the actor's entropy, `slow_rate`, with which the slow critic
    follows, `replay_scale`, weight of the critic's loss on real rows, `critics`, their
    number, and `critic_reduce`, how their values become one.
    Source: DreamerV3, equations 4 to 7.
    """

    def __init__(self, feature_size: int, action_space: gym.Space, config: Config):
        super().__init__()
        self.config, c = config, config
        head = dict(units=c.units, unimix=c.actor_unimix)
        self.actor = Actor(feature_size, action_space, **head)
        critics = [Critic(feature_size, units=c.units) for _ in range(c.critics)]
        self.critic = Critics(critics) if c.critics > 1 else critics[0]
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.two_hot = TwoHot(len(critics[0][-1].bias))
        self.normalizer = ReturnNormalizer()
        # A tensor: compiled code would take a number for a constant.
        self.register_buffer("entropy", torch.tensor(c.entropy), persistent=False)

    def policy(self, state: State, greedy: bool = False) -> Tensor:
        """Sample actions [B, A] for model states [B, ...], or the most likely ones."""
        return self.actor.sample(state.feature, greedy)

    def value(self, logits: Tensor) -> Tensor:
        """The number that a critic's logits [..., bins] mean: [...].

        If there are several critics, their numbers are reduced to one.
        """
        value = self.two_hot.mean(logits)
        if self.config.critics == 1:
            return value
        return value.amin(0) if self.config.critic_reduce == "min" else value.mean(0)

    def loss(
        self,
        states: State,
        world_model: WorldModel,
        batch: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Imagine from every state and judge the imagination.

        Args: states [B, T, ...] from `WorldModel.loss`; world_model; batch, the rows
        they came from: if given, the critic also learns from real rewards (the only
        part whose gradient reaches the world model).
        Returns: the loss (no dimensions) and metrics {name: tensor without gradient}.
        Source: DreamerV3, equations 4 to 7.
        """
        feature, action, reward, cont = self._imagine(states, world_model)
        # An older torch reuses bf16 casts from the dream, which carry no gradient.
        if not torch.compiler.is_compiling():  # a compiled graph keeps no casts
            torch.clear_autocast_cache()
        seen = feature[:, :-1].contiguous()  # dense layers are slow on a strided view
        value_logits = self.critic(seen)
        with torch.no_grad():
            last = self.value(self.critic(feature[:, -1:]))
            value = torch.cat([self.value(value_logits.detach()), last], 1)
            returns = lambda_return(reward, value, cont, self.config.lam)
            self.normalizer.update(returns)
            scale = self.normalizer.scale
            advantage = (returns - value[:, :-1]) / scale
            weight = torch.cumprod(cont, 1)[:, :-1]  # also of the state it began in
        log_prob, entropy = self.actor.evaluate(seen, action)
        bonus = self.entropy * entropy
        actor_loss = -(weight * (log_prob * advantage + bonus)).mean()
        critic_loss = (weight * self._critic_loss(value_logits, seen, returns)).mean()
        losses = {"actor": actor_loss, "critic": critic_loss}
        if batch is not None:
            start_return = returns[:, 0].unflatten(0, states.h.shape[:2])
            losses["replay_critic"] = self._replay_loss(states, start_return, batch)
        replayed = self.config.replay_scale * losses.get("replay_critic", 0.0)
        metrics = {f"loss/{key}": value.detach() for key, value in losses.items()}
        metrics |= {
            "actor/entropy": entropy.detach().mean(),
            "actor/advantage": advantage.abs().mean(),
            "return/mean": returns.mean(),
            "return/scale": scale,
            "value/mean": value.mean(),
            "imagined/reward": reward.mean(),
            "imagined/continue": cont.mean(),
        }
        return actor_loss + critic_loss + replayed, metrics

    @torch.no_grad()
    def _imagine(
        self, states: State, world_model: WorldModel
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Dream from all B * T states at once; nothing here needs a gradient."""
        start = states.map(lambda x: x.detach().flatten(0, 1))
        horizon = self.config.horizon
        dream, action = world_model.rssm.imagine(start, self.policy, horizon)
        feature = dream.feature
        reward = world_model.predict_reward(feature)
        return feature, action, reward, world_model.predict_continue(feature)

    def _critic_loss(self, logits: Tensor, feature: Tensor, returns: Tensor) -> Tensor:
        """Cross entropy to the returns, and to what the slow critic says."""
        with torch.no_grad():
            slow = self.value(self.slow_critic(feature))
        each = logits.shape[:-1]  # several critics learn from the same numbers
        returns, slow = returns.expand(each), slow.expand(each)
        return self.two_hot.loss(logits, returns) + self.two_hot.loss(logits, slow)

    def _replay_loss(
        self, states: State, start_return: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        """The critic on real rows, bootstrapped by what was imagined from each row."""
        goes_on = (~batch["is_terminal"].bool()).float()
        ends = batch["is_last"].float()
        returns = lambda_return(
            batch["reward"].float(),
            start_return,
            goes_on * self.config.discount,
            self.config.lam * (1 - ends),
        )
        feature = states.feature[:, :-1].contiguous()
        loss = self._critic_loss(self.critic(feature), feature, returns)
        return ((1 - ends[:, :-1]) * loss).mean()

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow critic towards the critic: after every optimizer step."""
        slow, fast = self.slow_critic.parameters(), self.critic.parameters()
        torch._foreach_lerp_(list(slow), list(fast), self.config.slow_rate)
