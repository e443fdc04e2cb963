"""Exercises of notebook 05: the recurrent state-space model."""

import torch

from dreamer_lite.course.exercises import Edit, exercise, require


def clear(h, z, prev_action, is_first):
    """Zero h [B, D], z [B, L, C] and prev_action [B, A] where is_first [B] is True."""
    # solution
    keep = 1.0 - is_first.float()
    h = h * keep[:, None]
    z = z * keep[:, None, None]
    prev_action = prev_action * keep[:, None]
    # end of solution
    return h, z, prev_action


def check_clear(clear):
    """Check a batch in which the middle row starts an episode."""
    first = torch.tensor([False, True, False])
    given = torch.full((3, 6), 2.0), torch.full((3, 2, 4), 3.0), torch.full((3, 5), 4.0)
    h, z, action = clear(*given, first)
    same = [new.shape == old.shape for new, old in zip((h, z, action), given)]
    require(all(same), "every part keeps its shape")
    require(h[0].abs().sum() > 0, "the other way round: rows that go on must be kept")
    require(not h[1].any(), "the memory h must be zero where an episode starts")
    require(not z[1].any(), "z must be zero as well: all zeros, not a one-hot")
    require(not action[1].any(), "the previous action belongs to another episode too")
    kept = [torch.equal(new[[0, 2]], old[[0, 2]]) for new, old in zip((h, z), given)]
    require(all(kept) and torch.equal(action[0], given[2][0]), "keep the other rows")


exercise(
    "5.1",
    "A new episode inside a window",
    difficulty="easy",
    minutes=8,
    solution=[clear],
    check=check_clear,
    example=lambda fn: fn(
        torch.ones(3, 6), torch.ones(3, 2, 4), torch.ones(3, 5), torch.zeros(3).bool()
    ),
    wrongs=[
        Edit("1.0 - is_first.float()", "is_first.float()", "the other way round"),
        Edit("h * keep[:, None]", "h * 1.0", "the memory h must be zero"),
        Edit("z * keep[:, None, None]", "z * 1.0", "all zeros, not a one-hot"),
        Edit("prev_action * keep[:, None]", "prev_action * 1.0", "another episode too"),
        Edit(
            "1.0 - is_first.float()",
            "0.5 * (1.0 - is_first.float())",
            "keep the other rows",
        ),
    ],
)


def kl_loss(posterior, prior, free_nats=1.0):
    """dyn and rep [B, T] of log-probabilities [B, T, latents, classes]."""
    fixed = posterior.detach()
    per_die = (fixed.exp() * (fixed - prior)).sum(-1)
    dyn = per_die.sum(-1).clamp(min=free_nats)
    target = prior.detach()
    per_die = (posterior.exp() * (posterior - target)).sum(-1)
    rep = per_die.sum(-1).clamp(min=free_nats)
    return dyn, rep


def check_kl_loss(kl_loss):
    """Check values, the clip and where the gradients go."""
    left = torch.tensor([0.9, 0.1]).log().expand(1, 1, 32, 2).clone().requires_grad_()
    right = torch.tensor([0.5, 0.5]).log().expand(1, 1, 32, 2).clone().requires_grad_()
    dyn, rep = kl_loss(left, right)
    require(dyn.shape == (1, 1), "one number per row: [B, T]")
    require(
        abs(dyn - 16.352).max() > 1e-2,
        "16.352 is KL[prior || posterior]: the posterior's probabilities weigh the sum",
    )
    require(
        abs(dyn - 32).max() > 1e-3,
        "32 dice of 0.368 nats give 11.8, not 32: clip the sum over the dice, not each",
    )
    require(
        abs(dyn - 1).max() > 1e-3, "1 is too small: sum over the dice, do not average"
    )
    require(abs(dyn - 11.779).max() < 1e-2, "32 dice of 0.368 nats give 11.8")
    near = kl_loss(right, right)[0]
    require(near.item() >= 1.0, "below 1 nat the loss is clipped to 1: free nats")
    reached = torch.autograd.grad(dyn.sum(), (left, right), allow_unused=True)
    require(reached[0] is None, "dyn is for the prior: stop the posterior's gradient")
    require(reached[1] is not None, "dyn must reach the prior")
    reached = torch.autograd.grad(rep.sum(), (left, right), allow_unused=True)
    require(reached[1] is None, "rep is for the posterior: stop the prior's gradient")
    require(reached[0] is not None, "rep must reach the posterior")
    require(
        torch.allclose(dyn, rep), "dyn and rep are the same number: clip both alike"
    )


exercise(
    "5.2",
    "A prior that never learns",
    difficulty="medium",
    minutes=10,
    kind="bug",
    solution=[kl_loss],
    bug=Edit(
        "dyn = per_die.sum(-1).clamp(min=free_nats)",
        "dyn = per_die.clamp(min=free_nats).sum(-1)",
    ),
    check=check_kl_loss,
    example=lambda fn: fn(
        torch.randn(2, 3, 4, 8).log_softmax(-1), torch.randn(2, 3, 4, 8).log_softmax(-1)
    ),
    wrongs=[
        Edit(
            "(fixed.exp() * (fixed - prior))",
            "(prior.exp() * (prior - fixed))",
            "the posterior's probabilities",
        ),
        Edit("dyn = per_die.sum(-1)", "dyn = per_die.mean(-1)", "do not average"),
        Edit(
            "dyn = per_die.sum(-1).clamp(min=free_nats)",
            "dyn = per_die.sum(-1)",
            "clipped to 1",
        ),
        Edit("fixed = posterior.detach()", "fixed = posterior", "dyn is for the prior"),
        Edit("target = prior.detach()", "target = prior", "rep is for the posterior"),
    ],
)


def most_surprised(posterior, prior):
    """The die [latents, classes] that surprises most: (its number, its KL in nats)."""
    # solution
    per_die = (posterior.exp() * (posterior - prior)).sum(-1)
    most = per_die.argmax()
    return most, per_die[most]
    # end of solution


def check_most_surprised(most_surprised):
    """Check on three dice with different surprises."""
    q = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]]).log()
    p = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]]).log()
    number, nats = most_surprised(q, p)
    require(number.shape == nats.shape == (), "return two tensors without dimensions")
    require(nats > 0, "the KL of a whole die is never negative: sum over its faces")
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
    require(number == 1, "die 1 is the one: it went from an even chance to (0.9, 0.1)")
    require(abs(nats - 0.3681) < 1e-3, "0.9 ln 1.8 + 0.1 ln 0.2 = 0.368")


exercise(
    "5.3",
    "Which die was surprised?",
    difficulty="medium",
    minutes=10,
    solution=[most_surprised],
    check=check_most_surprised,
    example=lambda fn: fn(
        torch.randn(4, 8).log_softmax(-1), torch.randn(4, 8).log_softmax(-1)
    ),
    wrongs=[
        Edit(
            "posterior.exp() * (posterior - prior)",
            "prior.exp() * (prior - posterior)",
            "weigh with the posterior's",
        ),
        Edit("per_die[most]", "per_die.sum()", "one die only"),
        Edit(".sum(-1)", ".mean(-1)", "they are summed"),
        Edit(
            "(posterior.exp() * (posterior - prior)).sum(-1)",
            "(posterior - prior).amax(-1)",
            "one face's log ratio",
        ),
        Edit("per_die.argmax()", "per_die.argmin()", "die 1 is the one"),
    ],
)
