"""One step of the RSSM with the shapes of a real model in its boxes."""

from course.drawing import QUIET, Sheet
from course.style import COLORS


def rssm_cell(
    embed_size: int = 1024,
    action_size: int = 5,
    deter: int = 1024,
    units: int = 128,
    latents: int = 32,
    classes: int = 8,
    blocks: int = 8,
):
    """Draw one step of the block-GRU RSSM and return the figure and its alt sentence.

    Args: the sizes of the RSSM's constructor; they are written into the boxes.
    """
    if deter % blocks:
        raise ValueError(
            f"deter must be a multiple of blocks, got {deter} and {blocks}."
        )
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


def _tinted(quantity, **more):
    return {"edge": COLORS[quantity], "width": 2, **more}


def _inputs(sheet, deter, stoch, actions, units, latent):
    """Draw the three inputs and the layer that brings each to the same width."""
    rows = (
        (76, r"$h_{t-1}$", f"[B, {deter}]", "memory", deter),
        (166, r"$z_{t-1}$", f"[B, {latent[0]}, {latent[1]}]", "latent", stoch),
        (256, r"$a_{t-1}$", f"[B, {actions}]", "action", actions),
    )
    for y, name, shape, quantity, size in rows:
        sheet.box(14, y - 26, 92, 52, name, note=shape, size=12, **_tinted(quantity))
        sheet.box(
            134, y - 22, 104, 44, "MLP, 1 layer", note=f"{size} to {units}", size=9
        )
        sheet.arrow((106, y), (134, y))
        sheet.line((238, y), (254, y), width=1.3, color="#1F2933")
    sheet.line((254, 76), (254, 256), width=1.3, color="#1F2933")
    sheet.arrow((254, 166), (272, 166))


def _core(sheet, deter, units, blocks):
    """Draw the block-diagonal layers, the gates and the memory's own way through."""
    each = deter // blocks
    sheet.box(272, 112, 128, 108, face="white", **_tinted("neutral"))
    sheet.text(336, 134, f"{blocks} blocks", size=10, weight="bold")
    sheet.text(336, 156, f"each: own {each} of h", size=8.2)
    sheet.text(336, 174, f"+ shared 3 x {units}", size=8.2)
    sheet.text(336, 198, f"[B, {deter}], norm, SiLU", size=8.2, color=QUIET)
    sheet.arrow((60, 50), (60, 28), (336, 28), (336, 112), color=COLORS["memory"])
    sheet.arrow((400, 166), (420, 166))
    sheet.box(420, 112, 132, 108, face="white", **_tinted("neutral"))
    sheet.text(486, 134, "gates", size=10, weight="bold")
    sheet.text(486, 156, "reset, candidate", size=8.2)
    sheet.text(486, 174, "update (bias -1)", size=8.2)
    sheet.text(486, 198, f"[B, 3 x {deter}]", size=8.2, color=QUIET)
    sheet.arrow((336, 28), (486, 28), (486, 112), color=COLORS["memory"])
    sheet.text(
        345,
        18,
        r"$h_t$ = update $\cdot$ candidate + (1 - update) $\cdot$ $h_{t-1}$",
        size=9,
        ha="left",
    )


def _outputs(sheet, deter, units, embed, latents, classes):
    """Draw the new memory, the prior from it, the posterior with the embedding."""
    shape = f"[B, {latents}, {classes}]"
    sheet.box(
        580, 140, 84, 52, r"$h_t$", note=f"[B, {deter}]", size=12, **_tinted("memory")
    )
    sheet.arrow((552, 166), (580, 166))
    dashed = _tinted("prior", style=(0, (4, 2)))
    sheet.box(688, 56, 100, 64, "prior", note=shape, **dashed)
    sheet.box(688, 212, 100, 64, "posterior", note=shape, **_tinted("posterior"))
    sheet.arrow((622, 140), (622, 88), (688, 88))
    sheet.arrow((622, 192), (622, 232), (688, 232))
    sheet.box(
        420, 308, 132, 52, "embedding", note=f"[B, {embed}]", **_tinted("embedding")
    )
    sheet.arrow((552, 334), (660, 334), (660, 256), (688, 256))
    sheet.text(738, 46, "MLP, 2 layers", size=8.2, color=QUIET)
    sheet.text(738, 202, "MLP, 1 layer", size=8.2, color=QUIET)
    sheet.box(688, 330, 100, 48, r"$z_t$", note=shape, size=12, **_tinted("latent"))
    sheet.arrow((738, 276), (738, 330))
