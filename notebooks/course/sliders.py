"""Figures with sliders, which are one static figure where nothing can slide.

With a live kernel ``explore`` shows widgets. With ``DREAMER_LITE_STATIC=1``, or without
ipywidgets, the same cell shows one figure at the start values, so that readers on a
code host or on paper miss nothing. A static run also moves every control to each of its
ends once, unseen: a slider that breaks is found by the checks and not by the reader.
"""

import base64
import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from course.checks import same_random_numbers
from course.display import checked_alt, figure_png, in_notebook, publish


@dataclass(frozen=True)
class Slider:
    """A number from ``low`` to ``high`` in steps; integers stay integers."""

    low: float
    high: float
    step: float = 1
    value: float | None = None
    label: str | None = None

    def __post_init__(self):
        if not self.low < self.high or self.step <= 0:
            raise ValueError(f"A slider needs low < high and step > 0, got {self}.")
        if self.value is not None:
            self.accept("value", self.value)

    @property
    def start(self):
        return self.low if self.value is None else self.value

    @property
    def ends(self) -> tuple:
        return self.low, self.high

    def accept(self, name: str, value):
        if not self.low <= value <= self.high:
            raise ValueError(
                f"{name} goes from {self.low} to {self.high}, got {value}."
            )
        return round(value, 10)  # a widget says 1.4000000000000004 for 1.4

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

    def __post_init__(self):
        if not len(self.options):
            raise ValueError("A choice needs at least one option.")
        if self.value is not None:
            self.accept("value", self.value)

    @property
    def start(self):
        return self.options[0] if self.value is None else self.value

    @property
    def ends(self) -> tuple:
        return tuple(self.options)

    def accept(self, name: str, value):
        if value not in self.options:
            raise ValueError(f"{name} is one of {list(self.options)}, got {value!r}.")
        return value

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

    def __init__(self, draw: Callable, alt: str | Callable, controls: dict, live: bool):
        self.draw = draw
        self.alt = alt
        self.controls = controls
        self.live = live
        self.values = {name: control.start for name, control in controls.items()}
        self.widgets: dict = {}
        self.picture = None

    def move(self, **values):
        """Set controls as a reader would and return the new figure; needs no widget."""
        for name, value in values.items():
            if name not in self.controls:
                raise KeyError(
                    f"There is no control {name!r}; there are {sorted(self.controls)}."
                )
            self.values[name] = self.controls[name].accept(name, value)
        return self.figure()

    def figure(self):
        """Draw the figure at the present values."""
        fig = self.draw(**self.values)
        if not hasattr(fig, "savefig"):
            name = getattr(self.draw, "__name__", "the function")
            raise TypeError(
                f"{name} must return its figure, it returned {type(fig).__name__}."
            )
        return fig

    def sentence(self) -> str:
        """Return the alt sentence of the figure at the present values."""
        return checked_alt(self.alt(**self.values) if callable(self.alt) else self.alt)

    def page(self) -> str:
        """Draw the figure and return it as an HTML image with its alt sentence."""
        import matplotlib.pyplot as plt

        fig = self.figure()
        data = base64.b64encode(figure_png(fig)).decode()
        plt.close(fig)
        alt = html.escape(self.sentence())
        return f'<img alt="{alt}" src="data:image/png;base64,{data}">'

    def show_widgets(self) -> None:
        """Show the controls above the figure and redraw it whenever one moves."""
        import ipywidgets
        from IPython.display import display

        self.picture = ipywidgets.HTML(self.page())
        for name, control in self.controls.items():
            self.widgets[name] = control.widget(name, self.live)
            self.widgets[name].observe(self._moved, "value")
        rows = list(self.widgets.values())
        display(ipywidgets.VBox([*rows, self.picture]))

    def _moved(self, _change) -> None:
        for name, widget in self.widgets.items():
            self.values[name] = self.controls[name].accept(name, widget.value)
        self.refresh()

    def refresh(self) -> None:
        """Redraw the live picture; an error is shown in its place, as one sentence."""
        try:
            self.picture.value = self.page()
        except Exception as error:
            message = html.escape(f"{type(error).__name__}: {error}")
            self.picture.value = f"<pre>{message}</pre>"

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
    draw: Callable,
    alt: str | Callable,
    static: Callable | None = None,
    live: bool = True,
    **controls,
) -> Explorer:
    """Show ``draw(**values)`` with a control for each value.

    Args:
        draw: takes the controls by name and returns a matplotlib figure.
        alt: one sentence on the figure, or a function of the values that returns it.
        static: takes nothing and returns the figure for readers without a kernel, who
            otherwise see ``draw`` at the start values.
        live: redraw while a slider moves; False for slow figures: on its release.
        **controls: ``Slider(...)`` or ``Choice(...)``.
    """
    for name, control in controls.items():
        if not isinstance(control, (Slider, Choice)):
            raise TypeError(
                f"The control {name} must be a Slider or a Choice, got {control!r}."
            )
    explorer = Explorer(draw, alt, controls, live)
    if widgets_work():
        explorer.show_widgets()
        return explorer
    import matplotlib.pyplot as plt

    with same_random_numbers():
        fig = static() if static else explorer.figure()
    publish(figure_png(fig), explorer.sentence())
    plt.close(fig)
    with same_random_numbers():
        explorer.drive_to_the_ends()
    return explorer


def widgets_work() -> bool:
    """Tell whether widgets can be shown: a live notebook, ipywidgets, not static."""
    if os.environ.get("DREAMER_LITE_STATIC", "0") not in ("", "0") or not in_notebook():
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True
