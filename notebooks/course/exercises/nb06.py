"""Exercises of notebook 06: the world model."""

import gymnasium as gym
import numpy as np
import torch
from torch.nn import functional as F

from course.exercises import Edit, exercise, in_stages, require
from dreamer_lite.config import Config
from dreamer_lite.rssm import kl_divergence
from dreamer_lite.symlog import symlog
from dreamer_lite.two_hot import TwoHot
from dreamer_lite.world_model import WorldModel


def my_world_model_loss(model, batch):
    """Every loss of a world model on a batch of rows: equations 2 and 3.

    Args:
        model: a `WorldModel`; use any part of it except `loss` and `_losses`.
        batch: {key: [B, T, ...]} with the observation `obs`, `reward` and the flags.

    Returns:
        {name: number} for "obs", "reward", "continue", "dyn" and "rep", means over all
        rows, and their weighted sum "total". Numbers are tensors with a gradient.
    """
    # solution
    states, posterior, prior = model.observe(batch)
    feature = states.feature
    losses = model.decoder.loss(model.decoder(feature), batch)
    losses["reward"] = model.two_hot.loss(model.reward(feature), batch["reward"])
    goes_on = (~batch["is_terminal"].bool()).float() * model.config.discount
    logit = model.cont(feature).squeeze(-1)
    losses["continue"] = F.binary_cross_entropy_with_logits(
        logit, goes_on, reduction="none"
    )
    losses["dyn"] = kl_divergence(posterior.detach(), prior).clamp(min=1.0)
    losses["rep"] = kl_divergence(posterior, prior.detach()).clamp(min=1.0)
    means = {name: loss.mean() for name, loss in losses.items()}
    return means | {"total": sum(means.values()) - 0.9 * means["rep"]}
    # end of solution


TERMS = ["obs", "reward", "continue", "dyn", "rep", "total"]


def small_model(seed=0, spread=0.3):
    """A world model of a vector of 3 numbers; spread, of the weights of its heads."""
    torch.manual_seed(seed)
    config = Config(deter=16, units=8, latents=4, classes=4, depth=2, blocks=2)
    spaces = gym.spaces.Dict(obs=gym.spaces.Box(-9.0, 9.0, (3,)))
    model = WorldModel(spaces, gym.spaces.Discrete(2), config)
    heads = model.rssm.posterior_out, model.rssm.prior_head
    for head in (model.reward, model.cont, *heads):
        torch.nn.init.normal_(head[-1].weight, std=spread)
    return model


def rows(batch=3, length=6):
    """Random rows, with an end in one of them and a cut in another."""
    flags = torch.zeros(3, batch, length, dtype=torch.bool)
    flags[0, :, 0] = True
    flags[1, 0, -2] = flags[2, 0, -2] = flags[1, -1, -2] = True
    flags[0, [0, -1], -1] = True
    return {
        "obs": 3 * torch.randn(batch, length, 3),
        "action": torch.eye(2)[torch.randint(2, (batch, length))],
        "reward": 3 * torch.randn(batch, length),
        "is_first": flags[0], "is_last": flags[1], "is_terminal": flags[2],
    }  # fmt: skip


def check_form(my_world_model_loss):
    """All terms by name, one number each, with gradients."""
    found = my_world_model_loss(small_model(), rows())
    require(isinstance(found, dict), "return a dictionary {name: number}")
    missing = [name for name in TERMS if name not in found]
    require(not missing, f"terms are missing: {', '.join(missing)}")
    for name in TERMS:
        require(
            torch.is_tensor(found[name]) and found[name].dim() == 0,
            f"{name} must be one number: the mean over all rows",
        )
        require(found[name].requires_grad, f"{name} has no gradient")


def check_first_losses(my_world_model_loss):
    """What a new model must show."""
    model = small_model(spread=0.0)
    found = {k: v.item() for k, v in my_world_model_loss(model, rows()).items()}
    require(
        abs(found["reward"] - np.log(255)) < 1e-3,
        f"a new reward head pays ln 255 = {np.log(255):.3f}, not {found['reward']:.3f}",
    )
    require(
        abs(found["continue"] - np.log(2)) < 1e-3,
        "a new continue head says one half, which costs ln 2 = 0.693 in every row; "
        f"yours costs {found['continue']:.3f}",
    )
    require(abs(found["dyn"] - found["rep"]) < 1e-5, "dyn and rep are the same number")
    require(
        abs(found["dyn"] - 1.0) < 1e-4,
        "here posterior and prior are equal, and a KL below 1 nat counts as 1 in every "
        f"row: dyn is 1, not {found['dyn']:.3f}",
    )
    total = sum(found[name] for name in TERMS[:4]) + 0.1 * found["rep"]
    require(
        abs(found["total"] - total) < 1e-3,
        "total is the sum of all terms, with a weight of 0.1 for rep: "
        f"{total:.3f}, not {found['total']:.3f}",
    )


def check_ends(my_world_model_loss):
    """A time limit is not an end; rows that continue have the discount as target."""
    model, batch = small_model(), rows()
    model.cont[-1].weight.data.zero_()
    model.cont[-1].bias.data.fill_(8.0)  # sure to continue
    torch.manual_seed(0)
    found = my_world_model_loss(model, batch)["continue"].item()
    goes_on = (~batch["is_terminal"]).float() / (1 / model.config.discount)
    logit = torch.full_like(goes_on, 8.0)
    right = F.binary_cross_entropy_with_logits(logit, goes_on).item()
    require(
        abs(found - right) < 1e-4,
        "only a terminal row ends, and the target of all others is the discount, "
        f"{model.config.discount:.4f}: a model that is sure to continue pays "
        f"{right:.4f}, not {found:.4f}",
    )


def check_ours(my_world_model_loss):
    """Values and gradients of our version, which agrees with the authors' code."""
    for seed in range(2):
        model, batch, results = small_model(seed, 1.5), rows(), []
        weights = dict(model.named_parameters())
        for loss in (ours, my_world_model_loss):
            torch.manual_seed(seed)
            found = loss(model, batch)
            grads = torch.autograd.grad(
                found["total"], list(weights.values()), allow_unused=True
            )
            results.append((found, dict(zip(weights, grads))))
        (right, true_grads), (mine, grads) = results
        for name in TERMS:
            a, b = right[name].item(), mine[name].item()
            require(
                abs(a - b) <= 1e-4 * max(1.0, abs(a)),
                f"{name} of some rows is {a:.4f}, yours is {b:.4f}",
            )
        for name, a in true_grads.items():
            b = grads[name]
            require(a is None or b is not None, f"no gradient reaches {name}")
            gap = 0.0 if a is None else ((a - b).abs().max() / a.norm().clamp(1)).item()
            require(
                gap < 1e-4,
                f"the losses are right, but the gradient of {name} is not: what is "
                "detached, and where is the KL clipped?",
            )


def ours(model, batch):
    """The terms of `WorldModel.loss` by name."""
    states, posterior, prior = model.observe(batch)
    losses = model._losses(states.feature, posterior, prior, batch)
    means = {name: loss.mean() for name, loss in losses.items()}
    return means | {"total": sum(means.values()) - 0.9 * means["rep"]}


def draw_rows(rng):
    """A random model and rows of random size and scale."""
    model = small_model(int(rng.integers(100)), float(rng.uniform(0.1, 2)))
    batch = rows(int(rng.integers(2, 5)), int(rng.integers(3, 8)))
    batch["reward"] = batch["reward"] * 10.0 ** int(rng.integers(-1, 3))
    return ((model, batch),)


exercise(
    "6.0",
    "Write the loss of the world model",
    difficulty="hard",
    minutes=50,
    solution=[my_world_model_loss],
    draw=draw_rows,
    hints=[
        "First observe, then ask every head about `states.feature`: decoder, reward, "
        "continue. The KL needs no head: it compares posterior and prior.",
        "Reward: `model.two_hot.loss(logits, numbers)`. Continue: binary cross entropy "
        "with ~is_terminal times the discount as target. dyn: the posterior is "
        "detached; rep: the prior is. Clip both at 1 nat in every row, then the mean.",
        "losses = model.decoder.loss(model.decoder(feature), batch) is already a "
        "dictionary of [B, T]; add reward, continue, dyn and rep to it, take the "
        "means, and add them up with 0.1 for rep.",
    ],
)(
    in_stages(
        form=check_form,
        first_losses=check_first_losses,
        ends=check_ends,
        our_version=check_ours,
    )
)


def dream_actions(action, context):
    """Actions to imagine with after ``context`` rows: [B, T, A] -> [B, T - c, A].

    ``action`` is stored as in the replay: row t holds what was chosen after seeing x_t.
    """
    return action[:, context - 1 : -1]  # solution


def draw_rows(rng):
    """Actions of random length, and how many rows were seen."""
    batch, rows, size = (int(n) for n in rng.integers(2, 9, 3))
    return ((torch.randn(batch, rows, size), int(rng.integers(1, rows))),)


@exercise(
    "6.1", "Which actions does the dream need?", "easy", 5, [dream_actions], draw_rows
)
def check_dream_actions(dream_actions):
    """Check with actions that carry the number of their row."""
    rows = torch.arange(8.0).reshape(1, 8, 1).expand(2, 8, 3)
    out = dream_actions(rows, 3)
    require(
        out.shape == (2, 5, 3),
        "8 rows, 3 of them seen: the dream has 5 steps, so return [2, 5, 3]",
    )
    found = out[0, :, 0].tolist()
    require(
        found != [3, 4, 5, 6, 7],
        "the first dreamed frame is x_3; the action that led to it is in row 2",
    )
    require(
        found != [1, 2, 3, 4, 5], "a row too early: row 1 led to x_2, which was seen"
    )
    require(found == sorted(found), "keep the order of time")
    require(
        dream_actions(rows, 1)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6],
        "it must depend on context: with one seen row the dream begins with action 0",
    )


def my_adam(p, gradients, lr, b1=0.9, b2=0.999, eps=1e-8):
    """Adam for one tensor: the weights after one update for each gradient."""
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for step, g in enumerate(gradients, start=1):
        # solution
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**step)
        v_hat = v / (1 - b2**step)
        p = p - lr * m_hat / (v_hat.sqrt() + eps)
        # end of solution
    return p


def draw_gradients(rng):
    """Weights, gradients of all sizes, and settings."""
    size = tuple(rng.integers(1, 5, 2))
    gradients = [torch.randn(size) * 10.0 ** rng.integers(-3, 3) for _ in range(5)]
    settings = rng.uniform([1e-3, 0.5, 0.9, 1e-8], [0.1, 0.95, 0.999, 1e-2])
    return (
        (torch.randn(size), gradients[: rng.integers(1, 6)], *map(float, settings)),
    )


@exercise("6.2", "Turn LaProp into Adam", "medium", 15, [my_adam], draw_gradients)
def check_my_adam(my_adam):
    """Check against torch.optim.Adam, with hints for the usual slips."""
    torch.manual_seed(0)
    start = torch.randn(6, dtype=torch.float64)
    gradients = [torch.randn(6, dtype=torch.float64) * 4**i for i in range(5)]
    one = my_adam(start, gradients[:1], 0.1)
    require(one.shape == start.shape, "return the weights, shaped like p")
    require(
        not torch.allclose(one, start + 0.1 * gradients[0].sign()),
        "this goes uphill: subtract the update",
    )
    require(
        not torch.allclose(one, start - 0.1 / gradients[0]),
        "divide by the root of v_hat, not by v_hat itself",
    )
    require(
        torch.allclose((one - start).abs(), torch.full_like(start, 0.1)),
        "the first update has the size lr in every number: "
        + _first_slip((one - start).abs()),
    )
    check_later_updates(my_adam, start, gradients)
    check_settings(my_adam, start)


def check_later_updates(my_adam, start, gradients):
    """Check five updates in a row against torch.optim.Adam."""
    truth = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([truth], lr=0.1)
    for g in gradients:
        truth.grad = g.clone()
        adam.step()
    mine = my_adam(start.clone(), gradients, 0.1)
    require(
        not torch.allclose(mine, _laprop(start, gradients)),
        "this is LaProp: Adam averages the gradient first and divides at the end",
    )
    require(
        not torch.allclose(mine, _overwritten(start, gradients)),
        "the next update needs m and v as they were: correct copies of them",
    )
    require(
        torch.allclose(mine, truth.detach()),
        "the first update is right, later ones are not: do m and v carry over, each "
        "with its own rate, and are the powers of b1, b2 right?",
    )


def _first_slip(size):
    """Say what is missing, judged by the size of a first update with lr 0.1."""
    root = 0.001**0.5
    slips = {"m_hat": 0.01, "v_hat": 0.1 / root, "m_hat and v_hat": 0.01 / root}
    for hat, wrong in slips.items():
        if torch.allclose(size, torch.full_like(size, wrong)):
            return f"m and v start at 0 and need {hat}"
    if not size.isfinite().all():
        return (
            "this is not a number: the root of something negative, or a division by 0"
        )
    return "look at b and 1 - b in m and v, at g**2 in v, and at b**step in both hats"


def check_settings(my_adam, start):
    """Check with small gradients and a large eps, where every setting matters."""
    tiny = [torch.full_like(start, size) for size in (1e-3, -2e-3)]
    truth = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([truth], lr=0.03, betas=(0.8, 0.95), eps=1e-3)
    for g in tiny:
        truth.grad = g.clone()
        adam.step()
    mine = my_adam(start.clone(), tiny, 0.03, 0.8, 0.95, 1e-3)
    require(
        torch.allclose(mine, truth.detach()),
        "use lr, b1, b2 and eps as they are given; eps is added after the root",
    )


def _laprop(p, gradients):
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for step, g in enumerate(gradients, start=1):
        v = 0.999 * v + 0.001 * g**2
        m = 0.9 * m + 0.1 * g / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        p = p - 0.1 * m / (1 - 0.9**step)
    return p


def _overwritten(p, gradients):
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for step, g in enumerate(gradients, start=1):
        m = (0.9 * m + 0.1 * g) / (1 - 0.9**step)
        v = (0.999 * v + 0.001 * g**2) / (1 - 0.999**step)
        p = p - 0.1 * m / (v.sqrt() + 1e-8)
    return p


def reward_loss(logits, reward):
    """Mean loss of the reward head over all rows: logits [B, T, 255], reward [B, T].

    Both are aligned as in the replay: logits[:, t] come from the state of row t.
    """
    losses = TwoHot().loss(logits, reward)
    return losses.mean()


def draw_logits(rng):
    """Logits that need a gradient, and rewards of all sizes."""
    shape = tuple(int(n) for n in rng.integers(2, 6, 2))
    logits = torch.randn(*shape, 255, requires_grad=True)
    return ((logits, torch.randn(shape) * 10.0 ** rng.integers(-1, 3)),)


@exercise(
    "6.3",
    "Punished before the fall",
    "medium",
    10,
    [reward_loss],
    draw_logits,
    bug=Edit(
        "TwoHot().loss(logits, reward)", "TwoHot().loss(logits[:, :-1], reward[:, 1:])"
    ),
)
def check_reward_loss(reward_loss):
    """Check with heads that are sure of one bin in every row."""
    bins = TwoHot().bins
    index = torch.tensor(
        [[127, 140, 110, 150, 132, 127], [127, 120, 133, 100, 155, 127]]
    )
    reward = bins[index]

    def sure(index):
        return 50.0 * F.one_hot(index, 255).float()

    def loss(logits, reward=reward):
        return float(reward_loss(logits, reward))

    zero = torch.zeros(2, 6, 255)
    require(reward_loss(zero, reward).shape == (), "return one number, the mean")
    require(
        abs(loss(zero) - 5.541) < 1e-2,
        "one number for all rows is their mean, not their sum: ln 255 = 5.541 at first",
    )
    early, late = sure(index.roll(-1, 1)), sure(index.roll(1, 1))
    require(
        loss(early) > 1,
        "a head that names the reward of the *next* row costs nothing here: the reward "
        "of row t came with the frame of row t",
    )
    require(
        loss(late) > 1,
        "a head that names the reward of the row before costs nothing here: it is one "
        "row late",
    )
    nearest = (bins - symlog(reward)[..., None]).abs().argmin(-1)
    require(
        loss(sure(index)) < loss(sure(nearest)),
        "the bins are rewards, not their symlog: the reward goes in as it is",
    )
    for row, what in ((0, "first row counts as well"), (-1, "last row counts as well")):
        wrong = index.clone()
        wrong[:, row] += 1
        require(loss(sure(wrong)) > 1, f"the {what}: it has a reward like any other")
