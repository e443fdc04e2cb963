"""Exercises of notebook 06: the world model."""

import torch

from dreamer_lite.course.exercises import Edit, exercise, require


def dream_actions(action, context):
    """Actions to imagine with after ``context`` rows: [B, T, A] -> [B, T - c, A].

    ``action`` is stored as in the replay: row t holds what was chosen after seeing x_t.
    """
    return action[:, context - 1 : -1]  # solution


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
        "the first dreamed frame is x_3; the action that led to it stands in row 2",
    )
    require(
        found != [1, 2, 3, 4, 5],
        "a row too early: row 1 led to x_2, which was seen",
    )
    require(found == sorted(found), "keep the order of time")
    require(
        found == [2, 3, 4, 5, 6],
        "from row context - 1 to the row before the last, which leads out of it",
    )
    require(
        dream_actions(rows, 1)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6],
        "it must depend on context: with one seen row the dream begins with action 0",
    )


exercise(
    "6.1",
    "Which actions does the dream need?",
    difficulty="easy",
    minutes=5,
    solution=[dream_actions],
    check=check_dream_actions,
    example=lambda fn: fn(torch.zeros(2, 8, 3), 3),
    wrongs=[
        Edit("context - 1 : -1", "context:", "stands in row 2"),
        Edit("context - 1 : -1", "context - 2 : -2", "a row too early"),
        Edit("context - 1 : -1]", "context - 1 : -1].flip(1)", "order of time"),
        Edit("context - 1 : -1", "2 : action.shape[1] + 2 - context", "depend on"),
    ],
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


def check_my_adam(my_adam):
    """Check against torch.optim.Adam, with hints for the usual slips."""
    torch.manual_seed(0)
    start = torch.randn(6, dtype=torch.float64)
    gradients = [torch.randn(6, dtype=torch.float64) * 4**i for i in range(5)]
    given = start.clone()
    one = my_adam(given, gradients[:1], 0.1)
    require(torch.equal(given, start), "do not change the tensor that came in")
    require(one.shape == start.shape, "return the weights, shaped like p")
    require(
        not torch.allclose(one, start + 0.1 * gradients[0].sign()),
        "this goes uphill: subtract the update",
    )
    require(
        torch.allclose((one - start).abs(), torch.full_like(start, 0.1)),
        "the first update has the size lr in every number: m and v start at 0 and need "
        + ("m_hat" if (one - start).abs().max() < 0.1 else "v_hat"),
    )
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
        torch.allclose(mine, truth.detach()),
        "the first update is right, later ones are not: look at the powers of b1, b2",
    )


def _laprop(p, gradients):
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for step, g in enumerate(gradients, start=1):
        v = 0.999 * v + 0.001 * g**2
        m = 0.9 * m + 0.1 * g / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        p = p - 0.1 * m / (1 - 0.9**step)
    return p


exercise(
    "6.2",
    "Turn LaProp into Adam",
    difficulty="medium",
    minutes=15,
    solution=[my_adam],
    check=check_my_adam,
    example=lambda fn: fn(torch.ones(3), [torch.ones(3)], 0.1),
    wrongs=[
        Edit("m_hat = m / (1 - b1**step)", "m_hat = m", "need m_hat"),
        Edit("v_hat = v / (1 - b2**step)", "v_hat = v", "need v_hat"),
        Edit("p = p - lr", "p = p + lr", "uphill"),
        Edit(
            "m = b1 * m + (1 - b1) * g\n        v = b2 * v + (1 - b2) * g**2",
            "v = b2 * v + (1 - b2) * g**2\n"
            "        m = b1 * m + (1 - b1) * g / ((v / (1 - b2**step)).sqrt() + eps)\n"
            "        p = p - lr * m / (1 - b1**step)\n"
            "        continue",
            "this is LaProp",
        ),
        Edit("(1 - b1**step)", "(1 - b1)", "powers of b1, b2"),
    ],
)


def frame_loss(recon, obs):
    """Frame loss of every row: recon [B, T, H, W, C] in 0..1, obs bytes -> [B, T]."""
    error = recon - obs.float() / 255
    return error.square().sum((-1, -2, -3))


def check_frame_loss(frame_loss):
    """Check on frames whose loss one can say without a computer."""
    grey = torch.full((2, 3, 64, 64, 3), 0.5)
    black = torch.zeros(2, 3, 64, 64, 3, dtype=torch.uint8)
    loss = frame_loss(grey, black)
    require(loss.shape == (2, 3), "one number for every row: [B, T]")
    require(
        (loss > 1).all(),
        "grey against black costs 0.25 in each of 12,288 numbers. Beside a KL of about "
        "10 nats the frame must weigh 3,072: add up the pixels, do not average them",
    )
    bright = torch.full_like(black, 255)
    require(
        torch.allclose(frame_loss(torch.ones_like(grey), bright), torch.zeros(2, 3)),
        "a perfect white frame costs nothing: bring the bytes to 0..1",
    )
    require(
        not torch.allclose(loss, torch.full((2, 3), 6144.0)),
        "the paper's frame loss squares the error; this adds up its size",
    )
    require(
        not torch.allclose(loss, torch.full((2, 3), 1024.0)),
        "all three colours count: sum over H, W and C",
    )
    require(torch.allclose(loss, torch.full((2, 3), 3072.0)), "12,288 x 0.25 = 3,072")


exercise(
    "6.3",
    "The model that will not look",
    difficulty="medium",
    minutes=10,
    kind="bug",
    bug=Edit(".sum((-1, -2, -3))", ".mean((-1, -2, -3))"),
    solution=[frame_loss],
    check=check_frame_loss,
    example=lambda fn: fn(
        torch.zeros(2, 3, 4, 4, 3), torch.zeros(2, 3, 4, 4, 3, dtype=torch.uint8)
    ),
    wrongs=[
        Edit("obs.float() / 255", "obs.float()", "bring the bytes to 0..1"),
        Edit("error.square()", "error.abs()", "squares the error"),
        Edit(".sum((-1, -2, -3))", ".sum((-2, -3)).mean(-1)", "all three colours"),
    ],
)
