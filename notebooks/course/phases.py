"""The two phases of Dreamer's learning, and where gradients stop in each."""

from course.drawing import Sheet
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
    _world_model(sheet, h, z)
    return sheet.fig, _seen(h, z)


def behaviour_phase(feature=FEATURE):
    """Draw how actor and critic learn in the dream, with no gradient into the model.

    Args: feature: the shape of the dreamed states' features.
    """
    sheet = Sheet(WIDTH, HEIGHT)
    _behaviour(sheet, feature)
    return sheet.fig, _dreamed(feature)


def two_phases(h=H, z=Z, feature=FEATURE):
    """Draw the world-model phase and the behaviour phase side by side.

    Args: h, z, feature: shapes, as the two phases alone take them.
    """
    sheet = Sheet(2 * WIDTH + 8, HEIGHT)
    _world_model(sheet, h, z)
    sheet.left = WIDTH + 8
    _behaviour(sheet, feature)
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


def _panel(sheet, title, note):
    look = {"face": "#F7F9FB", "edge": "#CBD2D9", "round": 10, "layer": 0}
    sheet.box(4, 4, WIDTH - 8, HEIGHT - 8, **look)
    sheet.text(20, 26, title, size=12, weight="bold", ha="left")
    sheet.note(20, 46, note, size=8.5, ha="left")


def _world_model(sheet, h, z):
    """Draw the phase on replayed sequences."""
    note = "on replayed sequences: real frames and actions"
    _panel(sheet, "World-model phase", note)
    _memory(sheet, h)
    _guesses(sheet, z)
    _kl(sheet)
    _heads(sheet)
    style = {"color": COLORS["kl"], "style": (0, (3, 2)), "width": 1.8}
    sheet.arrow((18, 473), (46, 473), **style)
    _key(sheet, 54, "points at what a KL term trains")


def _memory(sheet, shape):
    """Draw how state, action and frame come in."""
    box, arrow, name = sheet.box, sheet.arrow, r"$h_{t-1},\, z_{t-1}$"
    box(18, 136, 66, 52, "state", name, size=9.5, note_size=7.6)
    box(18, 206, 66, 38, r"$a_{t-1}$", size=11, tint="action")
    box(108, 152, 76, 78, r"$h_t$", "block GRU", size=12, tint="memory")
    arrow((84, 166), (108, 166))
    arrow((84, 225), (96, 225), (96, 206), (108, 206))
    box(18, 332, 66, 48, r"$x_t$", "real frame", size=11, tint="real")
    box(108, 332, 76, 48, "encoder", size=9.5)
    arrow((84, 356), (108, 356))
    sheet.note(140, 127, _written(shape), size=7.8, ha="right")


def _guesses(sheet, shape):
    """Draw the prior, which has not seen the frame, and the posterior, which has."""
    box, arrow = sheet.box, sheet.arrow
    unseen = "has not seen the frame"
    box(212, 72, 168, 58, "prior: the student", unseen, tint="prior", dashed=True)
    name = "posterior: the teacher"
    box(212, 252, 168, 58, name, "has seen the frame", tint="posterior")
    arrow((146, 152), (146, 101), (212, 101))
    arrow((146, 230), (146, 270), (212, 270))
    arrow((184, 356), (198, 356), (198, 292), (212, 292))
    box(268, 332, 56, 40, r"$z_t$", size=12, tint="latent")
    arrow((296, 310), (296, 332))
    sheet.note(304, 321, "sample", size=8, ha="left")
    sheet.note(288, 321, _written(shape), size=7.8, ha="right")


def _kl(sheet):
    """Draw the two KL terms: each trains one side and stops at the other."""
    look = {"color": COLORS["kl"], "style": (0, (3, 2)), "width": 1.8}
    for left, name, scale, learns, stopped in (
        (218, "dyn", "1.0 x KL", 130, 252),
        (300, "rep", "0.1 x KL", 252, 130),
    ):
        middle = left + 37
        sheet.box(left, 170, 74, 42, name, scale, tint="kl")
        start, end = (170, 212) if learns < 190 else (212, 170)
        sheet.arrow((middle, start), (middle, learns), **look)
        sheet.line((middle, end), (middle, stopped), **look)
        sheet.stop(middle, (end + stopped) / 2, vertical=True)


def _heads(sheet):
    """Draw what is predicted from h and z together."""
    sheet.line((296, 372), (296, 392))
    sheet.line((70, 392), (330, 392))
    sheet.note(232, 383, r"with $h_t$", size=8)
    for left, name, note, tint in (
        (18, "decoder", r"frame $\hat{x}_t$", "dreamed"),
        (144, "reward", r"$\hat{r}_t$", "reward"),
        (270, "continue", r"$\hat{c}_t$", "continue"),
    ):
        sheet.arrow((left + 54, 392), (left + 54, 408))
        sheet.box(left, 408, 108, 44, name, note, note_size=9.5, size=9.5, tint=tint)


def _key(sheet, x, text):
    """Explain the marks at the foot of a phase."""
    sheet.note(x, 473, text, size=8, ha="left")
    sheet.stop(262, 473)
    sheet.note(272, 473, "gradient stops here", size=8, ha="left")


def _behaviour(sheet, feature):
    """Draw the phase in the dream."""
    _panel(
        sheet, "Behaviour phase", "in the dream: no frame is seen, no game is played"
    )
    columns = (54, 148, 242, 346)
    sheet.box(112, 72, 268, 40, r"$\lambda$-returns  $R_t$", tint="return")
    _dreamed_states(sheet, columns, feature)
    for step, middle in enumerate(columns):
        name = "H" if step == 3 else step
        if step:
            _judged(sheet, middle, name)
        if step < 3:
            _chosen(sheet, middle, name, step)
    for left, name, note, tint in (
        (18, "critic learns", r"$v(s_t)$ towards $R_t$", "critic"),
        (206, "actor learns", r"$\log\pi(a_t | s_t) \cdot$ advantage", "actor"),
    ):
        sheet.box(left, 398, 174, 54, name, note, note_size=9.5, tint=tint)
    _key(sheet, 18, "the world model learns nothing here")


def _dreamed_states(sheet, columns, shape):
    """Draw the start state from replay and the states dreamed after it."""
    first, second, third, last = columns
    sheet.box(first - 34, 204, 68, 50, r"$s_0$", "replayed", size=12, tint="posterior")
    for middle, name in zip(columns[1:], "12H"):
        look = {"size": 12, "tint": "prior", "dashed": True}
        sheet.box(middle - 30, 204, 60, 50, rf"$s_{name}$", "dreamed", **look)
    sheet.note(last + 34, 264, _written(shape), size=7.8, ha="right")
    sheet.arrow((first + 34, 229), (second - 30, 229))
    sheet.arrow((second + 30, 229), (third - 30, 229))
    sheet.arrow((third + 30, 229), (last - 30, 229), style=(0, (1, 1.5)))


def _judged(sheet, middle, name):
    """Draw reward, continue and value of one dreamed state."""
    sheet.arrow((middle, 204), (middle, 174))
    sheet.stop(middle, 190, vertical=True)
    words = rf"$r_{name}$  $c_{name}$  $v_{name}$"
    sheet.box(middle - 37, 138, 74, 36, words, size=9.5, tint="critic")
    sheet.arrow((middle, 138), (middle, 112))


def _chosen(sheet, middle, name, step):
    """Draw the action that the actor chooses in one state."""
    sheet.arrow((middle, 254), (middle, 312))
    sheet.stop(middle, 278, vertical=True)
    look = {"note_size": 10, "size": 9.5, "tint": "actor"}
    sheet.box(middle - 30, 312, 60, 48, "actor", rf"$a_{name}$", **look)
    joint = middle + 47 + (5 if step == 2 else 0)
    sheet.arrow((middle + 30, 336), (joint, 336), (joint, 231))
