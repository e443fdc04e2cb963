"""A sheet of paper measured in pixels, on which the diagrams are drawn."""

from course.style import COLORS

INK = COLORS["ink"]
QUIET = "#7B8794"


class Sheet:
    """A matplotlib figure of ``width`` x ``height`` pixels; y points downwards."""

    def __init__(self, width: int = 800, height: int = 400):
        import matplotlib.pyplot as plt

        self.fig = plt.figure(figsize=(width / 100, height / 100), dpi=100)
        self.fig.set_layout_engine("none")
        self.ax = self.fig.add_axes([0, 0, 1, 1])
        self.ax.set(xlim=(0, width), ylim=(height, 0))
        self.ax.axis("off")
        self.boxes = []

    def box(self, x, y, w, h, text="", *, face="white", edge=INK, color=None, **more):
        """Draw a rounded box with text in its middle and return its centre.

        ``size``, ``weight``, ``note`` (a smaller second line), ``note_size``, ``style``
        and ``width`` (of the outline) and ``round`` (of the corners) refine it.
        """
        from matplotlib.patches import FancyBboxPatch

        radius = more.get("round", 6)
        patch = FancyBboxPatch(
            (x + radius, y + radius),
            w - 2 * radius,
            h - 2 * radius,
            boxstyle=f"round,pad={radius},rounding_size={radius}",
            facecolor=face,
            edgecolor=edge,
            linewidth=more.get("width", 1.2),
            linestyle=more.get("style", "-"),
            zorder=more.get("layer", 2),
        )
        self.ax.add_patch(patch)
        middle, note = y + h / 2, more.get("note")
        size, color = more.get("size", 10), color or INK
        weight = more.get("weight", "normal")
        if note:
            gap = more.get("gap", 0.85 * size)
            self._inside(x, w, middle - gap, text, size, color, weight)
            self._inside(
                x, w, middle + gap, note, more.get("note_size", 8.2), color, "normal"
            )
        elif text:
            self._inside(x, w, middle, text, size, color, weight)
        return x + w / 2, middle

    def _inside(self, x, w, y, text, size, color, weight):
        label = self.text(x + w / 2, y, text, size=size, color=color, weight=weight)
        self.boxes.append((label, x, w))

    def text(self, x, y, text, *, size=9, color=INK, ha="center", **more):
        """Write text around the point (x, y)."""
        va = more.pop("va", "center_baseline" if "\n" not in text else "center")
        return self.ax.text(
            x, y, text, fontsize=size, color=color, ha=ha, va=va, zorder=6, **more
        )

    def arrow(self, *points, color=INK, style="-", width=1.3, head=True, layer=3):
        """Draw an arrow through the points; it ends with a head at the last one."""
        from matplotlib.patches import FancyArrowPatch

        if len(points) > 2:
            xs, ys = zip(*points[:-1], strict=True)
            self.ax.plot(
                xs,
                ys,
                color=color,
                linestyle=style,
                linewidth=width,
                zorder=layer,
                solid_capstyle="butt",
            )
        patch = FancyArrowPatch(
            points[-2],
            points[-1],
            arrowstyle="-|>,head_length=5,head_width=2.6" if head else "-",
            mutation_scale=1,
            shrinkA=0,
            shrinkB=0,
            color=color,
            linewidth=width,
            linestyle=style,
            zorder=layer,
            capstyle="butt",
            joinstyle="miter",
        )
        self.ax.add_patch(patch)

    def stop(self, x, y, *, vertical=False, color=COLORS["error"], size=6):
        """Draw the two bars of a stopped gradient across a line at (x, y)."""
        for shift in (-2, 2):
            xs, ys = (x + shift, x + shift), (y - size, y + size)
            if vertical:
                xs, ys = (x - size, x + size), (y + shift, y + shift)
            self.ax.plot(xs, ys, color=color, linewidth=2, zorder=5)

    def line(self, *points, color=QUIET, style="-", width=1.0, layer=1):
        """Draw a plain line through the points."""
        xs, ys = zip(*points, strict=True)
        self.ax.plot(
            xs, ys, color=color, linestyle=style, linewidth=width, zorder=layer
        )

    def badge(self, x, y, text, *, face=INK, color="white", edge=None, radius=10):
        """Draw a small disc with a number in it."""
        from matplotlib.patches import Circle

        edge = face if edge is None else edge
        self.ax.add_patch(
            Circle((x, y), radius, facecolor=face, edgecolor=edge, zorder=5)
        )
        self.text(
            x, y, text, size=7.5, color=color, weight="bold", va="center_baseline"
        )
