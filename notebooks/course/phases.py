"""The two phases of Dreamer's learning, and where gradients stop in each."""

from course.drawing import INK, QUIET, Sheet
from course.style import COLORS

HEIGHT = 500
WIDTH = 396
# The shapes as the text names them, drawn where no model is at hand.
H, Z, FEATURE = ("B", "T", "D"), ("B", "T", "L", "C"), ("BT", "H+1", "F")


def world_model_phase(h=H, z=Z):
    """Draw how the world model learns: the posterior teaches the prior.

    Args: h, z: the shapes of a batch of states, `states.h.shape` and `states.z.shape`.
    """
    sheet = Sheet(WIDTH, HEIGHT)
    _world_model(sheet, 0, h, z)
    return sheet.fig, _seen(h, z)


def behaviour_phase(feature=FEATURE):
    """Draw how actor and critic learn in the dream, with no gradient into the model.

    Args: feature: the shape of the dreamed states' features.
    """
    sheet = Sheet(WIDTH, HEIGHT)
    _behaviour(sheet, 0, feature)
    return sheet.fig, _dreamed(feature)


def two_phases(h=H, z=Z, feature=FEATURE):
    """Draw the world-model phase and the behaviour phase side by side.

    Args: h, z, feature: shapes, as the two phases alone take them.
    """
    sheet = Sheet(2 * WIDTH + 8, HEIGHT)
    _world_model(sheet, 0, h, z)
    _behaviour(sheet, WIDTH + 8, feature)
    return sheet.fig, f"Left: {_seen(h, z)[:-1]}; right: {_dreamed(feature)}"


def _written(shape):
    """Write a shape as the course does: [16, 64, 512]."""
    return f"[{', '.join(str(size) for size in shape)}]"


def _seen(h, z):
    return (
        "The world-model phase: a posterior that sees the frame teaches a prior that "
        "does not, two KL terms stop the gradient on one side each, and heads read the "
        f"state, h {_written(h)} and z {_written(z)}."
    )


def _dreamed(feature):
    return (
        "The behaviour phase: from a replayed state the prior dreams on, the actor "
        "chooses, and gradients stop before the model, so only actor and critic learn "
        f"from dreams; the dreamed states are {_written(feature)}."
    )


def _panel(sheet, x, title, note):
    sheet.box(
        x + 4,
        4,
        WIDTH - 8,
        HEIGHT - 8,
        face="#F7F9FB",
        edge="#CBD2D9",
        round=10,
        layer=0,
    )
    sheet.text(x + 20, 26, title, size=12, weight="bold", ha="left")
    sheet.text(x + 20, 46, note, size=8.5, color=QUIET, ha="left")


def _tinted(quantity, **more):
    return {"edge": COLORS[quantity], "width": 2, **more}


def _world_model(sheet, x, h, z):
    """Draw the phase on replayed sequences, its left edge at x."""
    note = "on replayed sequences: real frames and actions"
    _panel(sheet, x, "World-model phase", note)
    _memory(sheet, x, h)
    _guesses(sheet, x, z)
    _kl(sheet, x)
    _heads(sheet, x)
    _key(sheet, x, "points at what a KL term trains", COLORS["kl"])


def _memory(sheet, x, shape):
    """Draw how state, action and frame come in."""
    box, arrow = sheet.box, sheet.arrow
    state = {"note": r"$h_{t-1},\, z_{t-1}$", "note_size": 7.6, "size": 9.5}
    box(x + 18, 136, 66, 52, "state", **state)
    box(x + 18, 206, 66, 38, r"$a_{t-1}$", size=11, **_tinted("action"))
    box(x + 108, 152, 76, 78, r"$h_t$", note="block GRU", size=12, **_tinted("memory"))
    arrow((x + 84, 166), (x + 108, 166))
    arrow((x + 84, 225), (x + 96, 225), (x + 96, 206), (x + 108, 206))
    box(x + 18, 332, 66, 48, r"$x_t$", note="real frame", size=11, **_tinted("real"))
    box(x + 108, 332, 76, 48, "encoder", size=9.5)
    arrow((x + 84, 356), (x + 108, 356))
    sheet.text(x + 140, 127, _written(shape), size=7.8, color=QUIET, ha="right")


def _guesses(sheet, x, shape):
    """Draw the prior, which has not seen the frame, and the posterior, which has."""
    box, arrow = sheet.box, sheet.arrow
    student = _tinted("prior", style=(0, (4, 2)), note="has not seen the frame")
    teacher = _tinted("posterior", note="has seen the frame")
    box(x + 212, 72, 168, 58, "prior: the student", **student)
    box(x + 212, 252, 168, 58, "posterior: the teacher", **teacher)
    arrow((x + 146, 152), (x + 146, 101), (x + 212, 101))
    arrow((x + 146, 230), (x + 146, 270), (x + 212, 270))
    arrow((x + 184, 356), (x + 198, 356), (x + 198, 292), (x + 212, 292))
    box(x + 268, 332, 56, 40, r"$z_t$", size=12, **_tinted("latent"))
    arrow((x + 296, 310), (x + 296, 332))
    sheet.text(x + 304, 321, "sample", size=8, color=QUIET, ha="left")
    sheet.text(x + 288, 321, _written(shape), size=7.8, color=QUIET, ha="right")


def _kl(sheet, x):
    """Draw the two KL terms: each trains one side and stops at the other."""
    color, dashes = COLORS["kl"], (0, (3, 2))
    for left, name, scale, learns, stopped in (
        (218, "dyn", "1.0 x KL", 130, 252),
        (300, "rep", "0.1 x KL", 252, 130),
    ):
        middle = x + left + 37
        sheet.box(x + left, 170, 74, 42, name, note=scale, **_tinted("kl"))
        upward = learns < 190
        start, end = (170, 212) if upward else (212, 170)
        look = {"color": color, "style": dashes, "width": 1.8}
        sheet.arrow((middle, start), (middle, learns), **look)
        sheet.line((middle, end), (middle, stopped), **look)
        sheet.stop(middle, (end + stopped) / 2, vertical=True)


def _heads(sheet, x):
    """Draw what is predicted from h and z together."""
    sheet.line((x + 296, 372), (x + 296, 392), color=INK, width=1.3)
    sheet.line((x + 70, 392), (x + 330, 392), color=INK, width=1.3)
    sheet.text(x + 232, 383, r"with $h_t$", size=8, color=QUIET)
    heads = (
        (18, "decoder", r"frame $\hat{x}_t$", "dreamed"),
        (144, "reward", r"$\hat{r}_t$", "reward"),
        (270, "continue", r"$\hat{c}_t$", "continue"),
    )
    for left, name, note, quantity in heads:
        middle = x + left + 54
        sheet.arrow((middle, 392), (middle, 408))
        sheet.box(
            x + left,
            408,
            108,
            44,
            name,
            note=note,
            note_size=9.5,
            size=9.5,
            **_tinted(quantity),
        )


def _key(sheet, x, text, color):
    """Explain the two kinds of marks at the foot of a phase."""
    sheet.arrow((x + 18, 473), (x + 46, 473), color=color, style=(0, (3, 2)), width=1.8)
    sheet.text(x + 54, 473, text, size=8, ha="left", color=QUIET)
    sheet.stop(x + 262, 473)
    sheet.text(x + 272, 473, "gradient stops here", size=8, ha="left", color=QUIET)


def _behaviour(sheet, x, feature):
    """Draw the phase in the dream, its left edge at x."""
    _panel(
        sheet, x, "Behaviour phase", "in the dream: no frame is seen, no game is played"
    )
    columns = (x + 54, x + 148, x + 242, x + 346)
    sheet.box(x + 112, 72, 268, 40, r"$\lambda$-returns  $R_t$", **_tinted("return"))
    _dreamed_states(sheet, columns, feature)
    for step, middle in enumerate(columns):
        name = "H" if step == 3 else step
        if step:
            _judged(sheet, middle, name)
        if step < 3:
            _chosen(sheet, middle, name, step)
    boxes = (
        (18, "critic learns", r"$v(s_t)$ towards $R_t$", "critic"),
        (206, "actor learns", r"$\log\pi(a_t | s_t) \cdot$ advantage", "actor"),
    )
    for left, name, note, quantity in boxes:
        sheet.box(
            x + left, 398, 174, 54, name, note=note, note_size=9.5, **_tinted(quantity)
        )
    sheet.text(
        x + 18,
        473,
        "the world model learns nothing here",
        size=8,
        ha="left",
        color=QUIET,
    )
    sheet.stop(x + 262, 473)
    sheet.text(x + 272, 473, "gradient stops here", size=8, ha="left", color=QUIET)


def _dreamed_states(sheet, columns, shape):
    """Draw the start state from replay and the states dreamed after it."""
    first, *others = columns
    sheet.box(
        first - 34,
        204,
        68,
        50,
        r"$s_0$",
        note="replayed",
        size=12,
        **_tinted("posterior"),
    )
    dashed = _tinted("prior", style=(0, (4, 2)))
    for middle, name in zip(others, ("1", "2", "H"), strict=True):
        sheet.box(
            middle - 30, 204, 60, 50, rf"$s_{name}$", note="dreamed", size=12, **dashed
        )
    words = _written(shape)
    sheet.text(columns[3] + 34, 264, words, size=7.8, color=QUIET, ha="right")
    sheet.arrow((first + 34, 229), (columns[1] - 30, 229))
    sheet.arrow((columns[1] + 30, 229), (columns[2] - 30, 229))
    sheet.arrow((columns[2] + 30, 229), (columns[3] - 30, 229), style=(0, (1, 1.5)))


def _judged(sheet, middle, name):
    """Draw reward, continue and value of one dreamed state."""
    sheet.arrow((middle, 204), (middle, 174))
    sheet.stop(middle, 190, vertical=True)
    words = rf"$r_{name}$  $c_{name}$  $v_{name}$"
    sheet.box(middle - 37, 138, 74, 36, words, size=9.5, **_tinted("critic"))
    sheet.arrow((middle, 138), (middle, 112))


def _chosen(sheet, middle, name, step):
    """Draw the action that the actor chooses in one state."""
    sheet.arrow((middle, 254), (middle, 312))
    sheet.stop(middle, 278, vertical=True)
    sheet.box(
        middle - 30,
        312,
        60,
        48,
        "actor",
        note=rf"$a_{name}$",
        note_size=10,
        size=9.5,
        **_tinted("actor"),
    )
    joint = middle + 47 + (5 if step == 2 else 0)
    sheet.arrow((middle + 30, 336), (joint, 336), (joint, 231))
