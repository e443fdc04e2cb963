"""A sheet of paper measured in pixels, on which the diagrams are drawn."""

from course.style import COLORS

INK = COLORS["ink"]
QUIET = "#7B8794"


class Sheet:
    """A matplotlib figure of ``width`` x ``height`` pixels; y points downwards.

    ``left`` is added to every x, so that a part can be drawn further to the right.
    """

    def __init__(self, width: int = 800, height: int = 400):
        import matplotlib.pyplot as plt

        self.fig = plt.figure(figsize=(width / 100, height / 100), dpi=100)
        self.fig.set_layout_engine("none")
        self.ax = self.fig.add_axes([0, 0, 1, 1])
        self.ax.set(xlim=(0, width), ylim=(height, 0))
        self.ax.axis("off")
        self.boxes, self.left = [], 0

    def box(self, x, y, w, h, text="", note=None, *, tint=None, dashed=False, **more):
        """Draw a rounded box with text, and below it a smaller note, in its middle.

        ``tint`` outlines it in a quantity's colour. ``size``, ``note_size``,
        ``weight``, ``face``, ``edge``, ``color``, ``style``, ``width``, ``layer``
        and ``round`` refine it.
        """
        from matplotlib.patches import FancyBboxPatch

        radius, x = more.get("round", 6), x + self.left
        patch = FancyBboxPatch(
            (x + radius, y + radius),
            w - 2 * radius,
            h - 2 * radius,
            boxstyle=f"round,pad={radius},rounding_size={radius}",
            facecolor=more.get("face", "white"),
            edgecolor=COLORS[tint] if tint else more.get("edge", INK),
            linewidth=more.get("width", 2 if tint else 1.2),
            linestyle=(0, (4, 2)) if dashed else more.get("style", "-"),
            zorder=more.get("layer", 2),
        )
        self.ax.add_patch(patch)
        size, color = more.get("size", 10), more.get("color", INK)
        gap = 0.85 * size if note else 0
        small = {"size": more.get("note_size", 8.2), "color": color}
        large = {"size": size, "color": color, "weight": more.get("weight", "normal")}
        for words, shift, look in ((text, -gap, large), (note, gap, small)):
            if words:
                middle = x - self.left + w / 2
                label = self.text(middle, y + h / 2 + shift, words, **look)
                self.boxes.append((label, x, w))

    def text(self, x, y, text, *, size=9, color=INK, ha="center", **more):
        """Write text around the point (x, y)."""
        va = "center_baseline" if "\n" not in text else "center"
        more |= {"fontsize": size, "color": color, "ha": ha, "va": va, "zorder": 6}
        return self.ax.text(x + self.left, y, text, **more)

    def note(self, x, y, text, size=8.2, ha="center"):
        """Write a quiet remark."""
        return self.text(x, y, text, size=size, color=QUIET, ha=ha)

    def line(self, *points, color=INK, style="-", width=1.3, layer=1):
        """Draw a line through the points."""
        xs, ys = zip(*points)
        xs = [x + self.left for x in xs]
        look = {"color": color, "linestyle": style, "linewidth": width}
        self.ax.plot(xs, ys, zorder=layer, solid_capstyle="butt", **look)

    def arrow(self, *points, color=INK, style="-", width=1.3):
        """Draw an arrow through the points; it ends with a head at the last one."""
        from matplotlib.patches import FancyArrowPatch

        look = {"color": color, "linestyle": style, "linewidth": width, "zorder": 3}
        if len(points) > 2:
            self.line(*points[:-1], color=color, style=style, width=width, layer=3)
        ends = [(x + self.left, y) for x, y in points[-2:]]
        head = "-|>,head_length=5,head_width=2.6"
        look |= {"shrinkA": 0, "shrinkB": 0, "capstyle": "butt", "joinstyle": "miter"}
        patch = FancyArrowPatch(*ends, arrowstyle=head, mutation_scale=1, **look)
        self.ax.add_patch(patch)

    def stop(self, x, y, *, vertical=False, size=6):
        """Draw the two bars of a stopped gradient across a line at (x, y)."""
        for shift in (-2, 2):
            points = ((x + shift, y - size), (x + shift, y + size))
            if vertical:
                points = ((x - size, y + shift), (x + size, y + shift))
            self.line(*points, color=COLORS["error"], width=2, layer=5)

    def badge(self, x, y, text, *, face=INK, color="white", edge=None):
        """Draw a small disc with a number in it."""
        from matplotlib.patches import Circle

        look = {"facecolor": face, "edgecolor": edge or face, "zorder": 5}
        self.ax.add_patch(Circle((x + self.left, y), 10, **look))
        self.text(x, y, text, size=7.5, color=color, weight="bold")
