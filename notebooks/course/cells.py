"""One step of the RSSM with the shapes of a real model in its boxes."""

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
