"""Exercises of notebook 05: the recurrent state-space model."""

import torch

from course.exercises import Edit, exercise, in_stages, require
from dreamer_lite.rssm import RSSM, State, sample_one_hot

SIZES = dict(deter=16, units=8, latents=2, classes=4, blocks=2, unimix=0.01)


def posterior_of(model, h, embed):
    """What z should be after looking: memory [B, D] and embedding [B, E] -> logits."""
    return model._logits(
        model.posterior_out(model.posterior_in(torch.cat([h, embed], -1)))
    )


def my_observe(model, embed, prev_action, is_first, noise):
    """Watch a window of experience, row by row.

    Args:
        embed: embeddings [B, T, E].
        prev_action: the action that led to each row, [B, T, A].
        is_first: True on rows that begin an episode, [B, T].
        noise: what `sample_one_hot` needs, [T, B, latents, classes].

    Returns:
        Four tensors: h [B, T, D] and z [B, T, latents, classes] of every row, then the
        logits of posterior and prior, both [B, T, latents, classes].
    """
    # solution
    state, rows = model.initial(len(embed)), []
    for t in range(embed.shape[1]):
        keep = (~is_first[:, t].bool()).float()[:, None]
        state = State(state.h * keep, state.z * keep[..., None])
        h = model.advance(state, model.embed_action(prev_action[:, t] * keep))
        posterior = posterior_of(model, h, embed[:, t])
        state = State(h, sample_one_hot(posterior, noise[t]))
        rows.append((state.h, state.z, posterior, model.prior(h)))
    return tuple(torch.stack(column, 1) for column in zip(*rows))
    # end of solution


def my_imagine(model, state, policy, noise):
    """Dream on from a state, without seeing anything.

    Args:
        state: the `State` in which B dreams begin.
        policy: a callable State -> actions [B, A].
        noise: what `sample_one_hot` needs, [H, B, latents, classes].

    Returns:
        Three tensors: h [B, H+1, D] and z [B, H+1, latents, classes], of which the
        first is `state`, then the actions [B, H, A].
    """
    # solution
    states, actions = [state], []
    for step_noise in noise:
        actions.append(policy(state))
        h = model.advance(state, model.embed_action(actions[-1]))
        state = State(h, sample_one_hot(model.prior(h), step_noise))
        states.append(state)
    h, z = (torch.stack(part, 1) for part in zip(*states))
    return h, z, torch.stack(actions, 1)
    # end of solution


def small_rssm(seed=0):
    """A small RSSM as after training: its biases are not zero."""
    torch.manual_seed(seed)
    model = RSSM(6, 3, **SIZES).requires_grad_(False)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    for head in (model.prior_head, model.posterior_out):
        head[-1].weight *= 10  # dice that are loaded, each row's in its own way
    return model


def window_of(batch, length):
    """Random inputs of `my_observe`: embedding, actions, no resets, noise."""
    embed, action = torch.randn(batch, length, 6), torch.randn(batch, length, 3)
    noise = torch.empty(length, batch, 2, 4).exponential_()
    return embed, action, torch.zeros(batch, length, dtype=torch.bool), noise


def policy_of(state):
    """A policy whose actions depend on the whole state."""
    return torch.stack([state.h.mean(-1), state.z[:, 0, 0], state.z[:, 1, 1]], -1)


def check_shapes(posterior_of, my_observe, my_imagine):
    """Sizes of everything that comes back."""
    model = small_rssm()
    found = [list(x.shape) for x in my_observe(model, *window_of(3, 5))]
    right = [[3, 5, 16], [3, 5, 2, 4], [3, 5, 2, 4], [3, 5, 2, 4]]
    require(found == right, f"my_observe returns the shapes {found}, {right} are right")
    noise = torch.empty(4, 3, 2, 4).exponential_()
    dream = my_imagine(model, model.initial(3), policy_of, noise)
    found, right = [list(x.shape) for x in dream], [[3, 5, 16], [3, 5, 2, 4], [3, 4, 3]]
    require(found == right, f"my_imagine returns the shapes {found}, {right} are right")


def check_resets(posterior_of, my_observe, my_imagine):
    """An episode in the middle of a window must not know what was before it."""
    model = small_rssm()
    embed, action, first, noise = window_of(2, 8)
    first[:, 5] = True
    whole = my_observe(model, embed, action, first, noise)
    alone = my_observe(model, embed[:, 5:], 0 * action[:, 5:], first[:, 5:], noise[5:])
    require(
        torch.allclose(whole[0][:, 5], alone[0][:, 0], atol=1e-5),
        "row 5 begins an episode, but its memory differs from that of the same episode "
        "alone: before the step clear h, z and the previous action",
    )
    free = my_observe(model, embed, action, torch.zeros_like(first), noise)
    check_one_reset(my_observe, model, embed, action, noise)
    require(
        not torch.allclose(free[0][:, 5], whole[0][:, 5], atol=1e-5),
        "without a first row the memory of row 5 must come from the rows before it",
    )
    changed = action.clone()
    changed[:, 3] += 1
    other = my_observe(model, embed, changed, torch.zeros_like(first), noise)
    same = [torch.equal(a, b) for a, b in zip(free[0].unbind(1), other[0].unbind(1))]
    require(
        same.index(False) == 3 if False in same else False,
        "prev_action[:, t] is the action that led to row t: changing the one of row 3 "
        f"must change the memory of row 3 first; yours changes row "
        f"{same.index(False) if False in same else 'none'}",
    )


def check_one_reset(my_observe, model, embed, action, noise):
    """Only one of two windows begins an episode in row 5."""
    none = torch.zeros(2, 8, dtype=torch.bool)
    one = none.clone()
    one[0, 5] = True
    free, reset = (my_observe(model, embed, action, x, noise) for x in (none, one))
    require(
        all(torch.equal(a[:, :5], b[:, :5]) for a, b in zip(free[:2], reset[:2])),
        "a first row at 5 changes what rows 0 to 4 return: do not write into h or z",
    )
    require(
        torch.allclose(reset[0][1, 5], free[0][1, 5], atol=1e-5),
        "only window 0 begins an episode at row 5: window 1 keeps its memory",
    )
    blank = model.advance(model.initial(1), model.embed_action(0 * action[:1, 5]))
    require(
        torch.allclose(reset[0][:1, 5], blank, atol=1e-5),
        "row 5 begins an episode, so its memory is one step from zeros: clear h, z and "
        "the action, and the action before it is embedded",
    )


def check_dream(posterior_of, my_observe, my_imagine):
    """A dream starts where it is told, obeys its policy, and never looks."""
    model, noise = small_rssm(), torch.empty(3, 2, 2, 4).exponential_()
    start = State(torch.randn(2, 16), torch.rand(2, 2, 4))
    h, z, action = my_imagine(model, start, policy_of, noise)
    require(torch.equal(h[:, 0], start.h), "the first state of the dream is `state`")
    own = policy_of(State(h[:, 1], z[:, 1]))
    require(
        torch.allclose(action[:, 1], own, atol=1e-6),
        "the second action must be chosen in the second state of the dream",
    )
    right = model.advance(start, model.embed_action(action[:, 0]))
    require(
        torch.allclose(h[:, 1], right, atol=1e-5),
        "the second memory is one step of the model from the first state and action",
    )
    guess = sample_one_hot(model.prior(h[:, 1]), noise[0])
    require(
        torch.equal(z[:, 1].argmax(-1), guess.argmax(-1)),
        "in a dream z is drawn from the prior of the new memory, with noise[0] first",
    )


def check_ours(posterior_of, my_observe, my_imagine):
    """The package's version, which agrees with the authors' code to six digits."""
    model = small_rssm(1)
    embed, action, first, noise = window_of(3, 9)
    first[0, 4] = first[2, 7] = True
    model._noise = lambda like, *lead: noise
    states, posterior, prior = model.observe(embed, action, first)
    mine = my_observe(model, embed, action, first, noise)
    names = ("h", "z", "posterior", "prior")
    for name, a, b in zip(names, mine, (*states, posterior, prior)):
        gap = (a - b).abs().max().item()
        require(gap < 1e-4, f"my_observe: {name} differs by up to {gap:.2g}")
    dream, actions = model.imagine(states.map(lambda x: x[:, -1]), policy_of, 9)
    mine = my_imagine(model, states.map(lambda x: x[:, -1]), policy_of, noise)
    for name, a, b in zip(("h", "z", "actions"), mine, (*dream, actions)):
        gap = (a - b).abs().max().item()
        require(gap < 1e-4, f"my_imagine: {name} differs by up to {gap:.2g}")


def draw_window(rng):
    """Random windows and dreams; embedding, actions and memory want gradients."""
    batch, length = (int(n) for n in rng.integers(2, 6, 2))
    model = small_rssm(int(rng.integers(100)))
    embed, action, first, noise = window_of(batch, length)
    first[:, 0] = torch.tensor(rng.random(batch) < 0.5)
    first[:, -1] = torch.tensor(rng.random(batch) < 0.5)
    h = torch.randn(batch, 16, requires_grad=True)
    window = embed.requires_grad_(), action.requires_grad_(), first, noise
    dream = State(h, torch.rand(batch, 2, 4)), policy_of, noise
    return (model, h, embed[:, 0]), (model, *window), (model, *dream)


exercise(
    "5.0",
    "Write observe and imagine",
    "hard",
    60,
    [posterior_of, my_observe, my_imagine],
    draw_window,
    hints=[
        "Both are a loop over time that carries a State. In `my_observe` z comes from "
        "the posterior, in `my_imagine` from the prior. The rest is nearly the same.",
        "A row of `my_observe`: clear where is_first; advance the memory with the "
        "cleared state and the embedding of the cleared action; posterior from memory "
        "and frame; draw z; keep h, z, posterior and prior.",
        "keep = (~is_first[:, t].bool()).float()[:, None] multiplies h and the action, "
        "keep[..., None] multiplies z. model.advance(state, model.embed_action(a)) "
        "gives h; sample_one_hot(logits, noise[t]) gives z. Collect tuples in a list; "
        "zip(*rows) and torch.stack(..., 1) make the columns.",
    ],
)(
    in_stages(
        shapes=check_shapes,
        resets_and_actions=check_resets,
        the_dream=check_dream,
        our_version=check_ours,
    )
)


def step(model, state, prev_action, is_first):
    """The next memory h [B, D]; a row whose is_first [B] is True forgets the past."""
    keep = 1.0 - is_first.float()
    state = State(state.h * keep[:, None], state.z * keep[:, None, None])
    action_part = model.embed_action(prev_action * keep[:, None])
    return model.advance(state, action_part)


def draw_step(rng):
    """A model and a batch of random sizes, in which some rows start an episode."""
    batch, actions, latents, classes = (int(n) for n in rng.integers(2, 6, 4))
    model = RSSM(8, actions, **SIZES | {"latents": latents, "classes": classes})
    state = State(torch.randn(batch, 16), torch.rand(batch, latents, classes))
    action = torch.rand(batch, actions)
    for tensor in (*state, action):
        tensor.requires_grad_()
    return ((model, state, action, torch.tensor(rng.random(batch) < 0.5)),)


@exercise(
    "5.1",
    "No two beginnings are alike",
    "easy",
    8,
    [step],
    draw_step,
    bug=Edit(
        "model.embed_action(prev_action * keep[:, None])",
        "model.embed_action(prev_action)",
    ),
)
def check_step(step):
    """Check a batch in which the middle row starts an episode."""
    torch.manual_seed(0)
    model = RSSM(8, 5, **SIZES)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # as after training: f of zeros is not zero
            torch.nn.init.normal_(weight)
    state = State(torch.randn(3, 16), torch.rand(3, 2, 4))
    action = torch.eye(5)[:3]
    first = torch.tensor([False, True, False])

    def h(state=state, action=action):
        return step(model, state, action, first).detach()

    require(h().shape == (3, 16), "return h of every row: [B, D]")
    going = model.advance(state, model.embed_action(action))[::2].detach()
    require(
        not torch.allclose(h()[::2], model.advance(*_nothing(model, 2))),
        "the other way round: rows that continue must be kept",
    )
    require(torch.allclose(h()[::2], going, atol=1e-6), "change nothing in other rows")
    other = State(state.h + 1, state.z)
    require(torch.equal(h(other)[1], h()[1]), "an old memory reaches the new episode")
    other = State(state.h, state.z.flip(-1))
    require(torch.equal(h(other)[1], h()[1]), "an old latent reaches the new episode")
    require(
        torch.equal(h(action=action.roll(1, 1))[1], h()[1]),
        "the last action of the old episode still reaches the first row of the new one",
    )
    blank, nothing = _nothing(model, 1)
    require(
        not torch.allclose(h()[1:2], model.advance(blank, 0 * nothing), atol=1e-6),
        "the embedding of nothing is not zeros: clear the action before it is embedded",
    )
    require(
        torch.allclose(h()[1:2], model.advance(blank, nothing), atol=1e-6),
        "nothing means zeros, for the action as well, and not button 0",
    )


def _nothing(model, batch):
    """A state of zeros and the embedding of an action of zeros."""
    return model.initial(batch), model.embed_action(torch.zeros(batch, 5))


def kl_loss(posterior, prior, free_nats=1.0):
    """dyn and rep [B, T] of log-probabilities [B, T, latents, classes]."""
    fixed = posterior.detach()
    per_die = (fixed.exp() * (fixed - prior)).sum(-1)
    dyn = per_die.sum(-1).clamp(min=free_nats)
    target = prior.detach()
    per_die = (posterior.exp() * (posterior - target)).sum(-1)
    rep = per_die.sum(-1).clamp(min=free_nats)
    return dyn, rep


def draw_dice(rng):
    """Posterior and prior of random dice, near and far apart, and the free nats."""
    shape = tuple(int(n) for n in rng.integers(1, 5, 3)) + (int(rng.integers(2, 6)),)
    raw = [torch.randn(shape) * rng.uniform(0.2, 3) for _ in range(2)]
    dice = [logits.requires_grad_().log_softmax(-1) for logits in raw]
    return ((*dice, float(rng.uniform(0.1, 4))),)


@exercise(
    "5.2",
    "A prior that hardly learns",
    "medium",
    10,
    [kl_loss],
    draw_dice,
    bug=Edit(
        "dyn = per_die.sum(-1).clamp(min=free_nats)",
        "dyn = per_die.clamp(min=free_nats).sum(-1)",
    ),
)
def check_kl_loss(kl_loss):
    """Check values, the clip and where the gradients go."""
    left = torch.tensor([0.9, 0.1]).log().expand(1, 1, 32, 2).clone().requires_grad_()
    right = torch.tensor([0.5, 0.5]).log().expand(1, 1, 32, 2).clone().requires_grad_()
    dyn, rep = kl_loss(left, right)
    require(dyn.shape == (1, 1), "one number per row: [B, T]")
    require(
        abs(dyn - 16.346).max() > 1e-2,
        "16.346 is KL[prior || posterior]: the posterior's probabilities weigh the sum",
    )
    require(
        abs(dyn - 32).max() > 1e-3,
        "32 dice of 0.368 nats give 11.8, not 32: clip the sum over the dice, not each",
    )
    require(
        abs(dyn - 1).max() > 1e-3,
        "dyn is 1 where 11.8 is right: 32 dice of 0.368 nats are summed, and only what "
        "is below free_nats is raised",
    )
    near = torch.stack(kl_loss(right, right))
    require((near >= 1).all(), "below 1 nat both are clipped to 1: free nats")
    require(dyn.requires_grad, "dyn must reach the prior: detach the posterior only")
    require(rep.requires_grad, "rep must reach the posterior: detach the prior only")
    reached = torch.autograd.grad(dyn.sum(), (left, right), allow_unused=True)
    require(reached[0] is None, "dyn is for the prior: stop the posterior's gradient")
    require(reached[1] is not None, "dyn must reach the prior")
    reached = torch.autograd.grad(rep.sum(), (left, right), allow_unused=True)
    require(reached[1] is None, "rep is for the posterior: stop the prior's gradient")
    require(reached[0] is not None, "rep must reach the posterior")
    check_clip(kl_loss, left, right)


def check_clip(kl_loss, left, right):
    """Check that each row is clipped by itself and that a clip stops gradients."""
    mixed = torch.cat([left, right], 1), torch.cat([right, right], 1)
    both = torch.stack(kl_loss(*mixed))[:, 0].detach()
    require(
        (abs(both - torch.tensor([11.779, 1.0])) < 1e-2).all(),
        "clip each row by itself: one row of 11.8 nats does not lift another over 1",
    )
    uneven = torch.cat([left[:, :, :1], right[:, :, 1:]], 2).detach()
    lone = torch.stack(kl_loss(uneven, right.detach()))
    require(
        (abs(lone - 1) < 1e-3).all(),
        "one die of 0.37 nats and 31 of 0 are below the free nat: clip their sum only",
    )
    more = torch.stack(kl_loss(left, right, 20.0))
    for weights in (left, right):
        (reached,) = torch.autograd.grad(
            more.sum(), weights, retain_graph=True, allow_unused=True
        )
        require(
            reached is None or not reached.any(),
            "below the free nats no gradient is left: clamp",
        )


def most_surprised(posterior, prior):
    """The die with the largest KL[posterior || prior], in one row.

    Both are log-probabilities [latents, classes], as everywhere in this notebook.
    Returns the number of the die, counted from 0, and its KL in nats.
    """
    # solution
    per_die = (posterior.exp() * (posterior - prior)).sum(-1)
    most = per_die.argmax()
    return most, per_die[most]
    # end of solution


def draw_two_dice(rng):
    """Two sets of random dice."""
    shape = tuple(rng.integers(2, 7, 2))
    return (tuple((2 * torch.randn(shape)).log_softmax(-1) for _ in range(2)),)


@exercise(
    "5.3", "Which die was surprised?", "medium", 10, [most_surprised], draw_two_dice
)
def check_most_surprised(most_surprised):
    """Check on three dice with different surprises."""
    q = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]]).log()
    p = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]]).log()
    number, nats = (torch.as_tensor(found) for found in most_surprised(q, p))
    require(number.shape == nats.shape == (), "return two numbers: the die, its KL")
    require(
        number == number.round(),
        f"the first result is the number of a die; yours is {number.item():.3f}",
    )
    require(abs(nats - 0.4252) > 1e-3, "0.425 is the sum of all three: one die only")
    require(
        abs(nats - 0.5108) > 1e-3,
        "0.511 is KL[prior || posterior]: weigh with the posterior's probabilities",
    )
    require(
        abs(nats - 0.5878) > 1e-3,
        "0.588 is one face's log ratio: weigh the faces with their probabilities",
    )
    require(
        abs(nats - 0.1839) > 1e-3, "0.184 is a mean over the faces: they are summed"
    )
    require(
        number == 1,
        f"die 1 has the largest KL, from an even chance to (0.9, 0.1); yours is die "
        f"{number.item()}",
    )
    q = torch.tensor([[0.02, 0.98], [0.9, 0.1]]).log()
    p = torch.tensor([[0.001, 0.999], [0.5, 0.5]]).log()
    require(
        most_surprised(q, p)[0] == 1,
        "one large log ratio is not yet a large KL: weigh it before you choose the die",
    )
