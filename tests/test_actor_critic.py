"""Actor and critic learn from the dream, and their losses reach nothing else."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dreamer_lite.actor_critic import Actor, ActorCritic, Critic, Critics
from dreamer_lite.config import Config
from dreamer_lite.rssm import State
from dreamer_lite.world_model import LaProp, WorldModel

SPACES = gym.spaces.Dict(x=gym.spaces.Box(-9, 9, (3,), np.float32))
BUTTONS = gym.spaces.Discrete(17)
JOYSTICK = gym.spaces.Box(-1, 1, (3,), np.float32)
SMALL = {"deter": 32, "units": 16, "latents": 4, "classes": 4, "blocks": 4}
BATCH, LENGTH = 4, 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rows(space=BUTTONS):
    no = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    first = no.clone()
    first[:, 0] = True
    shape = BATCH, LENGTH, space.n if space is BUTTONS else space.shape[0]
    return {
        "x": torch.randn(BATCH, LENGTH, 3),
        "action": F.one_hot(torch.randint(17, shape[:2]), 17).float()
        if space is BUTTONS
        else torch.randn(shape),
        "reward": torch.randn(BATCH, LENGTH),
        "is_first": first,
        "is_last": no.clone(),
        "is_terminal": no.clone(),
    }


def pair(space=BUTTONS, learnt=True, **changes):
    """A world model and an actor-critic; `learnt` gives the heads some weights."""
    config = Config(**SMALL, **changes)
    model = WorldModel(SPACES, space, config)
    agent = ActorCritic(model.rssm.feature_size, space, config)
    if learnt:
        both = agent.critic, agent.slow_critic
        critics = [c for x in both for c in (x if isinstance(x, Critics) else [x])]
        for head in (model.reward, *critics):
            torch.nn.init.normal_(head[-1].weight, std=0.3)
    return model, agent


def with_gradient(*modules):
    return [
        name
        for module in modules
        for name, p in module.named_parameters()
        if p.grad is not None and p.grad.any()
    ]


# The actor's distributions


def test_a_choice_is_a_categorical_with_one_percent_uniform():
    actor = Actor(8, gym.spaces.Discrete(3), units=8, unimix=0.01)
    torch.nn.init.normal_(actor.mlp[-1].weight, std=50)  # nearly certain everywhere
    feature = torch.randn(5, 8)
    probs = 0.99 * actor.mlp(feature).softmax(-1) + 0.01 / 3
    truth = torch.distributions.Categorical(probs=probs)
    for button in range(3):
        action = F.one_hot(torch.tensor([button] * 5), 3).float()
        log_prob, entropy = actor.evaluate(feature, action)
        expected = truth.log_prob(torch.tensor([button] * 5))
        assert torch.allclose(log_prob, expected, atol=1e-5)
        assert torch.allclose(entropy, truth.entropy(), atol=1e-5)
        assert log_prob.min() >= math.log(0.01 / 3) - 1e-4
    drawn = actor.sample(feature.repeat(20_000, 1)).reshape(20_000, 5, 3)
    assert torch.equal(drawn.sum(-1), torch.ones(20_000, 5))
    assert torch.allclose(drawn.mean(0), probs, atol=0.02)


def test_a_joystick_is_a_bounded_normal():
    actor = Actor(8, JOYSTICK, units=8, unimix=0.01)
    torch.nn.init.normal_(actor.mlp[-1].weight, std=3)
    feature = torch.randn(50, 8)
    raw = actor.mlp(feature)
    mean = raw[:, :3].tanh()
    deviation = 0.9 * (raw[:, 3:] + 2).sigmoid() + 0.1
    truth = torch.distributions.Normal(mean, deviation)
    action = actor.sample(feature)
    log_prob, entropy = actor.evaluate(feature, action)
    assert torch.allclose(log_prob, truth.log_prob(action).sum(-1), atol=1e-4)
    assert torch.allclose(entropy, truth.entropy().sum(-1), atol=1e-5)
    assert 0.1 <= deviation.min() and deviation.max() <= 1
    many = actor.sample(feature[:1].expand(50_000, 8))
    assert many.abs().max() > 1, "the sample is clipped at the environment, not here"
    assert torch.allclose(many.mean(0), mean[0], atol=0.02)
    assert torch.allclose(many.std(0), deviation[0], atol=0.02)


def test_a_new_joystick_starts_wide():
    actor = Actor(32, JOYSTICK, units=16, unimix=0.01)
    feature = torch.randn(100, 32)
    mean, deviation = actor._normal(actor.mlp(feature))
    assert mean.abs().max() < 0.1
    assert deviation.mean().item() == pytest.approx(0.893, abs=3e-3)
    _, entropy = actor.evaluate(feature, actor.sample(feature))
    assert (entropy / 3).mean().item() == pytest.approx(1.305, abs=3e-3)


def test_a_new_choice_is_nearly_uniform():
    actor = Actor(32, BUTTONS, units=16, unimix=0.01)
    feature = torch.randn(100, 32)
    _, entropy = actor.evaluate(feature, actor.sample(feature))
    assert entropy.min().item() == pytest.approx(math.log(17), abs=1e-3)


@pytest.mark.parametrize("space", [BUTTONS, JOYSTICK], ids=["buttons", "joystick"])
def test_a_sampled_action_leaves_no_graph(space):
    """Else the log-probability of a joystick's move would not teach its mean."""
    actor = Actor(8, space, units=8, unimix=0.01)
    assert not actor.sample(torch.randn(5, 8)).requires_grad


# Losses before training


@pytest.mark.parametrize("space", [BUTTONS, JOYSTICK], ids=["buttons", "joystick"])
def test_losses_before_training(space):
    model, agent = pair(space, learnt=False)
    batch = rows(space)
    batch["is_last"][:2, 3] = True
    states = model.loss(batch)[2]
    torch.manual_seed(1)
    cont = agent._imagine(states, model)[3]
    weight = cont.cumprod(1)[:, :-1].mean().item()
    torch.manual_seed(1)
    loss, metrics = agent.loss(states, model, batch)
    metrics = {key: value.item() for key, value in metrics.items()}
    assert metrics["value/mean"] == 0 and metrics["return/mean"] == 0
    assert metrics["actor/advantage"] == 0 and metrics["return/scale"] == 1
    bonus = math.log(17) if space is BUTTONS else 3 * 1.305
    assert metrics["loss/actor"] == pytest.approx(-3e-4 * bonus * weight, rel=0.01)
    two = 2 * math.log(255)
    assert metrics["loss/critic"] == pytest.approx(two * weight, rel=1e-4)
    ends = batch["is_last"][:, :-1].float().mean().item()
    assert metrics["loss/replay_critic"] == pytest.approx(two * (1 - ends), rel=1e-4)
    parts = metrics["loss/actor"] + metrics["loss/critic"]
    total = parts + 0.3 * metrics["loss/replay_critic"]
    assert loss.item() == pytest.approx(total, rel=1e-5)


# Where gradients go


def autocast(low):
    return torch.autocast("cpu", torch.bfloat16, enabled=low)


def test_half_precision_leaves_continue_and_joystick_in_float32():
    """Near 1 bfloat16 steps by 0.004: of 1 - 1/333 it would make 1 - 1/256."""
    model, agent = pair(JOYSTICK)
    torch.nn.init.zeros_(model.cont[-1].weight)
    torch.nn.init.constant_(model.cont[-1].bias, math.log(332))
    feature = torch.randn(5, model.rssm.feature_size)
    with autocast(True):
        goes_on, action = model.predict_continue(feature), agent.actor.sample(feature)
        found = goes_on, action, *agent.actor.evaluate(feature, action)
    assert {x.dtype for x in found} == {torch.float32}
    assert torch.allclose(1 - goes_on, torch.tensor(1 / 333), rtol=0.1)


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("space", [BUTTONS, JOYSTICK], ids=["buttons", "joystick"])
def test_each_loss_reaches_exactly_its_own_part(space, low):
    model, agent = pair(space)
    batch = rows(space)
    with autocast(low):
        # Together, as in training: what imagination casts must not lose its gradient.
        model_loss, _, states = model.loss(batch)
        feature, action, reward, cont = agent._imagine(states, model)
        torch.clear_autocast_cache()  # as the loss does, for older torch
        seen = feature[:, :-1]
        log_prob, entropy = agent.actor.evaluate(seen, action)
        actor_loss = -(log_prob + entropy).mean()
        returns = torch.randn(seen.shape[:2])
        critic_loss = agent._critic_loss(agent.critic(seen), seen, returns).mean()
        start = torch.randn(BATCH, LENGTH)
        replay_loss = agent._replay_loss(states, start, batch)
    everything = model, agent.actor, agent.critic, agent.slow_critic

    def reached(loss):
        for module in everything:
            module.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        return [bool(with_gradient(module)) for module in everything]

    assert reached(actor_loss) == [False, True, False, False]
    assert len(with_gradient(agent.actor)) == len(list(agent.actor.parameters()))
    assert reached(critic_loss) == [False, False, True, False]
    assert reached(replay_loss) == [True, False, True, False]
    assert with_gradient(model.encoder) and with_gradient(model.rssm)
    assert not with_gradient(model.decoder, model.reward, model.cont)
    assert reached(model_loss) == [True, False, False, False]


# What counts, and how much


class Scripted(WorldModel):
    """Stands in for a world model: rewards and continues that a test chooses."""

    def __init__(self, rssm, reward, cont):
        torch.nn.Module.__init__(self)
        self.rssm, self.reward, self.cont = rssm, reward, cont

    def predict_reward(self, feature):
        return self.reward.expand(feature.shape[:-1]).clone()

    def predict_continue(self, feature):
        return self.cont.expand(feature.shape[:-1]).clone()


def scripted(cont, reward=None, **changes):
    model, agent = pair(**changes, horizon=len(cont) - 1)
    cont = torch.tensor(cont)
    reward = torch.zeros_like(cont) if reward is None else torch.tensor(reward)
    start = State(torch.randn(5, 1, 32), torch.zeros(5, 1, 4, 4))
    return Scripted(model.rssm, reward, cont), agent, start


def losses(world, agent, start):
    torch.manual_seed(2)
    with torch.no_grad():
        return agent.loss(start, world)[1]


def test_a_dream_that_begins_in_an_end_counts_for_nothing():
    world, agent, start = scripted([0.0, 1.0, 1.0, 1.0])
    metrics = losses(world, agent, start)
    assert metrics["loss/critic"] == 0 and metrics["loss/actor"] == 0


def test_nothing_counts_after_an_end():
    outcomes = []
    for later in (0.5, 1.0):
        torch.manual_seed(0)
        world, agent, start = scripted([1.0, 0.0, later, later, later])
        agent.normalizer.rate = 0.0  # the scale sees dead steps too
        outcomes.append(losses(world, agent, start))
    whole, same = outcomes
    # R_0 and the loss of the first state are all that is left.
    assert torch.equal(whole["loss/critic"], same["loss/critic"])
    assert torch.equal(whole["loss/actor"], same["loss/actor"])


def test_weights_are_the_product_of_all_continues_before():
    world, agent, start = scripted([0.5, 0.5, 0.5], entropy=1.0)
    torch.nn.init.zeros_(agent.critic[-1].weight)
    torch.nn.init.zeros_(agent.slow_critic[-1].weight)
    metrics = losses(world, agent, start)  # all returns and values are 0
    expected = (0.5 + 0.25) / 2
    assert metrics["loss/critic"].item() == pytest.approx(
        2 * math.log(255) * expected, rel=1e-4
    )
    assert metrics["loss/actor"].item() == pytest.approx(
        -math.log(17) * expected, rel=1e-3
    )


def test_advantages_are_divided_by_the_scale_of_returns():
    def advantage(worth, rate):
        torch.manual_seed(0)
        world, agent, start = scripted([0.99] * 6, [worth * i for i in range(6)])
        torch.nn.init.zeros_(agent.critic[-1].weight)
        agent.normalizer.rate = rate
        metrics = losses(world, agent, start)
        return metrics["actor/advantage"].item(), metrics["return/scale"].item()

    large, scale = advantage(1000.0, rate=1.0)
    assert scale > 1000 and large < 3
    bare, one = advantage(1000.0, rate=0.0)  # S stays 0, so nothing is divided
    assert one == 1 and bare == pytest.approx(large * scale, rel=1e-4)
    small, one = advantage(0.001, rate=1.0)
    assert one == 1 and small < 0.02


def test_replay_critic_uses_real_rows_and_leaves_last_ones_out():
    model, agent = pair(learnt=False, discount=0.9, lam=0.7)
    batch = rows()
    batch["is_last"][:, 2] = batch["is_terminal"][:, 2] = True
    batch["is_last"][:, 4] = True
    states = model.loss(batch)[2]
    boot = torch.randn(BATCH, LENGTH)
    targets = []
    agent._critic_loss = lambda logits, feature, returns: (
        targets.append(returns) or (returns.new_ones(returns.shape))
    )
    loss = agent._replay_loss(states, boot, batch)
    assert loss.item() == pytest.approx(3 / 5), (
        "rows 2 and 4 of rows 0 to 4 do not count"
    )
    (returns,) = targets
    gamma, lam, reward = 0.9, 0.7, batch["reward"]
    truth = torch.zeros(BATCH, LENGTH)
    truth[:, -1] = boot[:, -1]
    for t in reversed(range(LENGTH - 1)):
        live = gamma * (~batch["is_terminal"][:, t + 1]).float()
        trace = lam * (~batch["is_last"][:, t + 1]).float()
        blend = (1 - trace) * boot[:, t + 1] + trace * truth[:, t + 1]
        truth[:, t] = reward[:, t + 1] + live * blend
    assert torch.allclose(returns, truth[:, :-1], atol=1e-5)


# The slow critic


def test_a_certain_actor_still_tries_the_other_buttons():
    """One percent is uniform when an action is sampled, not only when it is judged."""
    actor = Actor(8, gym.spaces.Discrete(3), units=8, unimix=0.01)
    torch.nn.init.zeros_(actor.mlp[-1].weight)
    actor.mlp[-1].bias.data[:] = torch.tensor([50.0, 0.0, 0.0])
    with torch.no_grad():
        action = actor.sample(torch.randn(1, 8).expand(60_000, 8))
    share = float(action[:, 1:].sum() / 60_000)
    assert abs(share - 0.01 * 2 / 3) < 0.0015  # four standard deviations are 0.0013


def test_slow_critic_starts_as_a_copy_and_follows_by_two_percent():
    agent = ActorCritic(8, BUTTONS, Config(units=8))
    assert all(
        torch.equal(a, b)
        for a, b in zip(agent.critic.parameters(), agent.slow_critic.parameters())
    )
    with torch.no_grad():
        for p in agent.critic.parameters():
            p.add_(1.0)
    before = [p.clone() for p in agent.slow_critic.parameters()]
    agent.update_slow()
    for old, new in zip(before, agent.slow_critic.parameters()):
        assert torch.allclose(new - old, torch.full_like(old, 0.02), atol=1e-6)
        assert not new.requires_grad


# Several critics


def certain(agent, *places):
    """Logits of critics that are sure of one bin each, and what these bins mean."""
    logits = torch.full((len(places), 1, 255), -1e4)
    logits[range(len(places)), 0, places] = 0.0
    return logits, agent.two_hot.bins[list(places)].tolist()


def test_values_of_several_critics_become_one():
    mean, least = (pair(critics=3, critic_reduce=r)[1] for r in ("mean", "min"))
    logits, (a, b, c) = certain(mean, 130, 120, 140)
    assert b < a < c
    assert mean.value(logits).item() == pytest.approx((a + b + c) / 3)
    assert least.value(logits).item() == pytest.approx(b)


@pytest.mark.parametrize("reduce", ["mean", "min"])
def test_equal_critics_learn_what_one_learns(reduce):
    model, one = pair()
    two = pair(critics=2, critic_reduce=reduce)[1]
    two.actor.load_state_dict(one.actor.state_dict())
    for critics, critic in (
        (two.critic, one.critic),
        (two.slow_critic, one.slow_critic),
    ):
        for member in critics:
            member.load_state_dict(critic.state_dict())
    batch, found = rows(), []
    states = model.loss(batch)[2]
    for agent in (one, two):
        torch.manual_seed(1)
        found.append(agent.loss(states, model, batch)[1])
    assert list(found[0]) == list(found[1])
    for name, number in found[0].items():
        assert torch.allclose(number, found[1][name], rtol=1e-6), name


def test_every_critic_learns_from_the_reduced_values():
    agent = pair(critics=2, critic_reduce="min")[1]
    feature, returns = (
        torch.randn(3, 4, agent.critic[0][0].in_features),
        torch.ones(3, 4),
    )
    logits, slow = agent.critic(feature), agent.two_hot.mean(agent.slow_critic(feature))
    assert logits.shape == (2, 3, 4, 255) and (slow[0] < slow[1]).any()
    targets = returns, torch.minimum(slow[0], slow[1])
    loss = agent._critic_loss(logits, feature, returns)
    for own, member in zip(loss, logits):
        by_hand = sum(agent.two_hot.loss(member, target) for target in targets)
        assert torch.allclose(own, by_hand)


def test_several_critics_differ_and_all_learn_and_are_followed():
    model, agent = pair(critics=3, critic_reduce="min", learnt=False)
    first, *others = agent.critic
    assert not any(torch.equal(first[0].weight, other[0].weight) for other in others)
    batch = rows()
    agent.loss(model.loss(batch)[2], model, batch)[0].backward()
    for member in agent.critic:
        assert member[-1].weight.grad.any() and member[-1].bias.grad.any()
    assert not with_gradient(agent.slow_critic)
    optimizer = LaProp(agent.critic.parameters(), lr=0.1)
    optimizer.step()
    agent.update_slow()
    for fast, slow in zip(agent.critic, agent.slow_critic):
        moved = 0.02 * fast[-1].bias
        assert moved.any() and torch.allclose(slow[-1].bias, moved)


def test_a_new_critic_says_exactly_zero():
    critic, agent = Critic(8, units=8), ActorCritic(8, BUTTONS, Config(units=8))
    assert agent.two_hot.mean(critic(torch.randn(50, 8))).abs().max() == 0


# Learning


@pytest.mark.parametrize("worth", [1.0, 1000.0])
def test_reinforce_finds_the_better_arm(worth):
    model, agent = pair(gym.spaces.Discrete(2), learnt=False, horizon=1)
    start = State(torch.randn(64, 1, 32), torch.zeros(64, 1, 4, 4))

    class Bandit(WorldModel):
        """Pays for the second button; the dream is over after one step."""

        __init__ = torch.nn.Module.__init__

        class rssm:
            @staticmethod
            def imagine(state, policy, horizon):
                action = policy(state)
                paid = torch.stack([torch.zeros(64), action[:, 1]], 1)
                after = State(
                    torch.stack([state.h, state.h], 1),
                    torch.stack([state.z, state.z], 1),
                )
                Bandit.paid = worth * paid
                return after, action[:, None]

        @staticmethod
        def predict_reward(feature):
            return Bandit.paid

        @staticmethod
        def predict_continue(feature):
            return torch.tensor([1.0, 0.0]).expand(64, 2)

    groups = [
        {"params": list(agent.critic.parameters()), "lr": 1e-2},
        {"params": list(agent.actor.parameters()), "lr": 3e-3},
    ]
    optimizer = LaProp(groups)
    for _ in range(60):
        loss, metrics = agent.loss(start, Bandit())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.update_slow()
    chosen = agent.actor.sample(start.map(lambda x: x[:, 0]).feature.repeat(20, 1))
    assert chosen[:, 1].mean() > 0.9


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(4),
        gym.spaces.MultiDiscrete([3, 2]),
        gym.spaces.Box(-1, 1, (3,), np.float32),
    ],
)
def test_greedy_actions_are_the_most_likely_ones(space):
    torch.manual_seed(0)
    actor, feature = Actor(8, space, units=16, unimix=0.01), torch.randn(50, 8)
    torch.nn.init.normal_(actor.mlp[-1].weight)  # or all choices are equally likely
    greedy = actor.sample(feature, greedy=True)
    assert torch.equal(greedy, actor.sample(feature, greedy=True))
    best, _ = actor.evaluate(feature, greedy)
    for _ in range(20):
        assert (actor.evaluate(feature, actor.sample(feature))[0] <= best + 1e-5).all()
