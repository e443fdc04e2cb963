"""The world model reads the right rows, loses what it should and learns what it can."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dreamer_lite.config import Config
from dreamer_lite.dreamer import Collector, random_policy
from dreamer_lite.envs import make_vector
from dreamer_lite.replay import Replay
from dreamer_lite.world_model import (
    LaProp,
    WorldModel,
    as_tensors,
    previous_actions,
)

IMAGE = gym.spaces.Dict(
    obs=gym.spaces.Box(0, 255, (32, 32, 3), np.uint8),
    speed=gym.spaces.Box(-9, 9, (2,), np.float32),
)
BUTTONS = gym.spaces.Discrete(4)
SMALL = {"deter": 32, "units": 16, "latents": 8, "classes": 4, "depth": 2, "blocks": 4}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rows(batch=4, length=6, generator=None):
    """Random rows of the spaces above, every flag false except the first one."""
    no = torch.zeros(batch, length, dtype=torch.bool)
    first = no.clone()
    first[:, 0] = True
    return {
        "obs": torch.randint(0, 256, (batch, length, 32, 32, 3), dtype=torch.uint8),
        "speed": torch.randn(batch, length, 2),
        "action": F.one_hot(torch.randint(4, (batch, length)), 4).float(),
        "reward": torch.randn(batch, length),
        "is_first": first,
        "is_last": no.clone(),
        "is_terminal": no.clone(),
    }


def small(**changes):
    return WorldModel(IMAGE, BUTTONS, Config(**{**SMALL, **changes}))


def fit(model, batches, lr=3e-3):
    """Train on the batches; returns the metrics of every update."""
    optimizer, history = LaProp(model.parameters(), lr, warmup=10), []
    for batch in batches:
        loss, metrics, _ = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({key: float(value) for key, value in metrics.items()})
    return history


# The time alignment


def test_actions_move_down_by_one_row():
    action = torch.arange(1.0, 9.0).reshape(2, 4, 1)
    shifted = previous_actions(action)
    assert shifted[..., 0].tolist() == [[0, 1, 2, 3], [0, 5, 6, 7]]
    assert action[0, :, 0].tolist() == [1, 2, 3, 4], "the stored column is untouched"


class Echo(gym.Env):
    """Observes the action that was just taken, ten times as large to matter."""

    observation_space = gym.spaces.Dict(x=gym.spaces.Box(-20, 20, (4,), np.float32))
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return {"x": np.zeros(4, np.float32)}, {}

    def step(self, action):
        self.steps += 1
        x = 10 * np.eye(4, dtype=np.float32)[action]
        return {"x": x}, float(action == 0), self.steps == 11, False, {}


def test_prior_predicts_an_observation_that_is_the_last_action():
    envs = make_vector(Echo, 2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    replay = Replay(2000, *spaces, num_envs=2)
    collector = Collector(envs, replay)
    policy = random_policy(spaces[1], np.random.default_rng(0))
    for _ in range(600):
        collector.tick(policy)
    sizes = {"deter": 32, "units": 32, "latents": 4, "classes": 4, "blocks": 4}
    model = WorldModel(*spaces, Config(**sizes, free_nats=0.0))
    fit(model, [as_tensors(replay.sample(16, 16)) for _ in range(150)])

    batch = as_tensors(replay.sample(64, 8))
    _, posterior, prior = model.observe(batch)
    surprise, _ = model.rssm.kl_loss(posterior, prior, free_nats=0.0)
    # Where a window begins nobody knows the past; an action is worth ln 4 = 1.386 nats.
    assert surprise[:, 1:].mean() < 0.15
    inside = ~batch["is_first"][:, 4:].any(1)  # actions say nothing about a reset
    dreamed = model.dream(batch, context=4)["x"]
    target = batch["x"].sign() * batch["x"].abs().log1p()
    error = (dreamed - target).square().sum(-1)[inside, 4:].mean()
    assert error < 0.6, "a button that is read one row off costs 8.6"


def test_rewards_are_learnt_from_the_row_that_they_arrive_with():
    model, batch = small(), rows()
    states, _, _ = model.observe(batch)
    torch.nn.init.normal_(model.reward[-1].weight)
    terms = model._losses(states.feature, *[model.rssm.prior(states.h)] * 2, batch)
    by_hand = model.two_hot.loss(model.reward(states.feature), batch["reward"])
    assert torch.equal(terms["reward"], by_hand)


def test_dream_sees_the_context_only_and_obeys_later_actions():
    model, batch = small(), rows(length=8)
    blind = {key: value.clone() for key, value in batch.items()}
    blind["obs"][:, 3:], blind["speed"][:, 3:] = 0, 0
    blind["reward"][:, 3:] = 0
    outcomes = []
    for given in (batch, blind):
        torch.manual_seed(2)
        outcomes.append(model.dream(given, context=3)["speed"])
    assert torch.equal(*outcomes)
    assert outcomes[0].shape == (4, 8, 2)
    # The action of row 4 leads to row 5: rows up to 4 cannot know it.
    blind["action"][:, 4] = blind["action"][:, 4].roll(1, -1)
    torch.manual_seed(2)
    changed = model.dream(blind, context=3)["speed"]
    assert torch.equal(changed[:, :5], outcomes[0][:, :5])
    assert not torch.equal(changed[:, 5:], outcomes[0][:, 5:])
    # The action of the last row leads out of the window.
    blind["action"][:, 7] = blind["action"][:, 7].roll(1, -1)
    torch.manual_seed(2)
    assert torch.equal(model.dream(blind, context=3)["speed"], changed)


@pytest.mark.parametrize("context", [-1, 0, 8, 9])
def test_dream_refuses_a_context_that_leaves_nothing_to_do(context):
    said = f"fewer than the 8 rows of the batch, but got {context};"
    with pytest.raises(ValueError, match=said):
        small().dream(rows(length=8), context)


# The losses


def black_and_white():
    """A batch of noise pictures in black and white."""
    obs = torch.randint(0, 2, (4, 8, 64, 64, 3), dtype=torch.uint8) * 255
    no = torch.zeros(4, 8, dtype=torch.bool)
    batch = {"obs": obs, "is_first": no, "is_last": no, "is_terminal": no}
    batch |= {"action": torch.zeros(4, 8, 5), "reward": torch.randn(4, 8) * 100}
    return batch


def untrained(seed):
    """A model that has learnt nothing, of the sizes that the hand calculation uses."""
    torch.manual_seed(seed)
    spaces = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
    sizes = Config(deter=512, units=64, classes=4, depth=4)
    return WorldModel(spaces, gym.spaces.Discrete(5), sizes)


def test_losses_before_training():
    batch, found = black_and_white(), []
    # A head of few units varies by 20 % from seed to seed, the mean of 16 by 5 %.
    for seed in range(16):
        loss, metrics, states = (model := untrained(seed)).loss(batch)
        metrics = {key: value.item() for key, value in metrics.items()}
        assert metrics["loss/reward"] == pytest.approx(math.log(255), abs=1e-5)
        assert model.predict_reward(states.feature).abs().max() == 0
        assert metrics["loss/dyn"] == metrics["loss/rep"]
        total = sum(metrics[f"loss/{k}"] for k in ("obs", "reward", "continue", "dyn"))
        expected = total + 0.1 * metrics["loss/rep"]
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        found.append(metrics)
    mean = {key: sum(one[key] for one in found) / len(found) for key in metrics}
    assert mean["loss/continue"] == pytest.approx(0.7, rel=0.2)
    assert mean["loss/dyn"] == pytest.approx(7.4, rel=0.2)
    assert mean["entropy/prior"] == pytest.approx(41, rel=0.05)
    assert mean["entropy/posterior"] == pytest.approx(41, rel=0.05)
    # Black and white: 12,288 x 0.25, plus the little that random weights add.
    assert mean["loss/obs"] == pytest.approx(3300, rel=0.05)
    assert not any(value.requires_grad for value in model.loss(batch)[1].values())


@pytest.mark.parametrize("discount, least", [(Config.discount, 0.0204), (0.9, 0.3251)])
def test_continue_target_is_soft_and_ignores_time_limits(discount, least):
    model, batch = small(discount=discount), rows()
    states, posterior, prior = model.observe(batch)

    def term(probability):
        torch.nn.init.zeros_(model.cont[-1].weight)
        logit = torch.logit(torch.tensor(probability, dtype=torch.float64))
        torch.nn.init.constant_(model.cont[-1].bias, logit.item())
        return model._losses(states.feature, posterior, prior, batch)["continue"]

    assert term(discount).max().item() == pytest.approx(least, abs=1e-4)
    known = model.predict_continue(states.feature)
    assert torch.allclose(known, torch.tensor(discount), atol=1e-5)
    batch["is_last"][:, 2] = True
    assert term(discount)[:, 2].max().item() == pytest.approx(least, abs=1e-4)
    batch["is_terminal"][:, 2] = True
    dead = term(discount)[:, 2]
    assert dead.min().item() == pytest.approx(-math.log(1 - discount), abs=1e-2)


def test_images_weigh_as_a_sum_and_terms_as_means_over_rows():
    model, batch = small(), rows()
    recon = {"obs": torch.full((4, 6, 32, 32, 3), 0.5), "speed": batch["speed"] * 0}
    losses = model.decoder.loss(recon, batch)
    by_hand = (batch["obs"] / 255 - 0.5).square().sum((2, 3, 4))
    assert torch.allclose(losses["obs"], by_hand)
    torch.manual_seed(4)
    whole = model.loss(batch)[1]["loss/obs"]
    torch.manual_seed(4)
    states, posterior, prior = model.observe(batch)
    terms = model._losses(states.feature, posterior, prior, batch)
    assert torch.isclose(whole, terms["obs"].mean())
    assert all(value.shape == (4, 6) for value in terms.values())


def reached(model, term):
    model.zero_grad(set_to_none=True)
    term.mean().backward(retain_graph=True)
    return {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.any()
    }


def test_gradients_reach_exactly_what_they_should():
    model = small(free_nats=0.0)
    torch.nn.init.normal_(model.reward[-1].weight)
    batch = rows(batch=16, length=1)
    states, posterior, prior = model.observe(batch)
    terms = model._losses(states.feature, posterior, prior, batch)
    parts = {
        "encoder": "encoder.",
        "memory": "rssm.core.",
        "posterior": "rssm.posterior_out.",
        "prior": "rssm.prior_head.",
        "decoder": "decoder.",
        "reward": "reward.",
        "continue": "cont.",
    }
    seen = {}
    for name, term in terms.items():
        names = reached(model, term)
        seen[name] = {
            p for p, start in parts.items() if any(n.startswith(start) for n in names)
        }
    road = {"encoder", "memory", "posterior"}
    assert seen == {
        "obs": road | {"decoder"},
        "speed": road | {"decoder"},
        "reward": road | {"reward"},
        "continue": road | {"continue"},
        "dyn": {"memory", "prior"},
        "rep": road,
    }


def test_one_batch_can_be_overfitted():
    model = small(deter=64, units=32)
    batch = rows(batch=2, length=4)
    x = torch.linspace(0, 1, 32)
    picture = 255 * (x[:, None] * x)[..., None].expand(32, 32, 3)
    batch["obs"] = (picture * torch.rand(2, 4, 1, 1, 1)).to(torch.uint8)
    batch["is_terminal"][:, -1] = True
    history = fit(model, [batch] * 300, lr=5e-3)
    first, last = history[0], history[-1]
    assert last["loss/obs"] < first["loss/obs"] / 20
    assert last["loss/speed"] < first["loss/speed"] / 3
    assert last["loss/reward"] < 1.5
    assert last["loss/continue"] < 0.1


# The optimizer


def slow_laprop(weights, gradients, lr, betas, clip, warmup):
    """The fact sheet's formulas, tensor by tensor, in float64."""
    p = [w.double() for w in weights]
    m, v = [0 * w for w in p], [0 * w for w in p]
    for step, update in enumerate(gradients, start=1):
        rate = lr * min((step - 1) / warmup, 1) if warmup else lr
        for i, g in enumerate(update):
            g = g.double()
            g = g / max(1.0, g.norm() / (clip * max(1e-3, p[i].norm())))
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g**2
            normed = g / ((v[i] / (1 - betas[1] ** step)).sqrt() + 1e-20)
            m[i] = betas[0] * m[i] + (1 - betas[0]) * normed
            p[i] = p[i] - rate * m[i] / (1 - betas[0] ** step)
    return p


def test_free_nats_reach_the_loss():
    """A KL of eight latents stays below 200 nats: if so many are free, all are cut."""
    _, metrics, _ = small(free_nats=200.0).loss(rows())
    assert float(metrics["loss/dyn"]) == float(metrics["loss/rep"]) == 200.0


@pytest.mark.parametrize("clip", [0.3, 0.1])
@pytest.mark.parametrize("warmup", [0, 7])
def test_laprop_equals_a_plain_loop(warmup, clip):
    start = [torch.randn(5, 4), torch.randn(3), torch.zeros(2), torch.ones(())]
    updates = [
        [torch.randn_like(w) * 10.0 ** torch.randint(-4, 4, ()) for w in start]
        for _ in range(30)
    ]
    params = [torch.nn.Parameter(w.clone()) for w in start]
    optimizer = LaProp(params, lr=3e-3, betas=(0.9, 0.99), clip=clip, warmup=warmup)
    for update in updates:
        for p, g in zip(params, update):
            p.grad = g.clone()
        optimizer.step()
    truth = slow_laprop(start, updates, 3e-3, (0.9, 0.99), clip, warmup)
    for p, expected in zip(params, truth):
        assert torch.allclose(p.double(), expected, atol=1e-5)


def test_first_update_of_a_warmup_moves_nothing_and_later_ones_rise():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = LaProp([p], lr=0.1, warmup=4)
    steps = []
    for _ in range(7):
        before = p.detach().clone()
        p.grad = torch.full((3,), 0.01)
        optimizer.step()
        steps.append((before - p.detach())[0].item())
    expected = [0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    assert steps == pytest.approx(expected, abs=1e-4)


def test_clipping_by_hand():
    weights = [torch.tensor([3.0, 4.0]), torch.zeros(2), torch.tensor([3.0, 4.0])]
    grads = [torch.tensor([6.0, 8.0]), torch.tensor([3e-3, 4e-3]), torch.ones(2) * 0.1]
    large, zero, fine = LaProp._clip(grads, weights, 0.3)
    assert torch.allclose(large, torch.tensor([0.9, 1.2]))
    assert torch.allclose(zero, torch.tensor([1.8e-4, 2.4e-4]))
    assert torch.equal(fine, grads[2])


def test_two_layers_in_one_tensor_are_clipped_apart():
    """The halves have the sizes 5 and 0; as one tensor both would shrink by 6.7."""
    weights = [torch.tensor([[3.0, 4.0], [0.0, 0.0]])]
    grads = [torch.tensor([[6.0, 8.0], [3e-3, 4e-3]])]
    (apart,) = LaProp._clip(grads, weights, 0.3, parts=2)
    assert torch.allclose(apart, torch.tensor([[0.9, 1.2], [1.8e-4, 2.4e-4]]))
    (whole,) = LaProp._clip(grads, weights, 0.3)
    assert torch.allclose(whole, grads[0] * 0.15)


def test_parts_learn_like_tensors_of_their_own():
    start = [torch.randn(3, 4), 0.01 * torch.randn(3, 4)]
    updates = [[10 * torch.randn(3, 4), torch.randn(3, 4)] for _ in range(10)]
    p = torch.nn.Parameter(torch.cat(start))
    optimizer = LaProp([p], lr=3e-3, betas=(0.9, 0.99), parts=2)
    for update in updates:
        p.grad = torch.cat(update)
        optimizer.step()
    truth = torch.cat(slow_laprop(start, updates, 3e-3, (0.9, 0.99), 0.3, 0))
    assert torch.allclose(p.double(), truth, atol=1e-5)


def test_a_clip_of_zero_clips_nothing():
    weights = [torch.tensor([3.0, 4.0]), torch.zeros(2), torch.ones(2)]
    grads = [torch.tensor([6e3, 8e3]), torch.ones(2), torch.zeros(2)]
    for kept, grad in zip(LaProp._clip(grads, weights, 0.0), grads):
        assert torch.equal(kept, grad)
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([0.0, 1.0])
    LaProp([p], lr=0.1, clip=0.0).step()
    assert torch.allclose(p, torch.tensor([1.0, 0.9]))


def test_tiny_gradients_move_as_far_as_large_ones():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = LaProp([p], lr=0.01)
    p.grad = torch.tensor([1e-15, -1e-3, 0.1])
    optimizer.step()
    assert torch.allclose(1 - p.detach(), torch.tensor([0.01, -0.01, 0.01]), atol=1e-6)


def test_groups_keep_their_own_rate_and_a_state_survives_its_dict():
    def make():
        params = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
        groups = [{"params": params[:1], "lr": 0.01}, {"params": params[1:]}]
        return params, LaProp(groups, lr=0.1, warmup=2)

    def update(params, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        gradient = 0.01 * torch.randn(2, generator=generator)  # too small to clip
        for p in params[:2]:  # the third never gets a gradient
            p.grad = gradient.clone()
        optimizer.step()

    params, optimizer = make()
    for seed in range(4):
        update(params, optimizer, seed)
    slow, fast, still = (1 - p.detach() for p in params)
    assert fast.abs().min() > 1e-3 and not still.any()
    torch.testing.assert_close(fast, 10 * slow, rtol=1e-3, atol=1e-6)  # 0.1 and 0.01

    others, again = make()
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, other in zip(params, others):
        other.data.copy_(p.data)
    for seed in range(4, 8):
        update(params, optimizer, seed)
        update(others, again, seed)
    for p, other in zip(params, others):
        assert torch.equal(p, other)


# The model that ships


def test_shipped_world_model_loads_and_predicts_held_out_rows():
    from course import data_path
    from course.train_world_model import hold_out, load_world_model

    replay = Replay.load(data_path("mario_episodes.npz"))
    newest = replay.data["obs"][:, -160:].copy()
    held = hold_out(replay, 160)
    assert np.array_equal(held["obs"].numpy(), newest)
    assert len(replay) == replay.data["obs"].shape[:2][0] * (replay.rows - 160)
    model = load_world_model()
    with torch.no_grad():
        _, metrics, _ = model.loss({k: v[:, :32] for k, v in held.items()})
    assert metrics["loss/obs"] < 150, "untrained it is about 1,200"
    assert data_path("world_model.safetensors").stat().st_size < 8 * 2**20
