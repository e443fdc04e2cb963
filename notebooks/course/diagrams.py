"""The map of Dreamer, drawn by code, with the part of one notebook lit."""

from course.drawing import INK, QUIET, Sheet
from course.style import COLORS

LIT = "#0B3C6F"
BUILT = "#DCE8F3"
GREY = "#616E7C"
LOOKS = {
    "lit": (
        {"face": LIT, "edge": LIT, "color": "white", "weight": "bold", "width": 2.5},
        {"face": COLORS["dreamed"], "edge": LIT, "color": INK},
    ),
    "built": (
        {"face": BUILT, "edge": LIT, "color": INK},
        {"face": "white", "edge": LIT, "color": LIT},
    ),
    "to come": (
        {"face": "white", "edge": QUIET, "color": GREY, "style": (0, (4, 3))},
        {"face": "white", "edge": QUIET, "color": GREY},
    ),
}
SAID = {
    "symlog": "symlog, which squashes numbers of every size",
    "two_hot": "two-hot, which predicts a number as a distribution",
    "replay": "the replay memory between the game and the learning",
    "networks": "the encoder and the decoder",
    "rssm": "the recurrent state-space model, which remembers and which imagines",
    "world_model": "the world model with its heads for reward and continuation",
    "lambda_returns": "the lambda-returns that judge imagined steps",
    "actor_critic": "actor and critic, which learn inside the dream",
    "dreamer": "the loop that joins acting, world model and dreaming",
    "mario": "the game itself, Super Mario Bros.",
}
PARTS = tuple(SAID)


def dreamer_map(part: str):
    """Draw the map of Dreamer with ``part`` lit; return figure and alt sentence.

    Args:
        part: a module's name, from "symlog" (notebook 01) to "mario" (notebook 10).
    """
    sheet = _Map(part)
    sheet.acting()
    sheet.world_model()
    sheet.dreaming()
    sheet.arrows()
    sheet.foundation()
    sheet.key()
    number = PARTS.index(part) + 1
    alt = (
        "Map of Dreamer in three columns, acting in the game, learning a world model, "
        "learning to act in the dream; an arrow follows the agent as it acts, from the "
        f"frame to encoder, RSSM and actor; lit is part {number}, {SAID[part]}."
    )
    return sheet.fig, alt


class _Map(Sheet):
    """The map; every node knows whether it is lit, built before or still to come."""

    def __init__(self, part: str):
        super().__init__(800, 442)
        self.now = PARTS.index(part) + 1

    def state(self, owner: str) -> str:
        """Return "lit", "built" or "to come"."""
        number = PARTS.index(owner) + 1
        if number == self.now:
            return "lit"
        return "built" if number < self.now else "to come"

    def node(self, x, y, w, h, text, owner, note=None):
        """Draw one part of Dreamer with the number of the notebook that builds it."""
        look, badge = LOOKS[self.state(owner)]
        self.box(x, y, w, h, text, note, size=10.5, **look)
        self.badge(x + w - 3, y + 3, f"{PARTS.index(owner) + 1:02d}", **badge)

    def panel(self, x, w, title, lit=False):
        """Draw one of the three columns."""
        look = {"edge": LIT, "width": 2.5} if lit else {"edge": "#CBD2D9", "width": 1}
        self.box(x, 30, w, 274, face="#F7F9FB", round=10, layer=0, **look)
        self.text(x + 2, 14, title, size=11, weight="bold", ha="left")

    def acting(self):
        """Draw the first column: the game and the memory of it."""
        self.panel(10, 196, "1  Act in the game")
        self.node(34, 76, 148, 56, "Super Mario", "mario", "the environment")
        self.node(34, 230, 148, 56, "Replay", "replay", "what happened")

    def world_model(self):
        """Draw the second column: encoder, RSSM, decoder and heads."""
        self.panel(
            222, 286, "2  Learn a world model", self.state("world_model") == "lit"
        )
        self.node(240, 76, 118, 56, "Decoder", "networks", "numbers to frame")
        self.node(372, 76, 118, 56, "Heads", "world_model", "reward, continue")
        self.node(240, 154, 250, 56, "RSSM", "rssm", "memory h and latent z")
        self.node(240, 230, 118, 56, "Encoder", "networks", "frame to numbers")

    def dreaming(self):
        """Draw the third column: imagination, returns, actor and critic."""
        self.panel(524, 266, "3  Learn in the dream")
        self.node(548, 76, 102, 56, "Actor", "actor_critic", "what to do")
        self.node(664, 76, 102, 56, "Critic", "actor_critic", "how good it is")
        self.node(548, 154, 218, 56, "Imagination", "rssm", "15 steps of dream")
        self.node(
            548, 230, 218, 56, r"$\lambda$-returns", "lambda_returns", "how good it was"
        )

    def arrows(self):
        """Draw what flows between the parts."""
        acting = {"color": COLORS["action"], "width": 2.2}
        self.arrow((599, 76), (599, 50), (108, 50), (108, 76), **acting)
        self.note(365, 42, "action", size=8.5)
        self.arrow((108, 132), (108, 230))
        self.note(118, 181, "frame, reward\nand end", size=8.5, ha="left")
        self.arrow((182, 258), (240, 258))
        self.arrow((300, 230), (300, 210))
        self.arrow((300, 154), (300, 132))
        self.arrow((430, 154), (430, 132))
        self.arrow((490, 182), (548, 182))
        self.arrow((599, 132), (599, 154))
        self.arrow((657, 210), (657, 230))
        self.arrow((548, 258), (536, 258), (536, 104), (548, 104))
        self.arrow((766, 258), (778, 258), (778, 104), (766, 104))
        self.arrow((182, 104), (231, 104), (231, 246), (240, 246), **acting)
        self.arrow((490, 168), (516, 168), (516, 62), (576, 62), (576, 76), **acting)

    def foundation(self):
        """Draw what carries the three columns: numbers of every size and the loop."""
        self.node(10, 318, 382, 36, "symlog squashes any number", "symlog")
        self.node(408, 318, 382, 36, "two-hot predicts it", "two_hot")
        self.node(
            10, 366, 780, 36, "Dreamer: one loop of acting and learning", "dreamer"
        )

    def key(self):
        """Say what the three looks of a box mean."""
        x = 10
        for name, text in (
            ("lit", "this notebook"),
            ("built", "built before"),
            ("to come", "still to come"),
        ):
            self.box(x, 416, 26, 16, round=4, **LOOKS[name][0])
            self.text(x + 34, 424, text, size=8.5, ha="left")
            x += 150
        self.arrow((x, 424), (x + 26, 424), color=COLORS["action"], width=2.2)
        self.text(x + 34, 424, "how the agent acts", size=8.5, ha="left")
        self.note(790, 424, "the number is the notebook", size=8.5, ha="right")
