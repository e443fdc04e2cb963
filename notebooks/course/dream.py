"""Widgets for dreams: a scrubber over recorded frames and an action pad that steers."""

from collections.abc import Callable, Sequence

import numpy as np

from course.checks import as_array
from course.display import as_frames, checked_alt, figure_png, publish
from course.figures import error_frames, frames_grid, strip
from course.sliders import Explorer, Slider, explore, show_widgets, widgets_work


def scrub(real, dreamed, alt: str, context: int = 0, columns: int = 8) -> Explorer:
    """Show a slider over ``real / dreamed / error`` frames; its static twin is a strip.

    Args:
        real, dreamed: clips ``[T, H, W, C]``, uint8 or floats in 0 to 1.
        alt: one sentence on what happens between the first and the last frame.
        context: the first so many steps were seen by the model.
        columns: how many steps the strip shows.
    """
    real, dreamed = as_frames(real, "real"), as_frames(dreamed, "dreamed")
    clips = {"real": real, "dreamed": dreamed, "error": error_frames(real, dreamed)}

    def draw(t: int):
        now = [np.broadcast_to(c[t], (*c.shape[1:3], 3)) for c in clips.values()]
        seen = "seen" if t < context else "dreamed on its own"
        return frames_grid(np.stack(now), list(clips), 3, title=f"t = {t}: {seen}")

    def still():
        return strip(real, dreamed, columns=columns, context=context), alt

    return explore(
        draw, alt, static=still, t=Slider(0, len(real) - 1, 1, label="time t")
    )


class ActionPad:
    """What ``action_pad`` returns: the frames so far and the actions behind them."""

    def __init__(self, step: Callable, reset: Callable, actions: Sequence[str]):
        self.step = step
        self.start = reset
        self.actions = list(actions)
        self.reset()

    def reset(self) -> None:
        """Begin the dream again."""
        self.frames = [self._frame(self.start())]
        self.history: list[str] = []

    def press(self, action: str) -> np.ndarray:
        """Take one step inside the dream and return the frame that it leads to."""
        self.frames.append(self._frame(self.step(self.actions.index(action))))
        self.history.append(action)
        return self.frames[-1]

    def figure(self, last: int = 8):
        """Draw the last frames, each above the action that led to it."""
        labels = ["start", *(f"{i}: {name}" for i, name in enumerate(self.history, 1))]
        return frames_grid(np.stack(self.frames[-last:]), labels[-last:], columns=last)

    @staticmethod
    def _frame(frame) -> np.ndarray:
        return as_frames(as_array(frame)[None], "the frame")[0]

    def _ipython_display_(self) -> None:
        """Print nothing when ``action_pad`` is the last line of a cell."""


def action_pad(
    step: Callable,
    reset: Callable,
    actions: Sequence[str],
    alt: str,
    script: Sequence[str],
) -> ActionPad:
    """Steer inside a dream: one button per action, each press is one step of the model.

    Args:
        step: takes the index of an action and returns the next frame, ``[H, W, C]``.
        reset: takes nothing, starts the dream again and returns its first frame.
        actions: the names of the actions, in the order of their indices.
        alt: one sentence on the static twin.
        script: the actions that the static twin presses.
    """
    pad = ActionPad(step, reset, actions)
    if widgets_work():
        _show_buttons(pad)
        return pad
    import matplotlib.pyplot as plt

    for action in script:
        pad.press(action)
    fig = pad.figure()
    publish(figure_png(fig), checked_alt(alt))
    plt.close(fig)
    return pad


def _show_buttons(pad: ActionPad) -> None:
    import ipywidgets

    def alt() -> str:
        return f"The dream after {', '.join(pad.history[-8:]) or 'no action yet'}."

    explorer = Explorer(pad.figure, alt, {})
    explorer.shown = publish(*explorer.picture(), live=True)
    again = ipywidgets.Button(description="start again", icon="refresh")
    buttons = [ipywidgets.Button(description=name) for name in pad.actions]

    def pressed(button) -> None:
        pad.reset() if button is again else pad.press(button.description)
        explorer.refresh()

    pad.buttons = [*buttons, again]
    for button in pad.buttons:
        button.on_click(pressed)
    show_widgets([ipywidgets.HBox(pad.buttons)], "on in the dream")
