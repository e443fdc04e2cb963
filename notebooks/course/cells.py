"""The RSSM drawn: one step with its shapes, six steps in a row, and one throw."""

from course.drawing import Sheet
from course.style import COLORS


def rssm_cell(
    embed_size=1024,
    action_size=5,
    deter=1024,
    units=128,
    latents=32,
    classes=8,
    blocks=8,
):
    """Draw one step of the block-GRU RSSM and return the figure and its alt sentence.

    Args: the sizes of the RSSM's constructor; they are written into the boxes.
    """
    sheet = Sheet(800, 400)
    stoch = latents * classes
    _inputs(sheet, deter, stoch, action_size, units, (latents, classes))
    _core(sheet, deter, units, blocks)
    _outputs(sheet, deter, units, embed_size, latents, classes)
    alt = (
        f"One RSSM step: h [{deter}], z [{latents} x {classes}] and the action "
        f"[{action_size}] pass through {blocks} blocks into gates that give the new h, "
        f"from which the prior and, with the embedding [{embed_size}], the posterior "
        "follow."
    )
    return sheet.fig, alt


def _inputs(sheet, deter, stoch, actions, hidden, latent):
    """Draw the three inputs and the layer that brings each to the same width."""
    rows = (
        (76, r"$h_{t-1}$", f"[B, {deter}]", "memory", deter),
        (166, r"$z_{t-1}$", f"[B, {latent[0]}, {latent[1]}]", "latent", stoch),
        (256, r"$a_{t-1}$", f"[B, {actions}]", "action", actions),
    )
    for y, name, shape, tint, size in rows:
        sheet.box(14, y - 26, 92, 52, name, shape, size=12, tint=tint)
        sheet.box(134, y - 22, 104, 44, "MLP, 1 layer", f"{size} to {hidden}", size=9)
        sheet.arrow((106, y), (134, y))
        sheet.line((238, y), (254, y))
    sheet.line((254, 76), (254, 256))
    sheet.arrow((254, 166), (272, 166))


def _core(sheet, deter, hidden, blocks):
    """Draw the block-diagonal layers, the gates and the memory's own way through."""
    each, normed = f"each: own {deter // blocks} of h", f"[B, {deter}], norm, SiLU"
    gates = f"[B, 3 x {deter}]"
    for left, middle, title, *lines, shape in (
        (272, 336, f"{blocks} blocks", each, f"+ shared 3 x {hidden}", normed),
        (420, 486, "gates", "reset, candidate", "update (bias -1)", gates),
    ):
        sheet.box(left, 112, 2 * (middle - left), 108, tint="neutral")
        sheet.text(middle, 134, title, size=10, weight="bold")
        for y, words in zip((156, 174), lines):
            sheet.text(middle, y, words, size=8.2)
        sheet.note(middle, 198, shape)
    color = COLORS["memory"]
    sheet.arrow((60, 50), (60, 28), (336, 28), (336, 112), color=color)
    sheet.arrow((400, 166), (420, 166))
    sheet.arrow((336, 28), (486, 28), (486, 112), color=color)
    formula = r"$h_t$ = update $\cdot$ candidate + (1 - update) $\cdot$ $h_{t-1}$"
    sheet.text(345, 18, formula, size=9, ha="left")


def _outputs(sheet, deter, hidden, embed, latents, classes):
    """Draw the new memory, the prior from it, the posterior with the embedding."""
    box, arrow, shape = sheet.box, sheet.arrow, f"[B, {latents}, {classes}]"
    box(580, 140, 84, 52, r"$h_t$", f"[B, {deter}]", size=12, tint="memory")
    arrow((552, 166), (580, 166))
    box(688, 56, 100, 64, "prior", shape, tint="prior", dashed=True)
    box(688, 212, 100, 64, "posterior", shape, tint="posterior")
    arrow((622, 140), (622, 88), (688, 88))
    arrow((622, 192), (622, 232), (688, 232))
    box(420, 308, 132, 52, "embedding", f"[B, {embed}]", tint="embedding")
    arrow((552, 334), (660, 334), (660, 256), (688, 256))
    sheet.note(738, 46, "MLP, 2 layers")
    sheet.note(738, 202, "MLP, 1 layer")
    box(688, 330, 100, 48, r"$z_t$", shape, size=12, tint="latent")
    arrow((738, 276), (738, 330))


def rssm_unrolled():
    """Draw six steps of the RSSM, three watched and three dreamed; figure and alt."""
    sheet = Sheet(800, 420)
    look = {"face": "#F7F9FB", "edge": "#CBD2D9", "round": 10, "layer": 0}
    for left, width, title, note in (
        (4, 392, "Watch", "z is thrown from the posterior, which has seen the frame"),
        (402, 394, "Dream", "there is no frame: z is thrown from the prior"),
    ):
        sheet.box(left, 4, width, 412, **look)
        sheet.text(left + 14, 22, title, size=11, weight="bold", ha="left")
        sheet.note(left + 14, 41, note, ha="left")
    for step, middle in enumerate((56, 184, 312, 454, 582, 710), 1):
        if step <= 3:
            _watched(sheet, middle, step)
        else:
            _dreamed(sheet, middle, step)
        if step < 6:
            _next_memory(sheet, middle, 142 if step == 3 else 128, step)
    alt = (
        "Six steps of the RSSM: in the three watched ones frame and memory give a "
        "posterior, z is thrown from it, and the KL compares it with the prior; in the "
        "three dreamed ones only the prior is left, and a decoder draws the frames."
    )
    return sheet.fig, alt


def _memory_and_prior(sheet, middle, step):
    """Draw the memory of one step and what it expects."""
    sheet.box(middle - 29, 308, 58, 50, rf"$h_{step}$", size=12, tint="memory")
    sheet.arrow((middle + 8, 308), (middle + 8, 272))
    look = {"size": 9, "tint": "prior", "dashed": True}
    sheet.box(middle - 18, 236, 52, 36, "prior", **look)


def _watched(sheet, middle, step):
    """Draw a step that sees its frame."""
    _memory_and_prior(sheet, middle, step)
    sheet.box(middle - 29, 62, 58, 38, rf"$x_{step}$", size=12, tint="real")
    sheet.arrow((middle, 100), (middle, 136))
    sheet.box(middle - 38, 136, 76, 36, "posterior", size=9, tint="posterior")
    sheet.arrow((middle - 26, 308), (middle - 26, 172))
    kl = {"color": COLORS["kl"], "style": (0, (3, 2)), "width": 1.8}
    sheet.arrow((middle + 8, 204), (middle + 8, 236), **kl)
    sheet.arrow((middle + 8, 204), (middle + 8, 172), **kl)
    sheet.text(middle - 6, 204, "KL", size=9, weight="bold", color=COLORS["kl"])
    sheet.arrow((middle + 38, 154), (middle + 64, 154), (middle + 64, 188))
    box = (middle + 48, 188, 32, 34)
    sheet.box(*box, rf"$z_{step}$", size=12, tint="latent")


def _dreamed(sheet, middle, step):
    """Draw a step that has no frame and may draw one."""
    _memory_and_prior(sheet, middle, step)
    look = {"size": 12, "tint": "dreamed", "dashed": True}
    sheet.box(middle - 29, 62, 58, 38, rf"$\hat x_{step}$", **look)
    sheet.arrow((middle + 34, 254), (middle + 48, 254))
    sheet.box(middle + 48, 237, 32, 34, rf"$z_{step}$", size=12, tint="latent")
    sheet.arrow((middle + 64, 237), (middle + 64, 81), (middle + 29, 81))
    sheet.line((middle - 26, 308), (middle - 26, 180), (middle + 64, 180))
    sheet.note(middle + 18, 170, "decoder")


def _next_memory(sheet, middle, wide, step):
    """Draw how memory, latent and action lead to the next memory."""
    corner, edge = middle + 64, middle + wide - 29
    sheet.line((corner, 222 if step <= 3 else 271), (corner, 320))
    sheet.arrow((corner, 320), (edge, 320))
    sheet.arrow((middle + 29, 333), (edge, 333), color=COLORS["memory"])
    sheet.box(corner - 16, 376, 32, 32, rf"$a_{step}$", size=12, tint="action")
    sheet.arrow((corner, 376), (corner, 347), (edge, 347))


def straight_through(raw, probs, thrown):
    """Draw a throw forwards and its straight-through gradient backwards.

    Args: raw, probs: the numbers of one die; thrown: the face that came up.
    """
    one_hot = [int(face == thrown) for face in range(len(probs))]
    shown = [", ".join(f"{x:g}" for x in raw), ", ".join(f"{x:.2f}" for x in probs)]
    sheet = Sheet(800, 220)
    sheet.text(12, 22, "forwards", size=9.5, weight="bold", ha="left")
    for left, width, name, note, tint in (
        (12, 140, "raw numbers", shown[0], "neutral"),
        (206, 160, "probabilities p", shown[1], "prior"),
        (420, 92, "throw", f"face {thrown}", "error"),
        (566, 128, "one-hot o", ", ".join(map(str, one_hot)), "latent"),
        (736, 54, "loss", None, "neutral"),
    ):
        sheet.box(left, 42, width, 56, name, note, tint=tint, note_size=9)
    for start, end in ((152, 206), (366, 420), (512, 566), (694, 736)):
        sheet.arrow((start, 70), (end, 70))
    look = {"color": COLORS["kl"], "style": (0, (4, 2)), "width": 2}
    sheet.arrow((763, 98), (763, 130), (640, 130), (640, 98), **look)
    sheet.arrow((612, 98), (612, 168), (300, 168), (300, 98), **look)
    sheet.arrow((272, 98), (272, 130), (82, 130), (82, 98), **look)
    sheet.line((466, 98), (466, 130), color=COLORS["error"], style=(0, (1, 2)))
    sheet.stop(466, 118, vertical=True)
    sheet.note(456, 118, "no gradient here", ha="right")
    words = "backwards: the gradient of o is handed to p as it is"
    sheet.text(456, 194, words, size=9.5, weight="bold", color=COLORS["kl"])
    alt = (
        f"Forwards, the probabilities {shown[1]} are thrown and give the one-hot of "
        f"face {thrown}; backwards, the gradient goes round the throw, from the "
        "one-hot straight to the probabilities."
    )
    return sheet.fig, alt
