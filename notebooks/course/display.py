"""Show figures, images and animations, each with a sentence for the blind.

The sentence is stored twice in the notebook: as ``text/plain``, which nbval compares,
and as ``alt`` in the metadata of the PNG, which our site writes into its pages.
"""

import base64
import html
import io
from pathlib import Path

import numpy as np

from course.checks import as_array, static

UNSEEN = "opacity:0; height:1px; font-size:1px; overflow:hidden"  # read aloud only


def show(fig, alt: str, dpi: int = 100) -> None:
    """Show a matplotlib figure as a PNG with its alt sentence, then close it.

    Args:
        fig: a ``matplotlib.figure.Figure``.
        alt: what the figure shows, in one sentence that also says what to see in it.
        dpi: pixels per inch of the PNG.
    """
    import matplotlib.pyplot as plt

    png = figure_png(fig, dpi)
    plt.close(fig)
    publish(png, alt)


def show_gif(frames, alt: str, caption: str | None = None, fps: float = 8, scale=2):
    """Show an animation that loops, with its alt sentence and a caption below.

    It is stored as an animated PNG: browsers, JupyterLab, Colab, nbconvert and our site
    play it like any picture, while ``image/gif`` is lost by nbconvert.

    Args:
        frames: ``[T, H, W, 3]`` or ``[T, H, W]``, uint8 or float in 0 to 1, or the
            path of a GIF.
        alt: what happens, in one sentence.
        caption: one line below the animation, for everybody.
        fps: frames per second (a GIF file keeps its own speed).
        scale: how often each pixel is repeated in both directions.
    """
    if isinstance(frames, (str, Path)):
        frames, fps = read_gif(frames)
        scale = 1
    publish(animation_png(as_frames(frames, "frames"), scale, fps), alt)
    _caption(caption)


def progress(steps):
    """Return an iterable, or a count, with a progress bar for a reader who waits."""
    steps = range(steps) if isinstance(steps, int) else steps
    if static() or not in_notebook():
        return steps
    from tqdm import tqdm

    return tqdm(steps, leave=False)


def figure_png(fig, dpi: int = 100, source: str | None = None) -> bytes:
    """Return the PNG of a figure; the same figure always gives the same bytes.

    ``source``, if given, is stored in the file as the text ``Source``.
    """
    from PIL import Image, PngImagePlugin

    drawn, buffer = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    # 256 colours are enough to look at, and make a third of the bytes.
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    about = PngImagePlugin.PngInfo()
    if source is not None:
        about.add_text("Source", source)
    picture.save(buffer, format="PNG", optimize=True, pnginfo=about)
    return buffer.getvalue()


def animation_png(frames: np.ndarray, scale: int = 1, fps: float = 8) -> bytes:
    """Return uint8 ``[T, H, W, C]`` as the bytes of a PNG, animated if ``T > 1``.

    All frames of an animation share one palette of 256 colours, which makes it about a
    third as large.
    """
    from PIL import Image

    frames = np.repeat(np.repeat(frames, scale, axis=1), scale, axis=2)
    pages = [Image.fromarray(f[..., 0] if f.shape[-1] == 1 else f) for f in frames]
    more = {}
    if len(pages) > 1:
        if pages[0].mode == "RGB":
            sample = np.concatenate(
                frames[:: max(1, len(frames) // 16), ::scale, ::scale]
            )
            palette = Image.fromarray(sample).quantize(256)
            pages = [page.quantize(palette=palette, dither=0) for page in pages]
        more = {"save_all": True, "append_images": pages[1:], "loop": 0}
        more["duration"] = round(1000 / fps)
    buffer = io.BytesIO()
    pages[0].save(buffer, format="PNG", optimize=True, **more)
    return buffer.getvalue()


def read_gif(path: str | Path) -> tuple[np.ndarray, float]:
    """Return the frames of a GIF, uint8 ``[T, H, W, 3]``, and how many per second."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        milliseconds = image.info.get("duration") or 125
        pages = ImageSequence.Iterator(image)
        return np.stack(
            [np.asarray(p.convert("RGB")) for p in pages]
        ), 1000 / milliseconds


def as_frames(frames, name: str) -> np.ndarray:
    """Return frames as uint8 ``[T, H, W, C]``, C 1 or 3, or say what is wrong."""
    array = as_array(frames)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or not len(array):
        raise ValueError(
            f"Expected {name} as [T, H, W], [T, H, W, 1] or [T, H, W, 3], "
            f"got shape {list(array.shape)}."
        )
    if array.dtype == np.uint8:
        return array
    return np.round(255 * np.clip(array, 0, 1)).astype(np.uint8)


def checked_alt(alt: str) -> str:
    """Return the alt sentence, or say what is missing in it."""
    if (
        not isinstance(alt, str)
        or len(alt.split()) < 4
        or not alt.strip().endswith(".")
    ):
        raise ValueError(
            "Every picture needs alt= one full sentence that ends with a full stop, "
            f"got {alt!r}."
        )
    return " ".join(alt.split())


def publish(png: bytes, alt: str, live: bool = False) -> "Shown | None":
    """Send a PNG with its alt sentence to the notebook; elsewhere print the latter.

    JupyterLab and nbconvert do not read the ``alt`` of the metadata, so the sentence
    follows once more as a line that is there for screen readers only.

    Returns: with ``live``, what is shown, to be replaced by its ``update``.
    """
    if not in_notebook():
        print(checked_alt(alt))
        return None
    shown = Shown(live)
    shown.update(png, alt)
    return shown if live else None


class Shown:
    """A picture in a notebook and its sentence for screen readers."""

    def __init__(self, live: bool):
        self.live, self.handles = live, None

    def update(self, png: bytes, alt: str) -> None:
        """Show a picture, in place of the one before."""
        from IPython.display import display

        alt = checked_alt(alt)
        picture = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
        spoken = f'<div style="{UNSEEN}">{html.escape(alt)}</div>'
        bundles = (
            (picture, {"image/png": {"alt": alt}}),
            ({"text/html": spoken, "text/plain": alt}, {}),
        )
        if self.handles:
            for handle, (data, about) in zip(self.handles, bundles):
                handle.update(data, metadata=about, raw=True)
            return
        more = {"display_id": True} if self.live else {}
        self.handles = [
            display(data, metadata=about, raw=True, **more) for data, about in bundles
        ]


def in_notebook() -> bool:
    """Tell whether an IPython shell is there to receive rich output."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None


def _caption(text: str | None) -> None:
    if not text:
        return
    if not in_notebook():
        print(text)
        return
    from IPython.display import display

    display({"text/markdown": f"*{text}*", "text/plain": text}, raw=True)
