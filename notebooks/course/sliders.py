"""Figures with sliders, which are one static figure where nothing can slide.

With a live kernel ``explore`` shows widgets. With ``DREAMER_LITE_STATIC=1``, or without
ipywidgets, the same cell shows one figure at the start values, so that readers on a
code host or on paper miss nothing. A static run also moves every control to each of its
ends once, unseen: a slider that breaks is found by the checks and not by the reader.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from course.checks import same_random_numbers
from course.checks import static as in_static_run
from course.display import checked_alt, figure_png, in_notebook, publish

SLOW = 0.2  # seconds that a drawing may take to follow a slider that moves


@dataclass(frozen=True)
class Slider:
    """A number from ``low`` to ``high`` in steps; integers stay integers."""

    low: float
    high: float
    step: float = 1
    value: float | None = None
    label: str | None = None

    @property
    def start(self):
        return self.low if self.value is None else self.value

    @property
    def ends(self) -> tuple:
        return self.low, self.high

    def widget(self, name: str, live: bool):
        import ipywidgets

        whole = all(
            isinstance(x, int) for x in (self.low, self.high, self.step, self.start)
        )
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        more = {} if whole else {"readout_format": ".3g"}
        return kind(
            value=self.start,
            min=self.low,
            max=self.high,
            step=self.step,
            description=self.label or name,
            continuous_update=live,
            style={"description_width": "initial"},
            layout={"width": "380px"},
            **more,
        )


@dataclass(frozen=True)
class Choice:
    """One of several options, drawn as a row of buttons."""

    options: Sequence
    value: Any = None
    label: str | None = None

    @property
    def start(self):
        return self.options[0] if self.value is None else self.value

    @property
    def ends(self) -> tuple:
        return tuple(self.options)

    def widget(self, name: str, live: bool):
        import ipywidgets

        return ipywidgets.ToggleButtons(
            options=[(str(option), option) for option in self.options],
            value=self.start,
            description=self.label or name,
            style={"description_width": "initial", "button_width": "auto"},
        )


class Explorer:
    """What ``explore`` returns: how to draw, the controls and their values."""

    def __init__(self, draw: Callable, alt: str | Callable, controls: dict):
        self.draw = draw
        self.alt = alt
        self.controls = controls
        self.values = {name: control.start for name, control in controls.items()}
        self.widgets: dict = {}
        self.shown = None

    def move(self, **values):
        """Set controls as a reader would and return the new figure; needs no widget."""
        self.values |= values
        return self.figure()

    def figure(self):
        """Draw the figure at the present values."""
        return self.draw(**self.values)

    def sentence(self) -> str:
        """Return the alt sentence of the figure at the present values."""
        return checked_alt(self.alt(**self.values) if callable(self.alt) else self.alt)

    def picture(self) -> tuple[bytes, str]:
        """Draw the figure and return it as a PNG with its alt sentence."""
        import matplotlib.pyplot as plt

        fig = self.figure()
        png = figure_png(fig)
        plt.close(fig)
        return png, self.sentence()

    def show(self) -> None:
        """Show the figure and below it the controls, which redraw it when they move.

        The figure is an output of its own, so that a reader of the saved notebook, who
        has no widgets, still sees it as it was last.
        """
        start = time.perf_counter()
        self.shown = publish(*self.picture(), live=True)
        seconds = time.perf_counter() - start
        if seconds > SLOW:  # the first figure of all also loads the fonts
            start = time.perf_counter()
            self.picture()
            seconds = time.perf_counter() - start
        for name, control in self.controls.items():
            self.widgets[name] = control.widget(name, seconds <= SLOW)
            self.widgets[name].observe(self._moved, "value")
        show_widgets(list(self.widgets.values()), ", ".join(self.widgets))

    def _moved(self, _change) -> None:
        for name, widget in self.widgets.items():
            value = widget.value  # which may be 1.4000000000000004 for 1.4
            self.values[name] = round(value, 10) if type(value) is float else value
        self.refresh()

    def refresh(self) -> None:
        """Redraw the shown picture at the present values."""
        self.shown.update(*self.picture())

    def drive_to_the_ends(self) -> None:
        """Draw with every control at each of its ends, unseen; restore the values."""
        import matplotlib.pyplot as plt

        start = dict(self.values)
        for name, control in self.controls.items():
            for value in control.ends:
                self.values = dict(start) | {name: value}
                plt.close(self.figure())
                self.sentence()
        self.values = start

    def _ipython_display_(self) -> None:
        """Print nothing when ``explore`` is the last line of a cell."""


def explore(
    draw: Callable, alt: str | Callable, static: Callable | None = None, **controls
) -> Explorer:
    """Show ``draw(**values)`` with a control for each value.

    A figure that takes longer than ``SLOW`` seconds is redrawn on a slider's release.

    Args:
        draw: takes the controls by name and returns a matplotlib figure.
        alt: one sentence on the figure, or a function of the values that returns it.
        static: takes nothing and returns the figure for readers without a kernel, and
            its sentence. Without it they see ``draw`` at the start values.
        **controls: ``Slider(...)`` or ``Choice(...)``.
    """
    explorer = Explorer(draw, alt, controls)
    if widgets_work():
        explorer.show()
        return explorer
    import matplotlib.pyplot as plt

    with same_random_numbers():
        if static:
            fig, sentence = static()
        else:
            fig, sentence = explorer.figure(), explorer.sentence()
    publish(figure_png(fig), sentence)
    plt.close(fig)
    with same_random_numbers():
        explorer.drive_to_the_ends()
    return explorer


def show_widgets(rows: list, names: str) -> None:
    """Show widgets, and to a reader without a kernel a line about what they move."""
    import ipywidgets
    from IPython.display import display

    box = ipywidgets.VBox(rows)
    if not hasattr(box, "_repr_mimebundle_"):  # ipywidgets 7, as on Colab
        display(box)
        return
    data = box._repr_mimebundle_()
    data["text/plain"] = f"(run this cell to move {names})"
    display(data, raw=True)


def widgets_work() -> bool:
    """Tell whether widgets can be shown: a live notebook, ipywidgets, not static."""
    if in_static_run() or not in_notebook():
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True
