"""The RSSM remembers, guesses and resets as notebook 05 says."""

import math

import pytest
import torch
from torch.nn import functional as F

from dreamer_lite.rssm import (
    RSSM,
    SequenceModel,
    State,
    categorical_logits,
    kl_divergence,
    sample_one_hot,
)

BATCH, LENGTH, EMBED, ACTIONS = 3, 10, 12, 5
SIZES = {"deter": 64, "units": 16, "latents": 6, "classes": 4, "blocks": 8}
SIZES |= {"unimix": 0.01}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make(embed=EMBED, **sizes):
    return RSSM(embed, ACTIONS, **SIZES | sizes)


def window(batch=BATCH, length=LENGTH, width=EMBED):
    embed = torch.randn(batch, length, width)
    action = torch.randn(batch, length, ACTIONS)
    return embed, action, torch.zeros(batch, length, dtype=torch.bool)


def fix_noise(monkeypatch, model, noise):
    """Let the model draw `noise` [T, B, latents, classes], whatever it asks for."""
    monkeypatch.setattr(model, "_noise", lambda like, *lead: noise[: lead[0]])


def exponential(model, length, batch=BATCH):
    shape = (length, batch, model.latents, model.classes)
    return torch.empty(shape).exponential_()


def entropy(logits):
    return -(logits.exp() * logits).sum((-1, -2))


# The dice


@pytest.mark.parametrize("classes", [2, 4, 8, 32])
def test_unimix_keeps_probabilities_off_zero_and_one(classes):
    raw = torch.full((1, classes), -1e4)
    raw[0, 1] = 1e4
    probs = categorical_logits(raw).exp()[0]
    low = 0.01 / classes
    assert torch.allclose(probs.sum(), torch.tensor(1.0))
    assert abs(probs[0] - low) < 1e-7 and abs(probs[1] - (0.99 + low)) < 1e-6


@pytest.mark.parametrize("classes, nats", [(4, 190), (16, 233), (32, 255), (64, 277)])
def test_largest_kl_is_bounded_by_unimix(classes, nats):
    raw = torch.zeros(2, 32, classes)
    raw[0, :, 0] = raw[1, :, 1] = 1e4
    assert abs(kl_divergence(*categorical_logits(raw)) - nats) < 1


def test_without_unimix_a_certain_die_gives_no_nan():
    raw = torch.tensor([[[0.0, 1e4]], [[1e4, 0.0]]], requires_grad=True)
    logits = categorical_logits(raw, 0.0)
    kl = kl_divergence(*logits)
    kl.backward()
    assert 80 < kl.item() < 90 and entropy(logits[0]).item() < 1e-30
    assert torch.isfinite(raw.grad).all()


def test_frequencies_match_probabilities():
    logits = categorical_logits(torch.tensor([2.0, 1.0, 0.0, -3.0])).expand(200_000, 4)
    z = sample_one_hot(logits, torch.empty_like(logits).exponential_())
    assert torch.equal(z.sum(-1), torch.ones(len(z))) and z.unique().tolist() == [0, 1]
    off = (z.mean(0) - logits[0].exp()).abs()
    assert (off < 5 * (logits[0].exp() / len(z)).sqrt()).all()


def test_straight_through_gradient_is_that_of_the_mixed_probabilities():
    raw = torch.randn(5, 6, 4, requires_grad=True)
    worth = torch.randn(5, 6, 4)
    noise = torch.empty(5, 6, 4).exponential_()
    mine = (sample_one_hot(categorical_logits(raw), noise) * worth).sum()
    gradient = torch.autograd.grad(mine, raw)[0]
    truth = torch.autograd.grad((categorical_logits(raw).exp() * worth).sum(), raw)[0]
    assert gradient.abs().max() > 0.01
    assert torch.allclose(gradient, truth, atol=1e-6)


# The memory


def test_gates_are_split_inside_each_block():
    model = SequenceModel(24, ACTIONS, deter=64, units=16, blocks=8)
    h, z, a = torch.randn(2, 64), torch.zeros(2, 6, 4), torch.zeros(2, ACTIONS)
    level = torch.linspace(-2, 2, 8)[:, None].expand(8, 8)  # one for each block
    raw = torch.stack([0 * level, level, 0 * level], 1)  # [block, gate, 8]
    with torch.no_grad():
        model.gates.weight.zero_()
        model.gates.bias.copy_(raw.flatten())
    new = model.advance(State(h, z), model.embed_action(a))
    update = 1 / (1 + math.e)
    expected = update * torch.tanh(0.5 * level.flatten()) + (1 - update) * h
    assert torch.allclose(new, expected, atol=1e-6)


def test_gates_at_the_start_keep_three_quarters():
    model = make(deter=256, units=64)
    h = torch.randn(200, 256)
    state = State(h, torch.zeros(200, 6, 4))
    new = model.advance(state, model.embed_action(torch.zeros(200, ACTIONS)))
    kept = (new * h).sum() / h.square().sum()
    assert abs(kept - (1 - 0.27)) < 0.05


def test_actions_beyond_one_are_capped():
    model = make()
    inside, outside = torch.tensor([[0.5, -1.0, 0, 1, 0]]), torch.zeros(1, 5)
    outside[0, 1] = -7.0
    capped = outside.clamp(-1, 1)
    assert torch.equal(model.embed_action(outside), model.embed_action(capped))
    assert torch.equal(model.embed_action(inside), model.from_a(inside))


def test_the_cap_is_a_constant_for_the_gradient():
    model = make()
    action = torch.tensor([[0.0, -7.0, 0, 0, 0]], requires_grad=True)
    model.embed_action(action).square().sum().backward()
    capped = torch.tensor([[0.0, -1.0, 0, 0, 0]], requires_grad=True)
    model.from_a(capped).square().sum().backward()
    torch.testing.assert_close(action.grad[0, 1], capped.grad[0, 1] / 7)


def test_noise_is_exponential_and_independent_everywhere():
    noise = make(latents=32, classes=32)._noise(torch.zeros(1), 8, 8)
    assert noise.shape == (8, 8, 32, 32)
    assert abs(float(noise.mean()) - 1) < 0.02 and abs(float(noise.std()) - 1) < 0.03
    assert abs(float((noise > 2).float().mean()) - math.exp(-2)) < 0.01
    assert noise.flatten().unique().numel() > 0.9 * noise.numel()


# Watching


def test_rows_after_a_reset_equal_a_fresh_start(monkeypatch):
    model, (embed, action, first) = make(), window()
    first[:, 6] = True
    noise = exponential(model, LENGTH)
    fix_noise(monkeypatch, model, noise)
    states, posterior, prior = model.observe(embed, action, first)
    fix_noise(monkeypatch, model, noise[6:])
    fresh = model.observe(embed[:, 6:7], 0 * action[:, 6:7], first[:, 6:7])
    later = model.observe(embed[:, 6:], action[:, 6:], first[:, 6:])
    for mine, row, rest in zip(
        (*states, posterior, prior),
        (*fresh[0], *fresh[1:]),
        (*later[0], *later[1:]),
    ):
        assert torch.allclose(mine[:, 6], row[:, 0], atol=1e-5)
        assert torch.allclose(mine[:, 6:], rest, atol=1e-5)


def test_the_previous_action_is_cleared_with_the_state(monkeypatch):
    model, (embed, action, first) = make(), window()
    first[:, 6] = True
    fix_noise(monkeypatch, model, exponential(model, LENGTH))
    before = model.observe(embed, action, first)[1]
    action[:, 6] += 1  # the row before was the last of its episode
    assert torch.equal(model.observe(embed, action, first)[1], before)
    action[:, 7] += 1
    assert not torch.equal(model.observe(embed, action, first)[1], before)


def test_a_window_can_be_watched_in_two_parts(monkeypatch):
    model, (embed, action, first) = make(), window()
    noise = exponential(model, LENGTH)
    fix_noise(monkeypatch, model, noise)
    whole = model.observe(embed, action, first)[1]
    states, _, _ = model.observe(embed[:, :4], action[:, :4], first[:, :4])
    fix_noise(monkeypatch, model, noise[4:])
    last = states.map(lambda x: x[:, -1])
    rest = model.observe(embed[:, 4:], action[:, 4:], first[:, 4:], last)[1]
    assert torch.allclose(rest, whole[:, 4:], atol=1e-5)


# Dreaming


def test_imagine_asks_the_policy_in_the_state_that_it_leaves():
    model = make()
    start = State(torch.randn(BATCH, 64), torch.zeros(BATCH, 6, 4))
    asked = []

    def policy(state):
        asked.append(state)
        return torch.randn(BATCH, ACTIONS)

    states, actions = model.imagine(start, policy, horizon=4)
    assert states.h.shape == (BATCH, 5, 64) and actions.shape == (BATCH, 4, ACTIONS)
    for t, state in enumerate(asked):
        assert torch.equal(state.h, states.h[:, t])
        h = model.advance(state, model.embed_action(actions[:, t]))
        assert torch.allclose(h, states.h[:, t + 1], atol=1e-6)


# The loss


def random_logits(*shape):
    return torch.randn(*shape).log_softmax(-1).requires_grad_()


def test_kl_by_hand():
    q, p = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    by_hand = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert abs(kl_divergence(q, p) - by_hand) < 1e-6
    many = [x.expand(7, 32, 2) for x in (q, p)]
    assert torch.allclose(kl_divergence(*many), torch.full((7,), 32 * by_hand))


def test_dyn_and_rep_are_one_number_with_two_gradients():
    posterior, prior = random_logits(2, 5, 6, 4), random_logits(2, 5, 6, 4)
    dyn, rep = RSSM.kl_loss(posterior, prior)
    assert dyn.shape == (2, 5) and torch.equal(dyn, rep)
    both = posterior, prior
    to_posterior, to_prior = torch.autograd.grad(dyn.sum(), both, allow_unused=True)
    assert to_posterior is None and to_prior.abs().sum() > 0
    to_posterior, to_prior = torch.autograd.grad(rep.sum(), both, allow_unused=True)
    assert to_prior is None and to_posterior.abs().sum() > 0


def test_kl_is_clipped_per_element_and_not_per_latent():
    # A tenth of a nat per die: all 32 of them in the first row, one in the second.
    p = torch.tensor([0.5, 0.5]).log().expand(1, 2, 32, 2).clone()
    q = p.clone()
    q[0, 0] = q[0, 1, 0] = torch.tensor([0.7191, 0.2809]).log()
    q.requires_grad_()
    dyn, rep = RSSM.kl_loss(q, p)
    assert abs(rep[0, 0] - 3.179) < 1e-3  # clipped per latent it would be 32
    assert rep[0, 1] == 1.0  # clipped after the mean it would be 0.1
    gradient = torch.autograd.grad(rep.sum(), q)[0]
    assert (gradient[0, 0].abs().amax(-1) > 0).all()
    assert gradient[0, 1].abs().max() == 0
    assert torch.equal(dyn, rep)
    assert RSSM.kl_loss(q, p, free_nats=0.0)[0][0, 1] < 0.2


# The start


@pytest.mark.parametrize(
    "width, classes, dyn, nats", [(64, 4, 7.4, 41), (256, 16, 10.3, 84)]
)
def test_losses_and_entropies_before_the_first_update(width, classes, dyn, nats):
    kls, entropies = [], []
    for _ in range(4):  # one model's prior is one draw of its weights
        sizes = {"deter": 8 * width, "units": width, "latents": 32, "classes": classes}
        model = RSSM(width, 6, **SIZES | sizes)
        embed = F.silu(torch.randn(8, 8, width))
        action = F.one_hot(torch.randint(6, (8, 8)), 6).float()
        first = torch.zeros(8, 8)
        first[:, 0] = 1
        with torch.no_grad():
            _, posterior, prior = model.observe(embed, action, first)
        uniform = torch.full((8,), 32 * math.log(classes))
        assert torch.allclose(entropy(prior)[:, 0], uniform)  # zeros give zeros
        kls.append(RSSM.kl_loss(posterior, prior)[0][:, 1:].mean())
        both = torch.cat([posterior, prior])[:, 1:]
        entropies.append(entropy(both).mean())
    assert abs(sum(kls) / 4 / dyn - 1) < 0.15
    assert abs(sum(entropies) / 4 / nats - 1) < 0.03


def test_the_prior_learns_what_the_posterior_sees():
    """An observation that equals the last action is foreseen: the KL vanishes."""
    model = make(deter=64, units=32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        action = F.one_hot(torch.randint(ACTIONS, (16, 4)), ACTIONS).float()
        embed = torch.cat([action, torch.zeros(16, 4, EMBED - ACTIONS)], -1)
        first = torch.zeros(16, 4)
        states, posterior, prior = model.observe(embed, action, first)
        dyn, _ = model.kl_loss(posterior, prior, free_nats=0.0)
        seen = states.z.flatten(-2)[..., :ACTIONS]  # makes the posterior say it
        said = F.mse_loss(seen, action, reduction="none").sum(-1)
        loss = (dyn + 10 * said).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert said.mean() < 0.4 and dyn[:, 1:].mean() < 0.5


def test_autocast_keeps_distributions_in_float32():
    model, (embed, action, first) = make(), window()
    with torch.autocast("cpu", torch.bfloat16):
        states, posterior, prior = model.observe(embed.bfloat16(), action, first)
        dream, _ = model.imagine(states.map(lambda x: x[:, -1]), action, LENGTH)
    assert posterior.dtype == prior.dtype == torch.float32
    assert states.h.dtype == dream.h.dtype == torch.bfloat16
    assert states.feature.dtype == torch.bfloat16
    assert torch.allclose(posterior.exp().sum(-1), torch.ones(()), atol=1e-5)
    model.kl_loss(posterior, prior)[0].mean().backward()
    assert all(p.grad.isfinite().all() for p in model.prior_head.parameters())
